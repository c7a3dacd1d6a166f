"""Which environment variables concern FP8 and the GPU, and which values of them do harm?"""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Severity


@dataclass(frozen=True)
class Harm:
    """A value of a variable that does harm: what it does, how much that matters, and where it is written."""

    variable: str
    value: str
    severity: Severity
    effect: str
    source: str
    # The distribution that reads it; None: CUDA or torch.
    read_by: str | None = None
    # It matters from this many GPUs on.
    gpus: int = 1


_TE = "docs/envvars.rst of Transformer Engine (d0067d0)"
_TE_NAME = "transformer-engine"
HARMS = (
    Harm(
        "CUDA_LAUNCH_BLOCKING",
        "1",
        Severity.WARNING,
        "every kernel launch waits until the kernel has ended, so the host never runs ahead of the GPU, and the doctor"
        " cannot time kernels apart from their launches",
        "CUDA programming guide, concurrent execution between host and device; benchmarks/RESULTS.md",
    ),
    Harm(
        "NVIDIA_TF32_OVERRIDE",
        "0",
        Severity.INFO,
        "FP32 products do not use TF32 even where the program allows it (H200, 4096 x 4096 x 4096: 2,686 us in place of"
        " 345); BF16 and FP8 products take what they took",
        "measured on an H200, benchmarks/RESULTS.md",
    ),
    Harm(
        "NVIDIA_TF32_OVERRIDE",
        "1",
        Severity.INFO,
        "FP32 products use TF32 even where the program wants FP32 (H200: a relative error of 2.9e-4 in place of"
        " 1.1e-6), so a result in FP32 is no reference; BF16 and FP8 products take what they took",
        "measured on an H200, benchmarks/RESULTS.md",
    ),
    Harm(
        "PYTORCH_NO_CUDA_MEMORY_CACHING",
        "1",
        Severity.WARNING,
        "torch keeps no GPU memory back: every tensor is a call of cudaMalloc and of cudaFree",
        "PyTorch documentation, CUDA environment variables; c10/cuda/CUDACachingAllocator.cpp",
    ),
    Harm(
        "CUDA_FORCE_PTX_JIT",
        "1",
        Severity.WARNING,
        "the driver ignores the machine code in libraries and compiles their PTX; kernels without PTX fail to load",
        "CUDA programming guide, CUDA environment variables",
    ),
    Harm(
        "NCCL_P2P_DISABLE",
        "1",
        Severity.INFO,
        "GPUs do not reach one another directly, neither by NVLink nor by PCIe",
        "NCCL user guide, environment variables",
        gpus=2,
    ),
    Harm("NVTE_FLASH_ATTN", "0", Severity.INFO, "FlashAttention is not used", _TE, _TE_NAME),
    Harm("NVTE_FUSED_ATTN", "0", Severity.INFO, "cuDNN's attention, FP8 included, is not used", _TE, _TE_NAME),
    Harm(
        "NVTE_UnfusedDPA_Emulate_FP8",
        "1",
        Severity.INFO,
        "unfused attention may imitate FP8 with 16-bit arithmetic",
        _TE,
        _TE_NAME,
    ),
    Harm(
        "NVTE_UNFUSED_FP8_UPDATE",
        "1",
        Severity.INFO,
        "largest values and scales are updated by separate kernels",
        _TE,
        _TE_NAME,
    ),
    Harm("NVTE_TORCH_COMPILE", "0", Severity.INFO, "its small operations run eagerly", _TE, _TE_NAME),
    Harm("NVTE_DEBUG", "1", Severity.INFO, "attention prints and checks more", _TE, _TE_NAME),
)
