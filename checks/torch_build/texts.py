"""What torch says when an FP8 product is called wrongly, or where it is not: literal messages and their fixes.

The texts are PyTorch's own: ScaledBlas.cpp, _meta_registrations.py (the same checks under torch.compile),
torch/cuda/__init__.py and c10/cuda/CUDAFunctions.cpp. CUBLAS_STATUS_NOT_SUPPORTED is not among them: any product may
raise it, so that alone it settles nothing. `no kernel image is available` any extension may raise: whose it is stays
open, and that it is an error does not.
"""

from __future__ import annotations

from fp8doctor.checks.torch_build.renewal import ANYWHERE
from fp8doctor.model import ErrorText, NotApplicable, Severity
from fp8doctor.registry import rule

_READ_ONLY = NotApplicable("only an error message shows it, and none was read that does")


@rule("TOR016", "gemm-layout-not-tn", Severity.ERROR, scope="usage")
def layout() -> NotApplicable:
    """An FP8 product was called with operands in a layout that the GPU does not take.

    What it means: on Hopper and Ada the first operand must be row-major and the second column-major ("TN"); Blackwell
    takes every layout. A weight of shape (N, K) is column-major as `weight.t()`. Calling `.contiguous()` on that view
    makes it row-major, and is the usual mistake; the two products of a backward pass need transposed copies.

    Why it costs time: the call raises.

    What to do: pass `weight.t()` of a contiguous (N, K) weight, and for the backward pass quantise transposed copies.

    Sources: ScaledBlas.cpp in PyTorch; ROCm/rocm-libraries#9632, pytorch/pytorch#198126.
    """
    return _READ_ONLY


@rule("TOR017", "dims-not-multiple-of-16", Severity.ERROR, scope="usage")
def dimensions() -> NotApplicable:
    """An FP8 product was called with K or N that is no multiple of 16.

    What it means: torch takes FP8 operands whose K and N are multiples of 16; the number of rows, M, is free.

    Why it costs time: the call raises; libraries that check first leave the layer in 16 bits.

    What to do: pad the layer, or keep it (a head, a time embedding) in BF16.

    Sources: ScaledBlas.cpp and _meta_registrations.py in PyTorch.
    """
    return _READ_ONLY


@rule("TOR018", "recipe-not-on-arch", Severity.ERROR, scope="usage")
def recipe() -> NotApplicable:
    """A scaling was asked for that this GPU does not multiply by itself.

    What it means: 128-blocks with FP32 scales are Hopper's (9.0), MXFP8 and NVFP4 Blackwell's. This doctor calls each
    of them; that one is refused where the architecture lacks it is as it should be, and is no finding. It becomes one
    when a program asks for it.

    Why it costs time: the call raises, or the library emulates the scaling.

    What to do: on Ada take tensorwise or rowwise scaling, on Hopper also 128-blocks, on 10.x also MXFP8.

    Sources: ScaledBlas.cpp in PyTorch; NVIDIA/TransformerEngine#1939 and #2073.
    """
    return _READ_ONLY


@rule("TOR019", "scaled-mm-call-not-legal", Severity.ERROR, scope="usage")
def call() -> NotApplicable:
    """An FP8 product was called with operands, scales or a bias that no GPU takes.

    What it means: two e5m2 operands, scales of another shape or type than the scaling asks for, an FP32 result with a
    bias, fast accumulation with block scales. It says nothing about the GPU.

    Why it costs time: the call raises; a program that takes the error for "no FP8 here" falls back for nothing.

    What to do: follow the message; scales are those that decode (value = code times scale).

    Sources: ScaledBlas.cpp in PyTorch.
    """
    return _READ_ONLY


@rule("TOR020", "fp8-op-not-implemented", Severity.ERROR, scope="usage")
def operator() -> NotApplicable:
    """An FP8 tensor met an operator that does not take it.

    What it means: float8 is a way to store numbers. Torch multiplies such matrices by one function, with scales; it
    neither adds, multiplies nor convolves them, and mixes them with no other type. A plain nn.Linear whose weight was
    cast to float8, a LoRA added to an FP8 weight, or a norm on an FP8 activation end like this.

    Why it costs time: the call raises. Casting each weight back before its use runs, and is slower than 16 bits
    throughout.

    What to do: quantise with a library that replaces the layer (torchao, Transformer Engine), not with `.to(float8)`;
    leave out what is no linear layer; fuse a LoRA before quantising.

    Sources: chengzeyi/stable-fast#128, invoke-ai/InvokeAI#9414, NVIDIA/TensorRT#4081; c10/core/ScalarType.cpp (no
    promotion of Float8 types).
    """
    return _READ_ONLY


_TN = "Pass the weight as `weight.t()` of a contiguous (N, K) tensor; do not call .contiguous() on the transposed view."
_PAD = "Pad K and N to multiples of 16, or leave this layer in BF16."
_NATIVE = "Take a scaling that this GPU has: tensorwise everywhere, 128-blocks on Hopper, MXFP8 and NVFP4 on Blackwell."
_LEGAL = "Correct the call; the GPU is not the reason."
_UPDATE = ANYWHERE
_ARCHITECTURES = 'python -c "import torch; print(torch.cuda.get_arch_list(), torch.cuda.get_device_capability())"'

ERROR_TEXTS = (
    ErrorText(
        # The second of xformers/_cpp_lib.py; the third people's words.
        r"Torch not compiled with CUDA enabled|with CUDA \d+ \(you have \S+\+cpu\)"
        r"|\b(?:replac|overwr|downgrad)\w{1,6}\b.{0,40}\b[Tt]orch\b.{0,40}(?:without CUDA|CPU[- ]only|\+cpu)",
        "TOR003",
        "Install a CUDA build of torch.",
        title="torch was built without CUDA",
    ),
    ErrorText(
        r"CUDA driver initialization failed, you might not have a CUDA gpu|CUDA unknown error - this may be due to an",
        "TOR004",
        "The driver is there and does not start: look at CUDA_VISIBLE_DEVICES, then restart the container or the box.",
        title="torch cannot start CUDA",
    ),
    ErrorText(
        r"Your installed torch==\S+ does not include kernels for this GPU"
        r"|\bsm_\d+[af]? is not compatible with the current PyTorch installation",
        "TOR005",
        "Install a build of torch whose architectures cover this GPU: CUDA 12.8 or newer for Blackwell.",
    ),
    # Whose it is stands in the line of those that name themselves; their subjects know them.
    ErrorText(
        r"^(?!.*(?:hopper|csrc|transformer_engine)[/\\])(?!.*CUDA failure 209).*no kernel image is available",
        "TOR021",
        "Ask torch for its architectures and the GPU's: if the GPU's is not among them, install a torch that has it;"
        " else rebuild the extension that the traceback names.",
        _ARCHITECTURES,
    ),
    # diffusers and others name the types while they are imported (Comfy-Org/ComfyUI#4434).
    ErrorText(
        r"module 'torch' has no attribute 'float8_e\dm\d\w*'",
        "TOR006",
        "Update torch.",
        _UPDATE,
        title="This torch is older than the FP8 type that was asked for",
    ),
    # Seen as "addmm_cuda", "mul_cuda", "ufunc_add_CUDA", "index_cuda", "silu_cuda" and more; the last is a weight in
    # FP8 under a layer that does not know it.
    ErrorText(
        r"not implemented for '?Float8_e\dm\d|Promotion for Float8 Types is not supported, attempted to promote"
        r"|to have the same dtype, but got: (?!c10::Float8)\S+ != c10::Float8_e\dm\d",
        "TOR020",
        "Quantise with a library that replaces the layer, and keep what is no linear layer in BF16.",
    ),
    ErrorText(
        r"torch\._scaled_mm is only supported on devices with compute capability >= 9\.0",
        "TOR006",
        "torch before 2.3 shuts Ada (8.9) out; update it if the GPU is one, else use BF16.",
        _UPDATE,
    ),
    # Its products are left out of such builds (aten/src/ATen/native/cuda/Blas.cpp); INT8's says the same of itself.
    ErrorText(
        r"(?<!_int_mm_out_cuda )(?<!_int_mm_out_cuda is )not compiled for this platform",
        "TOR006",
        "Update torch: its builds for Windows have FP8 products from 2.4 on.",
        _UPDATE,
        title="This build of torch has no FP8 matrix product",
    ),
    ErrorText(
        r"(?i)\brow-?wise\b.{0,120}\b(?:illegal memory access|out[- ]of[- ]bounds)"
        r"|\b(?:illegal memory access|out[- ]of[- ]bounds)\b.{0,120}\brow-?wise\b",
        "TOR012",
        "Update torch: old rowwise kernels read beyond the scales. Until then pad the rows to a multiple of 256.",
        _UPDATE,
        title="A rowwise FP8 product reads beyond its operands",
    ),
    ErrorText(
        r"Rowwise scaling is not currently supported on your device",
        "TOR011",
        "Update torch, or use tensorwise scaling.",
        _UPDATE,
    ),
    # The second in ATen/hip/HIPDataType.h, of a torch for ROCm that knows the fnuz types alone.
    ErrorText(
        r"(Expected b\.dtype\(\) == |expected mat_b\.dtype\(\) to be )at::kFloat8_e4m3fn"
        r"|Cannot convert ScalarType Float8_e[45]m[23]fn(uz)? to hipDataType",
        "TOR014",
        "Convert the weights to the FP8 type of this GPU's generation.",
        title="The FP8 type that was asked for is another generation's of AMD GPUs",
    ),
    ErrorText(
        r"Only multiplication of row-major and column-major matrices is supported by cuBLASLt"
        r"|self must be row_major, got stride|mat2 must be col_major, got stride",
        "TOR016",
        _TN,
    ),
    ErrorText(
        r"Expected trailing dimension of mat1 to be divisible by 16|mat2 shape \(.*\) must be divisible by 16"
        r"|Expected self\.size\(1\) to be divisible by 16|Expected both dimensions of mat2 to be divisible by 16",
        "TOR017",
        _PAD,
    ),
    ErrorText(
        r"DeepSeek style \(1x128, 128x128\) scaling only supported in CUDA for SM90"
        r"|MXFP4 scaling only supported in CUDA for B200/B300"
        r"|torch\._scaled_grouped_mm is only supported on CUDA devices with compute capability = \[",
        "TOR018",
        _NATIVE,
    ),
    ErrorText(
        r"DeepSeek style \(1x128, 128x128\) scaling requires cublasLt >= 12\.9",
        "TOR015",
        "Update torch to a build for CUDA 12.9 or newer.",
        title="Scaling in 128-blocks was asked for, and the cuBLASLt of this torch is too old for it",
    ),
    ErrorText(r"Multiplication of two Float8_e5m2 matrices is not supported", "TOR019", "Make one operand e4m3."),
    ErrorText(
        r"Expected mat1 to be Float8 or Float4_x2 matrix got|Invalid scaling configuration\."
        r"|Only bf16, fp16, and fp32 high precision output types are supported for row-wise scaling"
        r"|Bias is not supported when out_dtype is set to Float32|Bias must be BFloat16 to compute"
        r"|scaled_gemm doesn't support fast accum with 1x128 blockwise scaling"
        r"|scale_[ab] must be swizzled to SWIZZLE_32_4_4 format",
        "TOR019",
        _LEGAL,
    ),
)
