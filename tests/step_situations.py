"""Steps with one fault each, or none, as traces: what a subject's rules must tell apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fp8doctor.traced import CastTotal, KernelTotal, ProductTotal, Trace
from tests.step_facts import (
    BF16,
    ELEMENTWISE,
    FP8,
    FP32,
    LAYERS,
    NVJET_BF16,
    NVJET_FP8,
    STEPS,
    attention,
    gemms,
    head,
    kernel,
    layers,
    operator,
    product,
    rest,
    trace,
    wait,
)


def healthy_bf16() -> Trace:
    """Compiled BF16."""
    products = [*layers("bf16-gemm"), *head()]
    kernels = [*gemms(products), *rest(eager=False), *attention()]
    return trace(kernels, products=tuple(products), compiled_regions=6, inductor_kernels=27)


def eager_bf16() -> Trace:
    """BF16, nothing compiled."""
    products = [*layers("bf16-gemm"), *head()]
    return trace([*gemms(products), *rest(), *attention()], products=tuple(products), launching=200.0)


def healthy_fp8() -> Trace:
    """Compiled FP8, row-wise."""
    products = [*layers("fp8-gemm"), *head()]
    kernels = [
        *gemms(products),
        *rest(eager=False),
        *attention(),
        kernel("quantize", "triton_red_fused__to_copy_abs_amax_clamp_div_3", None, 8, 330),
    ]
    return trace(kernels, products=tuple(products), compiled_regions=6, inductor_kernels=51)


def eager_fp8(rows: int = 4096, **more: Any) -> Trace:
    """torchao's layers, row-wise, nothing compiled."""
    scale = rows / 4096
    products = [*layers("fp8-gemm", rows), *head()]

    def one(name: str, above: str, us: float, kind: str = "elementwise") -> KernelTotal:
        return kernel(kind, name, above, 14, max(us * scale, 14 * 2.2))

    kernels = [
        *gemms(products),
        *rest(scale=max(scale, 0.1)),
        *attention(max(scale, 0.05)),
        one(ELEMENTWISE.format("abs_kernel_cuda"), "aten::abs", 420),
        one("void at::native::reduce_kernel<512, 1, ReduceOp<MaxNanFunctor>>", "aten::amax", 300),
        one(ELEMENTWISE.format("direct_copy_kernel_cuda"), "aten::copy_", 600),
        one(ELEMENTWISE.format("BinaryFunctor<DivFunctor>"), "aten::div", 800),
        one(ELEMENTWISE.format("clamp_scalar_kernel_impl"), "aten::clamp", 800),
        one(ELEMENTWISE.format("float8_copy_kernel_cuda"), "aten::copy_", 500, "quantize"),
    ]
    casts = (CastTotal(FP32, FP8, STEPS * 14, STEPS * 500.0),)
    return trace(kernels, **{"products": tuple(products), "casts": casts, "launching": 350.0, **more})


def eager_fp8_by_functions() -> Trace:
    """The same recorded with stacks: the Python function says that it quantises."""
    function = "torchao/quantization/quant_primitives.py(2339): _quantize_affine_float8"
    found = eager_fp8()
    names = {"aten::abs": "amax", "aten::amax": "amax", "aten::div": "quantize", "aten::clamp": "quantize"}
    kernels = [
        replace(k, kind=names[k.operator], operator=function) if k.operator in names else k for k in found.kernels or ()
    ]
    return trace(kernels, products=found.products, launching=350.0)


def sixteen_tokens() -> Trace:
    """The same with sixteen tokens: the host is far behind."""
    return eager_fp8(16, launching=3500.0)


def weight_only() -> Trace:
    """torchao's weight-only FP8, eager: cast to FP32, multiplied by the scale, cast to BF16, multiplied in BF16."""
    products = [*layers("bf16-gemm"), *head()]
    kernels = [
        *gemms(products),
        *rest(),
        *attention(),
        kernel("dequantize", "unrolled_elementwise_kernel<direct_copy_kernel_cuda>", "aten::copy_", 14, 520),
        kernel("elementwise", ELEMENTWISE.format("BinaryFunctor<MulFunctor<float>>"), "aten::mul", 14, 830),
        kernel("copy-on-device", ELEMENTWISE.format("bfloat16_copy_kernel_cuda"), "aten::copy_", 14, 620),
    ]
    casts = (CastTotal(FP8, FP32, STEPS * 14, STEPS * 520.0),)
    return trace(kernels, products=tuple(products), casts=casts)


def storage_only() -> Trace:
    """FP8 weights cast to BF16 before each product, without scales."""
    products = [*layers("bf16-gemm"), *head()]
    cast = kernel("dequantize", "unrolled_elementwise_kernel<direct_copy_kernel_cuda>", "aten::copy_", 14, 330)
    casts = (CastTotal(FP8, BF16, STEPS * 14, STEPS * 330.0),)
    return trace([*gemms(products), *rest(), *attention(), cast], products=tuple(products), casts=casts)


def transformer_engine(passes: int, us: float, *, launching: float) -> Trace:
    """Two te.Linear trained with current scaling: three products and three casts each, for each micro-batch."""
    te = "void transformer_engine::"
    kernels = [
        kernel("fp8-gemm", NVJET_FP8, None, 6 * passes, 6 * passes * us),
        kernel("amax", te + "(anonymous namespace)::amax_kernel<16>(x)", None, 6 * passes, 6 * passes * us / 5),
        kernel("quantize", te + "cast_transpose_kernel<x>", None, 6 * passes, 6 * passes * us / 3),
        kernel("elementwise", ELEMENTWISE.format("FillFunctor"), "aten::fill_", passes, 2.0 * passes),
        kernel("elementwise", ELEMENTWISE.format("CUDAFunctor_add"), "aten::add_", 2 * passes, 9.0 * passes),
        kernel("other", "void at::native::reduce_kernel<512, 1, ReduceOp<sum>>", "aten::sum", passes, 12.0 * passes),
    ]
    called = (
        operator("_Linear", 2 * passes, 110.0),
        operator("_LinearBackward", 2 * passes, 140.0),
        operator("aten::ones_like", passes),
    )
    return trace(kernels, launching=launching, operators=called)


def te_small_layers() -> Trace:
    """1,024 x 1,024 layers with 1,024 tokens."""
    return transformer_engine(1, 6.0, launching=1100.0)


def te_microbatches() -> Trace:
    """4,096 x 4,096 layers, eight micro-batches of 2,048 tokens."""
    return transformer_engine(8, 56.0, launching=2600.0)


def attention_fp32() -> Trace:
    """Queries, keys and values cast to FP32: torch falls back to products and softmax."""
    products = [*layers("bf16-gemm"), *head()]
    kernels = [
        *gemms(products),
        *rest(),
        kernel("tf32-gemm", "sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n", "aten::bmm", 4, 6200, precision="32-bit"),
        kernel("elementwise", "void (anonymous namespace)::softmax_warp_forward<float>", "aten::_softmax", 2, 2400),
        kernel("elementwise", ELEMENTWISE.format("float"), "aten::add", 2, 3000, precision="32-bit"),
    ]
    called = (operator("aten::_scaled_dot_product_attention_math", 2),)
    return trace(kernels, products=tuple(products), operators=called)


def attention_sdpa_math() -> Trace:
    """Torch's own fallback: its products and softmax count as attention."""
    above = "aten::scaled_dot_product_attention"
    products = [*layers("bf16-gemm"), *head()]
    kernels = [
        *gemms(products),
        *rest(),
        kernel("attention", "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n", above, 4, 6200, precision="32-bit"),
        kernel("attention", "void (anonymous namespace)::softmax_warp_forward<float>", above, 2, 2400),
        kernel("attention", ELEMENTWISE.format("CUDAFunctor_add<float>"), above, 2, 3000),
    ]
    called = (operator("aten::_scaled_dot_product_attention_math", 2),)
    return trace(kernels, products=tuple(products), operators=called)


def attention_efficient_fp32() -> Trace:
    """In FP32, by torch's efficient kernel."""
    products = [*layers("bf16-gemm"), *head()]
    above = "aten::_scaled_dot_product_efficient_attention"
    slow = kernel("attention", "fmha_cutlassF_f32_aligned_64x64_rf_sm80", above, 2, 9000, backend="efficient")
    return trace([*gemms(products), *rest(), replace(slow, precision="32-bit")], products=tuple(products))


def attention_math() -> Trace:
    """Attention by hand, in BF16."""
    products = [*layers("bf16-gemm"), *head()]
    kernels = [
        *gemms(products),
        *rest(),
        kernel("bf16-gemm", NVJET_BF16, "aten::bmm", 4, 1100),
        kernel("elementwise", ELEMENTWISE.format("masked_fill"), "aten::masked_fill", 2, 1000),
        kernel("elementwise", ELEMENTWISE.format("DivFunctor"), "aten::div", 2, 1000),
        kernel(
            "elementwise", "void (anonymous namespace)::softmax_warp_forward<c10::BFloat16>", "aten::_softmax", 2, 1000
        ),
    ]
    return trace(kernels, products=tuple(products))


def _lora_products() -> list[ProductTotal]:
    small = []
    for (k, n), (calls, _) in LAYERS.items():
        small.append(product("bf16-gemm", 4096, k, 16, calls, calls * 12.0 * k / 4096))
        small.append(product("bf16-gemm", 4096, 16, n, calls, calls * 11.0 * n / 4096))
    return small


def lora_unfused() -> Trace:
    """A LoRA of rank 16 beside each layer, in BF16."""
    products = [*layers("bf16-gemm"), *head(), *_lora_products()]
    added = kernel("elementwise", ELEMENTWISE.format("CUDAFunctor_add<c10::BFloat16>"), "aten::add", 14, 560)
    return trace([*gemms(products), *rest(), *attention(), added], products=tuple(products), launching=400.0)


def lora_on_fp8() -> Trace:
    """The same beside layers in FP8, compiled."""
    products = [*layers("fp8-gemm"), *head(), *_lora_products()]
    kernels = [
        *gemms(products),
        *rest(eager=False, scale=2.5),
        *attention(),
        kernel("quantize", "triton_red_fused__to_copy_abs_amax_clamp_div_3", None, 8, 330),
    ]
    return trace(kernels, products=tuple(products), compiled_regions=6, inductor_kernels=51)


def half_converted() -> Trace:
    """Compiled; the feed-forward's layers in FP8, attention's in BF16."""
    feed = ((4096, 14336), (14336, 4096))
    stayed = tuple(size for size in LAYERS if size not in feed)
    products = [*layers("fp8-gemm", only=feed), *layers("bf16-gemm", only=stayed), *head()]
    kernels = [
        *gemms(products),
        *rest(eager=False),
        *attention(),
        kernel("quantize", "triton_red_fused__to_copy_abs_amax_clamp_div_3", None, 4, 250),
    ]
    return trace(kernels, products=tuple(products), compiled_regions=6, inductor_kernels=45)


def item_in_every_block() -> Trace:
    """BF16 with 512 tokens, and a value read back after each block."""
    products = layers("bf16-gemm", 512)
    looks = (
        wait("cudaStreamSynchronize", "aten::_local_scalar_dense", 2, 380.0, 8.0),
        wait("cudaMemcpyAsync", "aten::_local_scalar_dense", 2, 10.0, 2.0),
    )
    kernels = [
        *gemms(products),
        *rest(scale=0.15),
        *attention(0.06),
        kernel("copy-to-host", "Memcpy DtoH", None, 2, 2.0),
    ]
    return trace(kernels, products=tuple(products), waits=looks, launching=330.0)


def weights_from_host() -> Trace:
    """The blocks' weights come over PCIe at every step."""
    products = [*layers("bf16-gemm"), *head()]
    copies = kernel("copy-from-host", "Memcpy HtoD (Pinned -> Device)", "aten::copy_", 18, 16_000)
    return trace([*gemms(products), *rest(), *attention(), copies], products=tuple(products))


def host_asleep() -> Trace:
    """Compiled BF16; the host sleeps for 20 ms after each step."""
    healthy = healthy_bf16()
    asleep = STEPS * 20_000.0
    assert healthy.span_us
    assert healthy.idle_us
    return replace(
        healthy, span_us=healthy.span_us + asleep, idle_us=healthy.idle_us + asleep, idle_elsewhere_us=asleep
    )


def without_autocast() -> Trace:
    """Transformer Engine's layers in FP8, all else in FP32."""
    base = transformer_engine(1, 120.0, launching=300.0)
    wide = [
        kernel("fp32-gemm", "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n", "aten::mm", 1, 900, precision="32-bit"),
        kernel("elementwise", ELEMENTWISE.format("gelu<float>"), "aten::gelu", 2, 400, precision="32-bit"),
        kernel("attention", "fmha_cutlassF_f32_aligned_64x64_rf_sm80", "aten::_efficient_attention_forward", 2, 900),
    ]
    return trace([*(base.kernels or ()), *(replace(k, precision="32-bit") for k in wide)], launching=300.0)
