"""What was seen of the examined torch."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Caption, Facts


@dataclass(frozen=True)
class TorchDevice:
    """A GPU as torch sees it."""

    index: int | None = None
    name: str | None = None
    compute_capability: str | None = None  # "9.0" or "gfx942"
    sm_count: int | None = None
    memory_total_mib: float | None = None
    l2_cache_bytes: int | None = None
    uuid: str | None = None
    pci_bus_id: str | None = None


@dataclass(frozen=True)
class ScaledGemm:
    """One FP8 (or narrower) matrix product that was called with complete legal arguments, and what came of it."""

    # "tensorwise" | "rowwise" | "blockwise-1x128" | "mxfp8" | "nvfp4"
    scaling: str | None = None
    # "_scaled_mm" | "scaled_mm"
    api: str | None = None
    fast_accum: bool | None = None
    # "ok" (ran, right), "wrong" (ran, not right), "refused" (said not supported), "error", "crashed", "absent" (no API)
    outcome: str | None = None
    error: str | None = None
    # Relative Frobenius error against FP32, and the most that the format explains.
    relative_error: float | None = None
    relative_error_limit: float | None = None
    # The GPU kernel that did the work.
    kernel: str | None = None


@dataclass(frozen=True)
class TorchBuild(Facts, key="torch_build"):
    """The torch of the examined environment. `installed=False`: looked for, and not there."""

    installed: bool | None = None
    version: str | None = None
    cuda: str | None = None
    hip: str | None = None
    accelerator: str | None = None  # "cuda" | "hip" | "xpu" | "cpu"
    python: str | None = None
    git_version: str | None = None
    cudnn: str | None = None
    cxx11_abi: bool | None = None
    arch_list: tuple[str, ...] | None = None
    float8_dtypes: tuple[str, ...] | None = None
    cuda_available: bool | None = None
    # What torch said when CUDA could not be initialised.
    cuda_error: str | None = None
    devices: tuple[TorchDevice, ...] | None = None
    # The trivial kernel: one addition on the GPU. None = not tried.
    trivial_kernel_ok: bool | None = None
    trivial_kernel_error: str | None = None
    scaled_gemms: tuple[ScaledGemm, ...] | None = None
    import_s: float | None = None
    # What was being tried when this record was written.
    attempting: str | None = None

    def caption(self) -> Caption | None:
        """torch's version."""
        if self.installed is False:
            return Caption(30, "no torch")
        return Caption(30, f"torch {self.version}") if self.version else None
