"""What was seen of torchao."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Caption, Facts, NotApplicable

# Values of `Torchao.attempting`; while a layer is tried it holds the configuration's name.
IMPORTING_TORCH = "import torch"
IMPORTING = "import torchao"
IMPORTING_WITHOUT_KERNELS = "import torchao without its kernels"
CONVERTING = "convert layers of odd sizes"
SEARCHING = "count what a layer searches for"
# `OddLinear.how` of the conversion for training.
TRAINING = "training"

# What every finding on it is about, and what its rules say where it is not installed.
ABOUT = "package:torchao"
ABSENT = NotApplicable("torchao is not installed")


@dataclass(frozen=True)
class QuantizedLinear:
    """One linear layer that was quantised and called once."""

    # "dynamic-rowwise" | "dynamic-tensorwise" | "weight-only"
    config: str | None = None
    # The weight's class after quantising, and whether an FP8 tensor is inside it.
    weight_type: str | None = None
    weight_is_fp8: bool | None = None
    # True if the forward returned; None if it was not reached.
    forward_ok: bool | None = None
    finite: bool | None = None
    # Relative Frobenius error against the same product in FP64, what rounding to the format costs by itself, and the
    # most that it explains.
    relative_error: float | None = None
    relative_error_expected: float | None = None
    relative_error_limit: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class OddLinear:
    """A layer of a size that FP8 products cannot take (no multiple of 16), in a model that was converted."""

    how: str | None = None  # "dynamic" | "weight-only" | "training"
    k: int | None = None
    n: int | None = None
    # Whether it is an FP8 layer now; None if the conversion raised an error.
    converted: bool | None = None
    # A warning that was shown.
    said: str | None = None
    # What the conversion raised, or a training step in the converted layer.
    error: str | None = None


@dataclass(frozen=True)
class PackageSearch:
    """What one eager call of a float8 layer searches the Python path for in vain."""

    config: str | None = None  # "dynamic-rowwise" | "dynamic-tensorwise"
    # The package that is not installed; None: no such search was seen.
    package: str | None = None
    searches_per_call: int | None = None
    # The same with kernel_preference=KernelPreference.TORCH; None: this torchao has no such choice.
    searches_per_call_torch: int | None = None
    # The median of one search, in this interpreter.
    search_us: float | None = None
    # Why it could not be counted.
    error: str | None = None


@dataclass(frozen=True)
class Torchao(Facts, key="torchao"):
    """torchao in the examined environment. `installed=False`: looked for, and not there."""

    installed: bool | None = None
    version: str | None = None
    # What `import torch` raised: then nothing can be said of torchao.
    torch_error: str | None = None
    torch_version: str | None = None
    import_ok: bool | None = None
    # The exception, or the signal that ended the process.
    import_error: str | None = None
    # Seconds for torchao alone, torch being there already.
    import_s: float | None = None
    # After a crash: whether it imports when none of its compiled kernels is loaded.
    imports_without_kernels: bool | None = None
    # The libraries of compiled kernels that came with it (_C*.so), those that torch has loaded, and what the loader
    # said of the others.
    kernels: tuple[str, ...] | None = None
    kernels_loaded: tuple[str, ...] | None = None
    kernel_errors: tuple[str, ...] | None = None
    # What torchao logged when it passed its kernels over.
    kernels_message: str | None = None
    # TORCHAO_FORCE_SKIP_LOADING_SO_FILES=1 was set.
    kernels_switched_off: bool | None = None
    # The float8 configurations that torchao.quantization has.
    configs: tuple[str, ...] | None = None
    linears: tuple[QuantizedLinear, ...] | None = None
    # What becomes of layers whose sizes are no multiples of 16.
    odd_linears: tuple[OddLinear, ...] | None = None
    # What layers search for at each call, counted only where mslk is not installed; how long the path is.
    mslk_installed: bool | None = None
    searches: tuple[PackageSearch, ...] | None = None
    path_entries: int | None = None
    # What was being tried when this record was written.
    attempting: str | None = None

    def caption(self) -> Caption | None:
        """torchao's version, where it is installed."""
        return Caption(31, f"torchao {self.version}") if self.installed and self.version else None
