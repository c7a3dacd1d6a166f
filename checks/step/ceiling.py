"""What would FP8 give this step at best?"""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.checks.step.products import BATCHED
from fp8doctor.checks.step.sums import (
    FP8,
    LEAST,
    SIXTEEN,
    chosen,
    fp8_products,
    part,
    quantising_us,
    span_of,
    sum_us,
    took,
    unreadable,
    us_of,
)
from fp8doctor.model import Action, Evidence, Exhibit, Finding, NotApplicable, Severity, Verdict
from fp8doctor.registry import exhibit, rule
from fp8doctor.traced import Trace

# FP8's dense rate over BF16's, on every board that has both.
RATE = 2.0
# A ceiling under this is worth telling of a step that runs in FP8 already.
LOW_CEILING = 1.3
# The first compute capability with FP8 tensor cores.
FIRST_WITH_FP8 = (8, 9)


@dataclass(frozen=True)
class Ceiling:
    """The recorded time, the same in BF16 and in perfect FP8; the last two are estimates."""

    recorded_us: float
    products_us: float
    bf16_us: float
    fp8_us: float

    @property
    def factor(self) -> float:
        """Perfect FP8 over BF16."""
        return self.bf16_us / self.fp8_us

    @property
    def share(self) -> float:
        """The products' part of the time in BF16: the f of Amdahl's 1 / (1 - f + f/2)."""
        return self.products_us / self.bf16_us


def ceiling_of(trace: Trace) -> Ceiling | None:
    """Products at twice BF16's rate and nothing spent on casts; all else, the idle time too, as it is."""
    if unreadable(trace) is not None or _has_no_fp8(trace):
        return None
    attention = sum_us(chosen(trace, lambda k: k.operator in BATCHED and k.kind in SIXTEEN))
    sixteen = max(0.0, us_of(trace, *SIXTEEN) - attention)
    eight = us_of(trace, *FP8)
    casts = quantising_us(trace) if eight else us_of(trace, "dequantize")
    span = span_of(trace)
    products = sixteen + RATE * eight
    if products <= 0 or casts >= span:
        return None
    bf16 = span - casts - eight + RATE * eight
    return Ceiling(span, products, bf16, bf16 - products + products / RATE)


def _has_no_fp8(trace: Trace) -> bool:
    seen = [
        tuple(int(n) for n in c.split(".")) for c in trace.compute_capabilities or () if c.replace(".", "").isdigit()
    ]
    return bool(seen) and all(capability < FIRST_WITH_FP8 for capability in seen)


@rule("STP020", "amdahl-only-gemm-faster", Severity.INFO, scope="usage")
def only_products_gain(trace: Trace) -> Verdict:
    """FP8 makes the products of layers faster and nothing else: how much that can be for this step.

    What it means: a step is also attention, norms, element-wise work, communication and waiting. If the products of
    layers are the part f of the step in BF16, FP8 gives at most 1 / (1 - f + f/2), with products at twice the rate and
    scales and casts for nothing.

    Why it costs time: it costs none; it says what to expect. What is reached is less: casts take time, and a product
    rarely reaches twice the rate.

    What to do: look at the rest first where it is larger: compile, a faster attention, a CUDA graph, fewer copies.

    Sources: arithmetic on the trace (Amdahl's law); an estimate, and an upper bound. The dense rate of FP8 is twice
    BF16's on every board that has both. NVIDIA/Megatron-LM#396.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    found = ceiling_of(trace)
    if found is None or found.share < LEAST:
        return NotApplicable("no product here would run in FP8")
    if fp8_products(trace) and found.factor >= LOW_CEILING:
        return None
    return Finding(
        title=f"Perfect FP8 would make this step at most {found.factor:.2f}x as fast as BF16 (estimated)",
        evidence=(
            took("products of layers", us_of(trace, *SIXTEEN, *FP8), trace),
            Evidence(
                f"1 / (1 - f + f/2) with f = {part(found.products_us, found.bf16_us)} of the step in BF16",
                round(found.factor, 3),
                "x",
                "trace.us_by_kind",
            ),
        ),
        actions=(Action("Measure on this GPU what FP8 really gives", "fp8doctor"),),
    )


@exhibit
def ceiling_table(trace: Trace) -> Exhibit | None:
    """The step as recorded, in BF16, and in perfect FP8."""
    found = ceiling_of(trace)
    if found is None or found.share < LEAST:
        return None
    steps = trace.steps or 1
    rows = [("as recorded", found.recorded_us, ""), ("in BF16", found.bf16_us, "estimated")]
    if not fp8_products(trace):
        rows = [("as recorded", found.recorded_us, "")]
    rows.append(("in perfect FP8", found.fp8_us, "estimated, an upper bound: 1 / (1 - f + f/2)"))
    return Exhibit(
        id="step-ceiling",
        kind="table",
        title=f"what FP8 can give, products of layers f = {part(found.products_us, found.bf16_us)} of the step in BF16",
        unit="ms",
        rows=tuple(
            {
                "cells": {
                    "": name,
                    "ms a step": f"{us / steps / 1e3:,.2f}",
                    "over BF16": f"{found.bf16_us / us:.2f}x",
                    "how it is known": known or "recorded",
                }
            }
            for name, us, known in rows
        ),
    )
