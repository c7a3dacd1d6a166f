"""What was seen of the FlashAttention packages."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Caption, Facts


@dataclass(frozen=True)
class Generation:
    """One generation of FlashAttention. `installed=False`: looked for, and not there."""

    generation: int | None = None  # 2 | 3 | 4
    installed: bool | None = None
    # The distribution that brings it, if importlib.metadata knows one.
    distribution: str | None = None
    version: str | None = None
    # Names under which its code was found, without importing it; empty: metadata without code.
    modules: tuple[str, ...] | None = None
    # The module that was asked for flash_attn_func, and whether it gave it.
    module: str | None = None
    imported: bool | None = None
    # Of the BF16 call, or of the import if that failed:
    # "ok", "wrong" (ran, not right), "refused" (said that it does not do this), "error", "crashed", "timeout"
    outcome: str | None = None
    error: str | None = None
    relative_error: float | None = None
    relative_error_limit: float | None = None
    head_dim: int | None = None
    # The same call with e4m3 operands; made where the BF16 call was right.
    fp8_outcome: str | None = None
    fp8_error: str | None = None
    fp8_relative_error: float | None = None
    fp8_relative_error_limit: float | None = None
    # Why it was not called.
    not_called: str | None = None


@dataclass(frozen=True)
class FlashAttention(Facts, key="flash_attention"):
    """The three generations, which are three packages, and the name that two of them share."""

    generations: tuple[Generation, ...] | None = None
    # What `import flash_attn` finds: "package", "namespace" (folders without an __init__.py), "absent".
    flash_attn_name: str | None = None
    # What lies in a namespace of that name.
    namespace_folders: tuple[str, ...] | None = None
    compute_capability: str | None = None
    # What was being tried when this record was written.
    attempting: str | None = None

    def caption(self) -> Caption | None:
        """The versions of the generations that are installed; each begins with its generation's number."""
        versions = [one.version for one in self.generations or () if one.installed and one.version]
        return Caption(33, f"flash-attn {', '.join(versions)}") if versions else None

    def generation(self, number: int) -> Generation | None:
        """The record of one generation, None if it was not looked for."""
        return next((record for record in self.generations or () if record.generation == number), None)
