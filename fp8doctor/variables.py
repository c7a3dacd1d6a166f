"""Which environment variables may a report show, and which is the doctor's own?

Only the standard library is imported here: this module also runs inside the examined environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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

# Set for all that a run starts, so that each of them is found when the run ends.
RUN_MARK = "FP8DOCTOR_RUN"


def kept(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a report may show, with their values."""
    return {name: value for name, value in sorted(environment.items()) if re.fullmatch(KEPT, name)}
