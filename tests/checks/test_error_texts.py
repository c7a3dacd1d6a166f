"""Literal messages as they stand in sources and reports: each settles its rule, and prose settles none.

Beside each message stands where its wording was read.
"""

from __future__ import annotations

import time

import pytest

from fp8doctor.api import knowledge
from fp8doctor.reading.messages import known_lines

# (message, rules that it settles, where it was read)
MESSAGES: list[tuple[str, set[str], str]] = [
    # The loader.
    (
        "ImportError: /x/torch/lib/../../nvidia/cusparse/lib/libcusparse.so.12: undefined symbol:"
        " __nvJitLinkComplete_12_4, version libnvJitLink.so.12",
        {"LIB008"},
        "pytorch/pytorch#131312",
    ),
    (
        "ImportError: /x/lib/python3.12/site-packages/torch/lib/libtorch_cuda.so: undefined symbol: ncclCommResume",
        {"LIB008"},
        "pytorch/pytorch#186591",
    ),
    (
        "ImportError: libcudart.so.11.0: cannot open shared object file: No such file or directory",
        {"LIB008"},
        "Dao-AILab/flash-attention#208",
    ),
    ("libcudart.so.12 was not found by the script, and is not needed", set(), "prose"),
    # The GPU, the driver, torch's build.
    (
        "ValueError: type fp8e4nv not supported in this architecture. The supported fp8 dtypes are ('fp8e4b15',"
        " 'fp8e5')",
        {"GPU001"},
        "triton/language/core.py, backends/nvidia/compiler.py",
    ),
    (
        "RuntimeError: torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9, or"
        " ROCm MI300+",
        {"GPU001"},
        "aten/src/ATen/native/cuda/ScaledBlas.cpp",
    ),
    (
        "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum capability: 89. Current"
        " capability: 86.",
        {"GPU001"},
        "vllm/config/vllm.py; vllm-project/vllm#4327",
    ),
    (
        "ValueError: The quantization method awq is not supported for the current GPU. Minimum capability: 75. Current"
        " capability: 70.",
        set(),
        "vllm/config/vllm.py: no word on FP8",
    ),
    (
        "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum capability: 90. Current"
        " capability: 89.",
        set(),
        "an early vLLM on Ada, which has FP8",
    ),
    (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please update",
        {"DRV001"},
        "c10/cuda/CUDAFunctions.cpp",
    ),
    ("CUDA driver version is insufficient for CUDA runtime version", {"DRV001"}, "CUDA runtime, error 35"),
    (
        "Unexpected error from cudaGetDeviceCount(). Error 804: forward compatibility was attempted on non supported"
        " HW",
        {"DRV001"},
        "Haidra-Org/horde-worker-reGen#349",
    ),
    (
        "Error 803: system has unsupported display driver / cuda driver combination",
        {"DRV002"},
        "CUDA runtime, error 803",
    ),
    (
        "NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current PyTorch installation.",
        {"TOR005"},
        "torch/cuda/__init__.py",
    ),
    (
        "RuntimeError: CUDA error: no kernel image is available for execution on the device",
        {"TOR021"},
        "any extension says it, which the rule leaves open",
    ),
    (
        "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`",
        set(),
        "any product says it",
    ),
    ("CUDA failure 209: no kernel image is available for execution on the device ; GPU=0", {"TOR023"}, "ONNX Runtime"),
    (
        "AssertionError: SM89 kernel is not available. Make sure you GPUs with compute capability 8.9.",
        {"TOR023"},
        "sageattention/core.py",
    ),
    (
        "ImportError: /site-packages/vllm/_C.abi3.so: undefined symbol: _ZN3c104cuda9SetDeviceEi",
        {"TOR022"},
        "glibc's loader",
    ),
    ("ImportError: libfoo.so: undefined symbol: _ZNKSt10filesystem4path12has_filenameEv", set(), "no symbol of torch"),
    ("RuntimeError: Error 804", {"DRV001"}, "CUDA runtime, error 804"),
    (
        "xFormers was built for: PyTorch 2.1.0+cu121 with CUDA 1201 (you have 2.1.2+cpu)",
        {"TOR003"},
        "xformers/_cpp_lib.py",
    ),
    ("PyTorch 2.1.0+cu121 with CUDA 1201 (you have 2.1.2+cu118)", set(), "another mismatch"),
    # torch's FP8 product and FP8 tensors.
    (
        "RuntimeError: _scaled_mm_out_cuda is not compiled for this platform.",
        {"TOR006"},
        "aten/src/ATen/native/cuda/Blas.cpp",
    ),
    ("RuntimeError: _int_mm_out_cuda not compiled for this platform.", set(), "the same file, of INT8"),
    (
        "RuntimeError: Cannot convert ScalarType Float8_e4m3fn to hipDataType.",
        {"TOR014"},
        "aten/src/ATen/hip/HIPDataType.h",
    ),
    ("RuntimeError: Cannot convert ScalarType Bool to cudaDataType.", set(), "the same check of other types"),
    (
        "RuntimeError: Expected trailing dimension of mat1 to be divisible by 16 but got mat1 shape: (512x1368).",
        {"TOR017"},
        "ScaledBlas.cpp; sgl-project/sglang#19751",
    ),
    ("RuntimeError: Rowwise scaling is not currently supported on your device", {"TOR011"}, "RowwiseScaledMM.cu"),
    ("illegal memory access in the rowwise kernel with M=257", {"TOR012"}, "pytorch/pytorch#133334"),
    ("CUDA error: an illegal memory access was encountered", set(), "any kernel"),
    ("NotImplementedError: \"addmm_cuda\" not implemented for 'Float8_e4m3fn'", {"TOR020"}, "invoke-ai/InvokeAI#9414"),
    ("NotImplementedError: \"mul_cuda\" not implemented for 'Float8_e4m3fn'", {"TOR020"}, "AT_DISPATCH in ATen"),
    ("RuntimeError: \"ufunc_add_CUDA\" not implemented for 'Float8_e5m2'", {"TOR020"}, "AT_DISPATCH in ATen"),
    (
        "RuntimeError: Promotion for Float8 Types is not supported, attempted to promote BFloat16 and Float8_e4m3fn",
        {"TOR020"},
        "c10/core/ScalarType.cpp",
    ),
    (
        "RuntimeError: expected mat1 and mat2 to have the same dtype, but got: c10::BFloat16 != c10::Float8_e4m3fn",
        {"TOR020"},
        "aten/src/ATen/native/cuda/Blas.cpp",
    ),
    (
        "RuntimeError: expected mat1 and mat2 to have the same dtype, but got: c10::Float8_e5m2 != c10::Float8_e4m3fn",
        set(),
        "AITER's own check of two FP8 types",
    ),
    ("RuntimeError: \"addmm_cuda\" not implemented for 'Half'", set(), "another type"),
    ("AttributeError: module 'torch' has no attribute 'float8_e4m3fn'", {"TOR006"}, "Comfy-Org/ComfyUI#4434"),
    (
        "RuntimeError: Using sequence parallelism requires setting the environment variable CUDA_DEVICE_MAX_CONNECTIONS"
        " to 1",
        {"CLM014"},
        "Megatron-LM, arguments.py",
    ),
    (
        "AssertionError: FSDP always requires CUDA_DEVICE_MAX_CONNECTIONS value large than one",
        {"CLM014"},
        "the same file",
    ),
    ("# tensor parallelism requires CUDA_DEVICE_MAX_CONNECTIONS", set(), "a comment in a script"),
    ("export CUDA_DEVICE_MAX_CONNECTIONS=1", set(), "a script"),
    # Compiling.
    ("AssertionError: libcuda.so cannot found!", {"CMP007"}, "triton/backends/nvidia/driver.py"),
    (
        "ptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'",
        {"CMP007"},
        "triton-lang/triton#8539",
    ),
    ("ptxas fatal   : Value 'sm_52' is not defined for option 'gpu-name'", set(), "dropped by CUDA 13; no FP8 there"),
    (
        "W0903 18:41:46 torch/_dynamo/convert_frame.py:1358] [0/8] torch._dynamo hit config.recompile_limit (8)",
        {"CMP012"},
        "torch",
    ),
    (
        "[WARNING] torch._dynamo hit config.cache_size_limit (8)",
        {"CMP012"},
        "torch/_dynamo/convert_frame.py before 2.7",
    ),
    (
        "The detected CUDA version (12.1) mismatches the version that was used to compile",
        {"CMP013"},
        "torch/utils/cpp_extension.py",
    ),
    (
        "/site-packages/flashinfer/data/include/flashinfer/utils.cuh:21:10: fatal error: cuda_fp8.h: No such file or"
        " directory",
        {"CMP013"},
        "sgl-project/sglang#3830 and #5389",
    ),
    ("nvcc fatal   : Unsupported gpu architecture 'compute_90a'", {"CMP013"}, "nvcc"),
    ("nvcc fatal   : Unsupported gpu architecture 'compute_70'", set(), "dropped by CUDA 13; no FP8 there"),
    ("The nvcc on PATH (11.8) does not match the CUDA of torch", {"CMP013"}, "people's words"),
    (
        "RuntimeError: Cannot find a working triton installation. More information on installing Triton can be found",
        {"CMP001"},
        "torch/_inductor/scheduler.py of 2.1 to 2.4",
    ),
    ("ModuleNotFoundError: No module named 'triton'", {"CMP001"}, "Python's import"),
    (
        "A matching Triton is not available. Error caught was: No module named 'triton.ops'",
        set(),
        "an old module of it",
    ),
    ("triton not found; flop counting will not work for triton kernels", {"CMP001"}, "torch/utils/flop_counter.py"),
    ("error: Microsoft Visual C++ 14.0 or greater is required.", {"CMP003"}, "setuptools"),
    ("FileNotFoundError: [Errno 2] No such file or directory: 'gcc'", {"CMP003"}, "Python's subprocess"),
    ("/bin/sh: 1: gcc: not found", {"CMP003"}, "dash"),
    # cuDNN and cuBLAS.
    (
        "cuDNN Frontend error: s_kv not a multiple of 64 is not supported with cudnn version below 9.0.0",
        {"LIB002"},
        "cudnn-frontend, scaled_dot_product_flash_attention.h",
    ),
    (
        "python: symbol lookup error: libfoo.so: undefined symbol: cublasLtFoo, version libcublasLt.so.13",
        {"LIB003"},
        "glibc's loader",
    ),
    # The engines' kernels.
    (
        "NotImplementedError: No compiled cutlass_scaled_mm for a compute capability less than CUDA device capability:"
        " 121",
        {"SRV011"},
        "vllm, csrc/quantization/w8a8/cutlass/scaled_mm_entry.cu",
    ),
    (
        "No compiled cutlass_scaled_mm for a compute capability less than CUDA device capability: 75",
        set(),
        "the same on a GPU without FP8",
    ),
    ("No compiled nvfp4 mm kernel for SM 90. Recompile with CUDA >= 12.8 and CC >= 100.", {"SRV012"}, "vllm"),
    ("No compiled nvfp4 mm kernel for SM 121. Recompile with CUDA >= 12.8 and CC >= 100.", {"SRV011"}, "vllm"),
    # FlashAttention.
    ("ModuleNotFoundError: No module named 'flash_attn_interface'", {"FA003"}, "Dao-AILab/flash-attention#1097"),
    ("ModuleNotFoundError: No module named 'flash_attn'", set(), "FlashAttention 2, which nothing may need"),
    ("RuntimeError: FlashAttention only supports Ampere GPUs or newer.", {"FA007"}, "csrc/flash_attn/flash_api.cpp"),
    ("RuntimeError: FlashAttention only support fp16 and bf16 data type", {"FA007"}, "csrc/flash_attn/flash_api.cpp"),
    (
        "RuntimeError: FlashAttention backward only supports head dimension at most 256",
        {"FA007"},
        "csrc/flash_attn/flash_api.cpp",
    ),
    ("RuntimeError: FlashAttention only supports Hopper GPUs or newer.", {"FA002"}, "Dao-AILab/flash-attention#1481"),
    (
        "CUDA error (/workspace/xfrm2/third_party/flash-attention/hopper/flash_fwd_launch_template.h:188): no kernel"
        " image is available for execution on the device",
        {"FA002"},
        "facebookresearch/xformers#1329",
    ),
    (
        "CUDA error (/src/flash-attention/csrc/flash_attn/src/flash_fwd_launch_template.h:88): no kernel image is"
        " available for execution on the device",
        {"FA004"},
        "the same macro in csrc/flash_attn/src",
    ),
    (
        "ImportError: /site-packages/flash_attn_2_cuda.cpython-311-x86_64-linux-gnu.so: undefined symbol:"
        " _ZN3c104cuda29c10_cuda_check_implementationEiPKcS2_ib",
        {"FA001"},
        "Dao-AILab/flash-attention#1832",
    ),
    # Transformer Engine.
    (
        "AssertionError: Device compute capability 8.9 or higher required for FP8 execution.",
        {"GPU001"},
        "quantization.py",
    ),
    (
        "AssertionError: MXFP8 (for all gemm layouts) is not supported on 12.0+ architectures yet.",
        {"TE007"},
        "transformer_engine/pytorch/quantization.py",
    ),
    (
        "AssertionError: Device compute capability 10.0 or higher required for NVFP4 execution.",
        {"TE007"},
        "transformer_engine/pytorch/quantization.py",
    ),
    (
        "AssertionError: FP8 execution requires the product of all dimensions except the last to be divisible by 8 and"
        " the last dimension to be divisible by 16, but got tensor with dims=[7, 1024]",
        {"TE022"},
        "transformer_engine/pytorch/utils.py",
    ),
    (
        "RuntimeError: /TransformerEngine/transformer_engine/common/cast/cast.cu:120 in function quantize: CUDA Error:"
        " no kernel image is available for execution on the device",
        {"TE024"},
        "transformer_engine/common/util/logging.h",
    ),
    ("AssertionError: FP8 attention is not supported for Float8BlockScaling.", {"ATT003"}, "common/recipe/__init__.py"),
    (
        "[DEBUG    | DotProductAttention]: Disabling FusedAttention for FP8 current scaling on arch < sm100",
        {"ATT003"},
        "transformer_engine/pytorch/attention/dot_product_attention/utils.py",
    ),
    (
        "[DEBUG    | DotProductAttention]: Disabling FlashAttention 2 for FP8 attention",
        set(),
        "the same file: other backends are left",
    ),
    # torchao.
    (
        "Skipping import of cpp extensions due to incompatible torch version. Please upgrade to torch >= 2.11.0 (found"
        " 2.9.1+cu128).",
        {"AO001"},
        "torchao/__init__.py",
    ),
    (
        "AssertionError: Float8 dynamic activation quantization is only supported on CUDA>=8.9 and MI300+",
        {"AO007"},
        "torchao/quantization/quant_api.py",
    ),
]

# What people write, and what healthy programs print.
HARMLESS = [
    "FlashAttention is enabled",
    "I am using fp8 with FlashAttention 3 on a H100 and it is slower than bf16.",
    "using fp8",
    "Using fp8 data type to store kv cache. It reduces the GPU memory footprint and boosts the performance.",
    "Selected CutlassFP8ScaledMMLinearKernel for Fp8LinearMethod",
    "The driver is new, nvcc is 12.8, and there was no kernel image error.",
    "Does my GPU support FP8? It says compute capability 8.9.",
    "torch._scaled_mm is fast here; with float8_e4m3fn weights I get 1.5x.",
    "Is addmm implemented for Float8_e4m3fn?",
    "CUDA version: 12.8, detected by nvcc",
    "libcuda.so.1 => /usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "#include <cuda_fp8.h>",
    "CMake: building for architectures sm_89 and sm_90a",
    "I raised torch._dynamo.config.recompile_limit to 64.",
    "FlashAttention only for Hopper? No, FlashAttention 2 works on Ampere and newer.",
    "Available backends = {FlashAttention=True (2.7.4), FusedAttention=True, UnfusedDotProductAttention=True}",
    "Selected backend = FusedAttention",
    "transformer_engine 2.20.2, torchao 0.18.0, flash_attn 2.8.3",
    "INFO 09-06 20:23:42 [cuda.py:334] Using FLASH_ATTN attention backend out of potential backends: ['FLASH_ATTN'].",
    "Application startup complete.",
    "If Triton is not installed, torch.compile raises.",
    "Triton 3.2 is installed and found.",
    "Skipping import of cpp extensions due to TORCHAO_FORCE_SKIP_LOADING_SO_FILES=1",
    "I replaced torch 2.6 by torch 2.7 with CUDA 12.8.",
    "gcc 13.2 was found",
]


def settled(line: str) -> set[str]:
    return {message.rule for message in known_lines(knowledge().error_texts, [line], "the text")}


@pytest.mark.parametrize(("line", "rules", "source"), MESSAGES)
def test_a_message_settles_its_rule_and_no_other(line: str, rules: set[str], source: str) -> None:
    assert source
    assert settled(line) == rules


@pytest.mark.parametrize("line", HARMLESS)
def test_prose_and_healthy_logs_settle_nothing(line: str) -> None:
    assert settled(line) == set()


def test_every_message_names_a_rule_that_is_there() -> None:
    assert {rule for _, rules, _ in MESSAGES for rule in rules} <= set(knowledge().rules)


@pytest.mark.parametrize(
    "piece", ["a", " ", "Unsupported gpu ", "flash_attn/csrc/", "transformer_engine/", "float8_e4m3"]
)
def test_a_line_of_nothing_costs_no_more_than_its_length(piece: str) -> None:
    line = (piece * 4000)[:3990]
    start = time.process_time()
    for _ in range(20):
        settled(line)
    assert time.process_time() - start < 2


def test_a_question_about_a_message_is_no_message_and_an_exceptions_own_is() -> None:
    assert not settled('Is "type fp8e4nv not supported in this architecture" expected on the A100?')
    assert settled("AttributeError: module 'torch' has no attribute 'float8_e4m3fn'. Did you mean: 'float16'?")
