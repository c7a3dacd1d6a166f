"""What was seen of Transformer Engine."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.checks.libraries.facts import LoadedLibrary
from fp8doctor.model import Caption, Facts, NotApplicable

# Values of `TransformerEngine.attempting`; while a recipe is tried it holds the recipe's name.
IMPORTING_TORCH = "import torch"
IMPORTING = "import transformer_engine.pytorch"

# What every finding on it is about, and what its rules say where it is not installed.
ABOUT = "package:transformer-engine"
ABSENT = NotApplicable("Transformer Engine is not installed")


@dataclass(frozen=True)
class Recipe:
    """One scaling recipe: what Transformer Engine says of it, and what came of one linear layer's forward."""

    # The class in transformer_engine.common.recipe.
    name: str | None = None
    # Transformer Engine's own answer for this GPU and this build, and its reason where the answer is no.
    available: bool | None = None
    reason: str | None = None
    # True if the forward returned; None if none was tried.
    forward_ok: bool | None = None
    finite: bool | None = None
    # Relative Frobenius error against the same product in FP64, what rounding to the format costs by itself, and the
    # most that it explains.
    relative_error: float | None = None
    relative_error_expected: float | None = None
    relative_error_limit: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class TransformerEngine(Facts, key="transformer_engine"):
    """Transformer Engine in the examined environment. `installed=False`: looked for, and not there."""

    installed: bool | None = None
    version: str | None = None
    # Version by distribution; a build from source or a vendor's image has only "transformer-engine".
    packages: dict[str, str] | None = None
    # What `import torch` raised: then nothing can be said of Transformer Engine.
    torch_error: str | None = None
    import_ok: bool | None = None
    # The exception, or the signal that ended the process.
    import_error: str | None = None
    # Seconds for transformer_engine.pytorch alone, torch being there already.
    import_s: float | None = None
    # cuDNN's libraries in a process that imported torch and then Transformer Engine, and the version that torch then
    # calls; None where torch cannot say it.
    cudnn: tuple[LoadedLibrary, ...] | None = None
    cudnn_version: str | None = None
    recipes: tuple[Recipe, ...] | None = None
    # What was being tried when this record was written.
    attempting: str | None = None

    def caption(self) -> Caption | None:
        """Transformer Engine's version, where it is installed."""
        return Caption(32, f"TE {self.version}") if self.installed and self.version else None
