"""What was seen of the examined torch."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Caption, Facts, Shape


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

    # "tensorwise" | "rowwise" | "blockwise-1x128" (1x128 times 128x128) | "blockwise-1x128-both" | "mxfp8" | "nvfp4"
    scaling: str | None = None
    # The operands' type as torch names it: "float8_e4m3fn", "float8_e4m3fnuz", "float4_e2m1fn_x2".
    dtype: str | None = None
    shape: Shape | None = None
    # "_scaled_mm" | "scaled_mm"
    api: str | None = None
    fast_accum: bool | None = None
    # "ok" (ran, right), "wrong" (ran, not right), "refused" (said not supported), "error", "crashed", "absent" (no API)
    outcome: str | None = None
    error: str | None = None
    # Relative Frobenius error against FP32, and the most that the format explains.
    relative_error: float | None = None
    relative_error_limit: float | None = None
    # The same for the row or column that is most wrong; it has the same limit.
    worst_line_error: float | None = None
    # The GPU kernel that did the work.
    kernel: str | None = None


@dataclass(frozen=True)
class TorchBuild(Facts, key="torch_build"):
    """The torch of the examined environment. `installed=False`: looked for, and not there."""

    installed: bool | None = None
    # A folder named torch without code, which imports as an empty package: left by an uninstall, or a stray one.
    leftover_folder: str | None = None
    # What `import torch` raised, or what ended the process that tried it.
    import_error: str | None = None
    # Files that a folder of PYTHONPATH brings in place of the environment's own: a torch, or a module of Python's.
    from_python_path: tuple[str, ...] | None = None
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
    # torch's index of the GPU that the trivial kernel and the products ran on.
    examined_gpu: int | None = None
    scaled_gemms: tuple[ScaledGemm, ...] | None = None
    import_s: float | None = None
    # What was being tried when this record was written.
    attempting: str | None = None

    def caption(self) -> Caption | None:
        """torch's version."""
        if self.installed is False:
            return Caption(30, "no torch")
        return Caption(30, f"torch {self.version}") if self.version else None
