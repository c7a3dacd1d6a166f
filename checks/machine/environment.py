"""Which environment variables concern FP8 and the GPU, and which values of them do harm?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fp8doctor.model import Severity

# Variables whose values are kept: settings of CUDA, torch, Triton, Transformer Engine, NCCL and the loader. None of
# them holds a secret; anything else stays where it is.
KEPT = (
    r"CUDA_(VISIBLE_DEVICES|DEVICE_ORDER|DEVICE_MAX_CONNECTIONS|LAUNCH_BLOCKING|MODULE_LOADING|FORCE_PTX_JIT|"
    r"DISABLE_PTX_JIT|CACHE_DISABLE|CACHE_MAXSIZE|SCALE_LAUNCH_QUEUES|DISABLE_PERF_BOOST|AUTO_BOOST|HOME|PATH|"
    r"MPS_ACTIVE_THREAD_PERCENTAGE|MPS_PIPE_DIRECTORY|INJECTION64_PATH)|"
    r"NVIDIA_(VISIBLE_DEVICES|TF32_OVERRIDE|DRIVER_CAPABILITIES)|"
    r"CUDNN_(PATH|HOME)|CUBLAS(LT)?_WORKSPACE_(CONFIG|SIZE)|NVTX_INJECTION64_PATH|LD_LIBRARY_PATH|LD_PRELOAD|"
    r"PYTORCH_(NO_CUDA_MEMORY_CACHING|CUDA_ALLOC_CONF|ALLOC_CONF|TUNABLEOP_ENABLED|NVML_BASED_CUDA_CHECK)|"
    r"TORCH_(ALLOW_TF32_CUBLAS_OVERRIDE|CUDA_ARCH_LIST|LOGS|COMPILE_DISABLE|COMPILE_FORCE_DISABLE_CACHES|"
    r"BLAS_PREFER_CUBLASLT|CUDNN_V8_API_DISABLED|SHOW_CPP_STACKTRACES|NCCL_BLOCKING_WAIT)|"
    r"TORCHDYNAMO_(DISABLE|SUPPRESS_ERRORS|VERBOSE)|"
    r"TORCHINDUCTOR_(FORCE_DISABLE_CACHES|FX_GRAPH_CACHE|COMPILE_THREADS|MAX_AUTOTUNE|NAN_ASSERTS|"
    r"MAX_AUTOTUNE_GEMM_BACKENDS)|"
    r"TRITON_(INTERPRET|DEBUG|ALWAYS_COMPILE|PTXAS_PATH|LIBCUDA_PATH)|DISABLE_PTXAS_OPT|CC|CXX|"
    r"NVTE_[A-Za-z0-9_]+|NCCL_(P2P_DISABLE|P2P_LEVEL|IB_DISABLE|SHM_DISABLE|DEBUG|ALGO|PROTO|NVLS_ENABLE)|"
    r"VLLM_(USE_DEEP_GEMM|TEST_FORCE_FP8_MARLIN|ATTENTION_BACKEND)|HIP_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|"
    r"HSA_OVERRIDE_GFX_VERSION|OMP_NUM_THREADS|MKL_NUM_THREADS"
)


def kept(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a report may show, with their values."""
    return {name: value for name, value in sorted(environment.items()) if re.fullmatch(KEPT, name)}


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
        "every kernel launch waits until the kernel has ended, so the host never runs ahead of the GPU",
        "CUDA programming guide, concurrent execution between host and device",
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
