"""Parts of traces as facts: a step of two wide Llama blocks on an H200 (4,096 tokens, width 4,096).

Times are those that such kernels take there, rounded; all numbers are of one step and multiplied by three.
"""

from __future__ import annotations

from typing import Any

from fp8doctor.traced import KernelTotal, OperatorTotal, ProductTotal, Trace, WaitTotal

STEPS = 3
BF16, FP8, FP32 = "c10::BFloat16", "c10::Float8_e4m3fn", "float"
ELEMENTWISE = "void at::native::vectorized_elementwise_kernel<8, at::native::{}>"
NVJET_BF16 = "nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_TNT"
NVJET_FP8 = "nvjet_sm90_qqtst_128x256_128x6_2x1_v_bz_ovscale_coopA_TNT"
CUDNN = "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_kernel0_0"
# (K, N), calls a step and us each in BF16 at 4,096 tokens; FP8 takes 0.55 of it.
LAYERS = {(4096, 4096): (4, 190.0), (4096, 1024): (4, 52.0), (4096, 14336): (4, 655.0), (14336, 4096): (2, 650.0)}
HEAD = ((4096, 4096), 1, 190.0)


def kernel(kind: str, name: str, operator: str | None, count: int, us: float, **more: Any) -> KernelTotal:
    """All launches of one kernel, of one step."""
    known = {"known_by": "operator" if operator else "name", **more}
    return KernelTotal(kind, name, operator, count=STEPS * count, us=STEPS * us, **known)


def product(kind: str, m: int, k: int, n: int, count: int, us: float, *modules: str) -> ProductTotal:
    """All products of one size, of one step."""
    operator, types = ("aten::_scaled_mm", (FP8, FP8)) if kind == "fp8-gemm" else ("aten::mm", (BF16, BF16))
    return ProductTotal(
        operator, kind, m, k, n, types=types, modules=modules or None, count=STEPS * count, us=STEPS * us
    )


def operator(name: str, count: int, host_us: float = 5.0, device_us: float = 0.0) -> OperatorTotal:
    """One operator, of one step; host time for each call."""
    return OperatorTotal(name, STEPS * count, STEPS * count * host_us, STEPS * device_us)


def wait(call: str, above: str | None, count: int, us: float, idle_us: float) -> WaitTotal:
    """A call that waits, of one step."""
    return WaitTotal(call, above, STEPS * count, STEPS * us, STEPS * idle_us)


def trace(
    kernels: list[KernelTotal],
    *,
    launching: float = 100.0,
    waiting: float = 20.0,
    elsewhere: float = 60.0,
    operators: tuple[OperatorTotal, ...] = (),
    **more: Any,
) -> Trace:
    """A whole trace of these kernels, idle for so long a step."""
    us: dict[str, float] = {}
    count: dict[str, int] = {}
    for one in kernels:
        assert one.kind is not None
        assert one.us is not None
        assert one.count is not None
        us[one.kind] = us.get(one.kind, 0.0) + one.us
        count[one.kind] = count.get(one.kind, 0) + one.count
    busy, idle = sum(us.values()), STEPS * (launching + waiting + elsewhere)
    by_operator = [
        OperatorTotal(k.operator, k.count, 6.0 * (k.count or 0), k.us) for k in kernels if k.operator is not None
    ]
    known: dict[str, Any] = {
        "format": "pytorch-profiler",
        "torch_version": "2.11.0",
        "accelerator": "cuda",
        "device_names": ("NVIDIA H200",),
        "compute_capabilities": ("9.0",),
        "has_shapes": True,
        "has_stacks": True,
        "steps": STEPS,
        "step_us": (busy + idle) / STEPS,
        "span_us": busy + idle,
        "busy_us": busy,
        "idle_us": idle,
        "idle_launching_us": STEPS * launching,
        "idle_waiting_us": STEPS * waiting,
        "idle_elsewhere_us": STEPS * elsewhere,
        "us_by_kind": us,
        "count_by_kind": count,
        "kernels": tuple(kernels),
        "kernels_left_out_us": 0.0,
        "products": (),
        "casts": (),
        "operators": (*by_operator, *operators),
        "waits": (wait("cudaDeviceSynchronize", None, 1, 500.0, 10.0),),
        "launches": sum(count.values()),
        "graph_launches": 0,
        "compiled_regions": 0,
        "inductor_kernels": 0,
        "compilations": 0,
        "compilation_us": 0.0,
        "communication_us": 0.0,
        "exposed_communication_us": 0.0,
    }
    return Trace(**{**known, **more})


def layers(kind: str, rows: int = 4096, *, only: tuple[tuple[int, int], ...] | None = None) -> list[ProductTotal]:
    """The products of the blocks' layers in one format."""
    factor = 0.55 if kind == "fp8-gemm" else 1.0
    return [
        product(kind, rows, k, n, calls, calls * max(us * factor * rows / 4096, 6.0), "Linear_0", "Linear_7")
        for (k, n), (calls, us) in LAYERS.items()
        if only is None or (k, n) in only
    ]


def gemms(products: list[ProductTotal]) -> list[KernelTotal]:
    """The kernels of these products."""
    names = {"fp8-gemm": NVJET_FP8, "bf16-gemm": NVJET_BF16}
    return [
        KernelTotal(p.kind, f"{names[p.kind or '']}_{p.k}_{p.n}", p.operator, "operator", p.count, p.us)
        for p in products
    ]


def head() -> list[ProductTotal]:
    """The model's last layer, in BF16."""
    (k, n), calls, us = HEAD
    return [product("bf16-gemm", 4096, k, n, calls, us, "Linear_14")]


def rest(*, eager: bool = True, scale: float = 1.0) -> list[KernelTotal]:
    """What stands beside the layers: norms, activation, rotations; attention apart."""
    if not eager:
        return [
            kernel("elementwise", "triton_poi_fused_mul_silu_4", None, 4, 220 * scale),
            kernel("normalisation", "triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_1", None, 5, 130 * scale),
        ]
    return [
        kernel("elementwise", ELEMENTWISE.format("silu_kernel"), "aten::silu", 2, 110 * scale, precision="16-bit"),
        kernel("elementwise", ELEMENTWISE.format("BinaryFunctor<MulFunctor>"), "aten::mul", 12, 330 * scale),
        kernel("elementwise", ELEMENTWISE.format("CUDAFunctor_add"), "aten::add", 8, 160 * scale, precision="16-bit"),
        kernel("normalisation", "vectorized_layer_norm_kernel", "aten::_fused_rms_norm", 5, 110 * scale),
    ]


def attention(scale: float = 1.0) -> list[KernelTotal]:
    """Fused attention, as torch picks it."""
    above = "aten::_scaled_dot_product_cudnn_attention"
    return [kernel("attention", CUDNN, above, 2, 480 * scale, backend="cudnn", precision="16-bit")]
