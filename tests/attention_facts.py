"""Attention as it was timed on an H200 (benchmarks/RESULTS.md), route by route, and changes to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import fp8doctor.checks.attention_times
from fp8doctor.checks.attention_times.facts import AttentionCase, AttentionTimes
from fp8doctor.checks.attention_times.shapes import DEFAULT_USES, flops
from fp8doctor.checks.gpu import capability
from fp8doctor.measuring.timer import Method
from fp8doctor.measuring.workloads import AttentionUse
from fp8doctor.model import Candidate, Estimate, Exhibit, Finding, RuleResult
from fp8doctor.registry import Registry

IMAGE, CAUSAL = DEFAULT_USES
# TFLOP/s at the image model's call and at a causal one (forward, BF16 but for the last). FlashAttention 2's package was
# taken to be as fast as torch's flash backend, which is the same code.
RATES = {
    "torch-sdpa": (644.7, 615.9),
    "torch-sdpa-flash": (330.6, 320.0),
    "torch-sdpa-efficient": (165.3, 165.2),
    "torch-sdpa-cudnn": (646.0, 619.1),
    "torch-sdpa-math": (23.7, 10.0),
    "flash-attn-2": (330.6, 320.0),
    "te-attention": (644.2, 625.5),
    "te-fp8-delayed-attention": (690.4, 689.6),
}
_BACKENDS = {
    "torch-sdpa": "cudnn",
    "te-attention": "FusedAttention (sub-backend 1)",
    "te-fp8-delayed-attention": "FusedAttention (sub-backend 2)",
}
_KERNELS = {
    "torch-sdpa": "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_kernel0_0",
    "torch-sdpa-flash": "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4, false>>",
    "flash-attn-2": "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4, false>>",
}
NO_BACKEND = "Disabling FusedAttention for FP8 current scaling on arch < sm100"


def us(value: float) -> Estimate:
    """A time whose interval is one per cent wide."""
    return Estimate(value, 0.995 * value, 1.005 * value, 15, 0.002 * value)


def case(route: str, use: AttentionUse, tflops: float | None, **more: Any) -> AttentionCase:
    """A route at a call, timed where it has a rate."""
    fp8 = "fp8" in route
    trains = bool(more.get("trains"))
    fields: dict[str, Any] = {
        "route": route,
        "trains": trains,
        "batch": use.batch,
        "heads": use.heads,
        "kv_heads": use.kv_heads,
        "queries": use.queries,
        "keys": use.keys,
        "head_dim": use.head_dim,
        "causal": use.causal,
        "calls": use.calls,
        "outcome": "ok",
        "backend": _BACKENDS.get(route),
        "device_us": None if tflops is None else us(flops(use, trains=trains) / tflops * 1e-6),
        "tflops": tflops,
        "relative_error": 0.059 if fp8 else 0.0022,
        "relative_error_limit": 0.12 if fp8 else 0.011,
        "bf16_error_limit": 0.011,
        "kernel": _KERNELS.get(route),
    }
    return AttentionCase(**{**fields, **more})


def refused(route: str, use: AttentionUse, why: str, outcome: str = "refused") -> AttentionCase:
    """A route that came to nothing."""
    return case(route, use, None, outcome=outcome, error=why, relative_error=None, kernel=None, backend=None)


TIMES = AttentionTimes(
    measurable=True,
    method=Method(1, 126 << 20, 15, "median"),
    device_name="NVIDIA H200",
    compute_capability="9.0",
    cases=(
        *(case(route, IMAGE, rates[0]) for route, rates in RATES.items()),
        refused("te-fp8-current-attention", IMAGE, NO_BACKEND),
        refused(
            "te-mxfp8-attention",
            IMAGE,
            "Device compute capability 10.0 or higher required for MXFP8 execution.",
            "unavailable",
        ),
        refused("flash-attn-2-fp8", IMAGE, "RuntimeError: FlashAttention only support fp16 and bf16 data type"),
        *(case(route, CAUSAL, rates[1]) for route, rates in RATES.items()),
        refused("te-fp8-current-attention", CAUSAL, NO_BACKEND),
    ),
    not_measured=(),
)
NO_GPU = AttentionTimes(measurable=False, why_not="torch sees no GPU")
assert capability(TIMES.compute_capability) == (9, 0)


def only(*routes: str) -> AttentionTimes:
    """The facts with these routes alone."""
    return replace(TIMES, cases=tuple(c for c in TIMES.cases or () if c.route in routes))


def changed(route: str, use: AttentionUse | None = None, **fields: Any) -> AttentionTimes:
    """The facts with other fields in each case of `route` (at `use`)."""
    hits = [
        c for c in TIMES.cases or () if c.route == route and (use is None or (c.heads, c.keys) == (use.heads, use.keys))
    ]
    assert hits, route
    return replace(TIMES, cases=tuple(replace(c, **fields) if c in hits else c for c in TIMES.cases or ()))


def more(*cases: AttentionCase) -> AttentionTimes:
    """The facts with these cases besides."""
    return replace(TIMES, cases=(*(TIMES.cases or ()), *cases))


REGISTRY = Registry()
REGISTRY.collect(fp8doctor.checks.attention_times)


def verdict(rule: str, times: AttentionTimes) -> RuleResult:
    """What the rule with this id says of these facts."""
    return REGISTRY.rules[rule].function(times)


def findings(rule: str, times: AttentionTimes) -> list[Finding]:
    """The findings of the rule with this id."""
    result = verdict(rule, times)
    return [item for item in (result if isinstance(result, list) else [result]) if isinstance(item, Finding)]


def finding(rule: str, times: AttentionTimes) -> Finding:
    """The finding of the rule with this id; it must have one."""
    (found,) = findings(rule, times)
    return found


def candidates(times: AttentionTimes) -> list[Candidate]:
    """All that competes."""
    return [one for maker in REGISTRY.makers if maker.makes == "candidates" for one in maker.function(times)]


def exhibits(times: AttentionTimes) -> dict[str, Exhibit]:
    """All that there is to look at, by id."""
    made = [maker.function(times) for maker in REGISTRY.makers if maker.makes == "exhibit"]
    return {shown.id: shown for shown in made if shown is not None}
