"""What does the name of an operator, an annotation or a call on the host say?

Sources: the operators of PyTorch (native_functions.yaml), the autograd functions of torchao 0.17 (float8/) and
Transformer Engine 2.x (pytorch/), and the names in recorded traces.
"""

from __future__ import annotations

import re

# The operands of a matrix product among an operator's inputs: (index of A, index of B, B is stored transposed).
PRODUCTS = {
    "aten::mm": (0, 1, False),
    "aten::addmm": (1, 2, False),
    "aten::_addmm_activation": (1, 2, False),
    "aten::bmm": (0, 1, False),
    "aten::baddbmm": (1, 2, False),
    "aten::matmul": (0, 1, False),
    "aten::linear": (0, 1, True),
    "aten::_int_mm": (0, 1, False),
    "aten::_scaled_mm": (0, 1, False),
    "aten::_scaled_mm_v2": (0, 1, False),
    "aten::_scaled_grouped_mm": (0, 1, False),
    "aten::_scaled_grouped_mm_v2": (0, 1, False),
    "aten::_grouped_mm": (0, 1, False),
    # vLLM's and SGLang's own, and FBGEMM's; the first has its result as its first argument.
    "_C::cutlass_scaled_mm": (1, 2, False),
    "sgl_kernel::fp8_scaled_mm": (0, 1, False),
    "fbgemm::f8f8bf16_rowwise": (0, 1, True),
}
# Products inside an attention, not layers.
BATCHED = {"aten::bmm", "aten::baddbmm"}
# A cross-entropy's softmax is a logarithm's, and no attention.
_SOFTMAX, _LOG_SOFTMAX = re.compile(r"(?i)softmax"), re.compile(r"(?i)log_?softmax")
# An FP8 cast tells by its types; its sizes are not kept.
CAST = "aten::copy_"

_FP8_PRODUCTS = {
    "_C::cutlass_scaled_mm",
    "sgl_kernel::fp8_scaled_mm",
    "fbgemm::f8f8bf16_rowwise",
    "aten::_scaled_mm_v2",
}
_FP8_PRODUCTS |= {"aten::_scaled_grouped_mm", "aten::_scaled_grouped_mm_v2"}

# The layers of Transformer Engine compute a product among other things: the same, of their forward's inputs
# (`_Linear.forward(weight, inp, bias, ...)` in transformer_engine/pytorch/module/linear.py).
LAYERS = {"_Linear": (1, 0, True)}

# The first hit wins. What an operator does, if its name says so; "gemm" stands for a product of types yet to be found.
_ROLES = tuple(
    (re.compile(pattern), role)
    for pattern, role in (
        (r"\(dynamo_timed\)$|^(dynamo|entire_frame_compile|backend_compile|compile_fx_inner)$", "compile"),
        (
            r"^(Optimizer\.(step|zero_grad)#|aten::_fused_(adam|adamw|sgd|adagrad)_?$)|FusedAdam|multi_tensor_adam",
            "optimizer",
        ),
        (
            r"^(nccl|c10d|_c10d_functional|symm_mem)::?|^record_param_comms|all_?reduce|all_?gather|reduce_scatter",
            "communication",
        ),
        (
            r"scaled_dot_product_(?!.*mask)|(flash|efficient|cudnn|paged|unified|flex)_?attention|flash_attn|FlashAttn"
            r"|FusedAttn|AttnFuncWithCP|sage_?attn",
            "attention",
        ),
        # These hold products as well; what else is in them is not told by their name.
        (r"_LayerNorm(Linear|MLP)|fused_moe", ""),
        (r"(layer|group|batch|instance|rms)_?norm|LayerNorm|RMSNorm|GroupNorm|BatchNorm", "normalisation"),
        (r"(?i)dequant|FromFloat8|FromMXFP8|FromNVFP4|QuantizedToFloat", "dequantize"),
        (
            r"(?i)quantize|_quant\b|_quant_|ToFloat8|choose_(scale|qparams)|fp8_quant|cast_to_fp8|to_float8"
            r"|matmul_with_hp_or_float8_args|to_mxfp8",
            "quantize",
        ),
        (r"^aten::(amax|aminmax)$|tensor_to_amax|get_amax", "amax"),
        (
            r"^aten::(_?conv(olution|\d+d|_transpose\d+d)|(cudnn|miopen|thnn|slow)_conv|convolution_backward)",
            "convolution",
        ),
        (
            r"^aten::(add|sub|mul|div|copy|to|_to_copy|clone|contiguous|gelu|silu|relu|sigmoid|tanh|exp|log|clamp|abs|neg"
            r"|sum|mean|_?softmax|_?log_softmax|cat|stack|where|native_dropout|dropout|pow|rsqrt|sqrt|reciprocal|lerp"
            r"|addcmul|addcdiv|masked_fill|index|_index_put_impl|gather|scatter|max|min|cumsum|norm|linalg_vector_norm"
            r"|threshold_backward|gelu_backward|silu_backward|_softmax_backward_data|_foreach_\w+|eq|ne|lt|le|gt|ge"
            r"|maximum|minimum|sin|cos|embedding|embedding_dense_backward|repeat|expand|glu|leaky_relu)_?$",
            "elementwise",
        ),
        (r"^aten::(fill|zero)_$", "fill"),
    )
)
# Of a context: what stands below one of these is part of it, unless it is a product.
ENCLOSING = ("compile", "attention", "quantize", "dequantize", "normalisation", "optimizer")
# Of these an outer one is not taken over by one in it: an attention is what it is, whatever it is made of, and what a
# compiler runs are its own trials.
OUTERMOST = ("compile", "attention")

_STEP = "ProfilerStep#"
_ANNOTATIONS = re.compile(
    r"^(Optimizer\.|enumerate\(DataLoader\)|Torch-Compiled Region|## Call CompiledFxGraph|CompiledFunction|nccl:)"
)
_FRAMES = re.compile(
    r"^nn\.Module: |: torch_dynamo_resume_in_"
    r"|: (_?quantize_\w*float8|_choose_scale_float8|hp_tensor_to_float8_dynamic|_?cast_to_fp8|to_fp8_\w+"
    r"|to_float8|scaled_fp8_quant|_quantize_affine_float8|per_token_group_quant_fp8)$"
)
# Trying variants of a kernel at its first call is the compiler's time, and no compilation more.
_TRYING = re.compile(r"^CachingAutotuner\b")
_ATTEMPT = re.compile(r"^Torch-Compiled Region: \d+/(\d{1,9})")
_REGIONS = (("Torch-Compiled Region", 0), ("## Call CompiledFxGraph", 1), ("CompiledFunction", 2))
_VERSION = re.compile(r"(_v\d+)?(_ptsz|_ptds)?$")
# In each of these the host stands still until the device got there; freeing memory does so, too (CUDA's C++ programming
# guide, "Implicit Synchronization").
_WAITS = re.compile(
    r"^(cuda|hip|cu)(Stream|Device|Event|Ctx|Thread)Synchronize$|^(cuda|hip)Free$|^cuMemFree$"
    r"|^(cuda|hip|cu)Memcpy(?!.*Async)(?!Peer).*$"
)
_COPIES = re.compile(r"^(cuda|hip|cu)Memcpy.*Async")
_LAUNCHES = re.compile(r"^(cuda|cu|hip)\w*Launch\w*Kernel\w*$")
_GRAPH_LAUNCHES = re.compile(r"^(cuda|cu|hip)GraphLaunch$")


def is_product(name: str) -> bool:
    """Whether an operator is a matrix product, and nothing else."""
    return name in PRODUCTS


def is_softmax(words: str) -> bool:
    """Whether an operator's or kernel's name is that of a softmax."""
    return _SOFTMAX.search(words) is not None and _LOG_SOFTMAX.search(words) is None


def has_sizes(name: str) -> bool:
    """Whether the shapes of an operator are kept."""
    return name in PRODUCTS or name in LAYERS


def is_step(name: str) -> bool:
    """Whether an annotation is a step of the profiler's schedule."""
    return name.startswith(_STEP)


def is_kept_annotation(name: str) -> bool:
    """Whether an annotation says what is done in it."""
    return _ANNOTATIONS.search(name) is not None


def is_kept_frame(name: str) -> bool:
    """Whether a Python function is a module, or says that it quantises."""
    return _FRAMES.search(name) is not None


def is_annotation(name: str) -> bool:
    """Whether a scope is one of those that a person or the profiler draws round Python code: being in it is no work."""
    return is_step(name) or name.startswith(("Optimizer.", "##", "nccl:", "enumerate(DataLoader)"))


def is_loading(name: str) -> bool:
    """Whether a scope is that of torch.utils.data.DataLoader handing out a batch."""
    return name.startswith("enumerate(DataLoader)")


def is_own_function(name: str) -> bool:
    """Whether a Python function is somebody's own: no built-in one, and none of torch."""
    return not name.startswith(("<", "torch/")) and "/torch/" not in name


def module_of(name: str) -> str | None:
    """The module that a Python function is ("Linear_12"), None if it is none."""
    return name.removeprefix("nn.Module: ")[:80] if name.startswith("nn.Module: ") else None


def role(name: str) -> str | None:
    """What an operator does, as a kind of GPU time or "gemm"; None if its name does not say."""
    if name in _FP8_PRODUCTS:
        return "fp8-gemm"
    if name in PRODUCTS:
        return "gemm"
    return next((found for pattern, found in _ROLES if pattern.search(name)), None) or None


def is_compiling(name: str) -> bool:
    """Whether an operator is a part of compiling."""
    return role(name) == "compile"


def is_trying(name: str) -> bool:
    """Whether a part of compiling is that kernels are tried."""
    return _TRYING.search(name) is not None


def graph_break_at(name: str) -> str | None:
    """The place where a compiled graph goes on after a break ("model.py(98)"), None if a frame is no such place."""
    place, found, _ = name.partition(": torch_dynamo_resume_in_")
    return place if found else None


def region_attempt(name: str) -> int:
    """How many times a region of torch.compile had been compiled before: 5 of "Torch-Compiled Region: 0/5"."""
    found = _ATTEMPT.search(name)
    return int(found[1]) if found else 0


def region_level(name: str) -> int | None:
    """0 for a region of torch.compile, 1 for a graph of Inductor, 2 for its autograd function; None for all else."""
    return next((level for prefix, level in _REGIONS if name.startswith(prefix)), None)


def call_kind(name: str) -> str | None:
    """ "wait", "copy" (waits or not), "launch" or "graph-launch"; None for any other call."""
    plain = _VERSION.sub("", name)
    if _LAUNCHES.search(plain):
        return "launch"
    if _GRAPH_LAUNCHES.search(plain):
        return "graph-launch"
    if _COPIES.search(plain):
        return "copy"
    return "wait" if _WAITS.search(plain) else None
