"""What does the name of a GPU kernel say that belongs to no subject?

Asked last: names lie. Kernels of PyTorch, NCCL, cuDNN, Inductor, and of ROCm, where `at::native` reads the same.
"""

from __future__ import annotations

import re

_COMMUNICATION = re.compile(
    r"(?i)nccl|rccl|cross_device_reduce|all_?reduce|all_?gather|reduce_scatter|all_to_all|nvshmem|multimem_|deep_?ep::"
)
# PyTorch's own work on single elements, whatever operator it is done for.
_GENERIC = re.compile(r"at::native::.*(elementwise|reduce_kernel|CatArray|multi_tensor_apply)|^triton_(poi|red|per)_")
# cuBLASLt's, beside the product's own kernel ("nvjet_..._splitK_TNT", "cublasLt::splitKreduce_kernel").
_SPLIT = re.compile(r"(?i)split_?K_?reduce")
_INDUCTOR = re.compile(r"^triton_(poi|red|per|tem|for|unk)_(fused_)?(.*?)(_\d+)*$")
# The first hit wins.
_KINDS = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (
            r"(?i)fmha|flash_?attn|flash::|attention|sdpa|attn_(fwd|bwd|fprop|bprop)|mla_(fwd|decode)|PagedKVCache"
            r"|(Batch|Single)(Prefill|Decode)With|qk_int_sv_|\bmha_(fwd|bwd)",
            "attention",
        ),
        (r"float8_copy_kernel", "quantize"),
        (r"(?i)swizzle.*scal|scal.*swizzle", "scale-layout"),
        (r"(?i)dequant", "dequantize"),
        (r"(?i)quant(?!ile)|cast_to_fp8|to_fp8|fp8_cast|convert_fp8", "quantize"),
        (r"(?i)amax|absmax", "amax"),
        (
            r"(?i)(layer|rms|group|batch)_?norm|RowwiseMoments|GammaBeta|bn_(fw|bw)_|ln_(fwd|bwd)|compute_internal_gradients",
            "normalisation",
        ),
        (r"(?i)\badamw?\b|adam_?w?_?(kernel|math|functor)|FusedAdam|FusedSgd|lamb_stage|_foreach_lerp", "optimizer"),
        (
            r"(?i)scudnn|implicit_?gemm|convolve|xmma_(fprop|dgrad|wgrad)|winograd|conv\d?d|depthwise|wgrad|dgrad"
            r"|nchwToNhwc|nhwcToNchw|cudnn::.*(fprop|computeOffsets)|miopen|computeOffsetsKernel|fprop",
            "convolution",
        ),
        # hipBLASLt's: the types of A, B and the result follow the layout (F8 and B8 are both FP8; B is BF16, H FP16).
        (r"Cijk_\w*?_(F8|B8)", "fp8-gemm"),
        (r"Cijk_\w*?_(BBS|BSS|BS|BB)_", "bf16-gemm"),
        (r"Cijk_\w*?_(HHS|HSS|HS|HB|H)_", "fp16-gemm"),
        (r"Cijk_\w*?_(SB|S|SS)_", "fp32-gemm"),
        (r"Cijk_\w*?_I8", "int8-gemm"),
        (r"(?i)fp8_?\w*(matmul|gemm|_mm)|(matmul|gemm|_mm)_\w*fp8", "fp8-gemm"),
        (
            r"(?i)(?<!fb)gemm|gemv|marlin|splitK|nvjet|matmul|Cijk_|scaled_mm|epilogue::impl|triton_tem_fused_\w*mm",
            "other-gemm",
        ),
        (r"FillFunctor", "fill"),
        (
            r"(?i)elementwise|reduce_kernel|softmax|CatArray|index\w*_kernel|indexSelect|gather|scatter|dropout|copy_kernel"
            r"|embedding|rope|rotary|silu|gelu|act_and_mul|multi_tensor_apply|distribution|masked_|triu_tril|upsample"
            r"|pool|vectorized|pointwise|cumsum|scan_",
            "elementwise",
        ),
    )
)
# What Inductor names when all that a kernel does is to scale and cast.
_SCALING = re.compile(
    r"_scaled_mm|_to_copy|convert_element_type|_?unsafe_view|abs|a?max(imum)?|aminmax|clamp(_min|_max)?|div|mul|reciprocal|view|reshape"
    r"|transpose|permute|clone|log2|exp2|floor|ceil|pow|eq|where|full|unsqueeze|squeeze|expand|slice|copy|t|_|\d"
)
_NORMS = re.compile(r"_?fused_(rms|layer)_norm(_backward)?")
_NORMALISING = re.compile(r"layer_norm|rms_norm|group_norm|batch_norm|(?=.*mean)(?=.*rsqrt)")


def is_communication(name: str) -> bool:
    """Whether a kernel moves data between GPUs."""
    return _COMMUNICATION.search(name) is not None


def is_generic(name: str) -> bool:
    """Whether a kernel works element by element, so that the operator above it need not be what its name says."""
    return _GENERIC.search(name) is not None


def is_reduction_of_product(name: str) -> bool:
    """Whether a kernel adds up the parts of a product that was split along K."""
    return _SPLIT.search(name) is not None


def is_inductor(name: str) -> bool:
    """Whether Inductor wrote a kernel."""
    return _INDUCTOR.search(name) is not None


def kind_by_name(name: str) -> str | None:
    """The kind of a kernel that no subject knows; None if its name does not tell."""
    if (triton := _INDUCTOR.match(name)) is not None and triton[1] != "tem":
        return _kind_of_fusion(triton[1], triton[3])
    return next((kind for pattern, kind in _KINDS if pattern.search(name)), None)


def _kind_of_fusion(heuristic: str, fused: str) -> str:
    """The kind of an Inductor kernel, whose name lists the operators fused in it.

    A kernel counts as quantising only if it does nothing else: where the cast is fused into a norm or an activation,
    that kernel would run anyway.
    """
    if heuristic == "for" or "foreach" in fused or "adam" in fused:
        return "optimizer"
    # In a pointwise kernel a norm is at most its last multiplication: what casts to FP8 there casts.
    fused = _NORMS.sub("", fused) if heuristic == "poi" else fused
    scales = (
        "amax" in fused or "abs" in fused or ("clamp" in fused and ("_to_copy" in fused or "convert_element" in fused))
    )
    if scales and not _SCALING.sub("", fused):
        return "quantize" if "clamp" in fused else "amax"
    return "normalisation" if _NORMALISING.search(fused) else "elementwise"


def backend_by_name(name: str) -> str | None:
    """Which implementation an attention kernel is from; None if its name does not tell."""
    for pattern, backend in (
        (r"FlashAttentionForwardSm|FlashAttentionBackwardSm", "flash-attn-4"),
        (r"flash::enable_sm90|FlashAttn(Fwd|Bwd)Sm", "flash-attn-3"),
        (r"pytorch_flash::", "flash"),
        (r"flash::flash_(fwd|bwd)", "flash-attn-2"),
        (r"(?i)cudnn_generated|cudnn.*sdpa", "cudnn"),
        (r"fmha_cutlass", "efficient"),
    ):
        if re.search(pattern, name):
            return backend
    return None


def backend_by_operator(name: str) -> str | None:
    """Which implementation an attention operator calls; None if its name does not tell."""
    for pattern, backend in (
        (r"attention_math", "math"),
        (r"cudnn_attention", "cudnn"),
        (r"efficient_attention", "efficient"),
        (r"FusedAttn|AttnFuncWithCP", "te"),
        (r"aten::_(scaled_dot_product_)?flash_attention", "flash"),
        (r"flash_attn_3|FlashAttn3|_fa3", "flash-attn-3"),
        (r"flash_attn::|FlashAttn\w*Func", "flash-attn-2"),
    ):
        if re.search(pattern, name):
            return backend
    return None


def precision_by_types(name: str) -> str | None:
    """ "16-bit" or "32-bit" by the types in a template's name; templates for 16 bits calculate in FP32."""
    if re.search(r"c10::(BFloat16|Half)\b", name):
        return "16-bit"
    return "32-bit" if re.search(r"<float\b", name) else None


def precision_by_name(name: str) -> str | None:
    """ "fp8", "16-bit" or "32-bit" where a kernel's name says so. cuDNN's attention has "f16" in it for FP8, too."""
    if re.search(r"(?i)e4m3|e5m2|fp8|float8|_f8_", name):
        return "fp8"
    if re.search(r"(?i)cudnn", name):
        return None
    if re.search(r"(?i)bf16|bfloat16|half_t|__half|f16_|fp16", name):
        return "16-bit"
    return "32-bit" if re.search(r"(?i)_f32_|tf32|sgemm|fp32", name) else None
