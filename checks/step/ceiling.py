"""What would FP8 give this step at best?"""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.checks.gpu import FIRST_FP8, capability
from fp8doctor.checks.step.by_hand import layer_us
from fp8doctor.checks.step.sums import (
    FP8,
    FULL,
    LEAST,
    MUCH,
    SIXTEEN,
    a_step,
    eager_quantising,
    fp8_products,
    launching_us,
    part,
    quantising_us,
    shown,
    span_of,
    took,
    unreadable,
    us_of,
)
from fp8doctor.model import Action, Evidence, Exhibit, Finding, NotApplicable, Severity, Unknown, Verdict
from fp8doctor.observed import Model
from fp8doctor.registry import exhibit, rule
from fp8doctor.traced import Trace

# FP8's dense rate over BF16's, on every board that has both.
RATE = 2.0
# A ceiling under this is worth telling of a step that runs in FP8 already.
LOW_CEILING = 1.3
ROUNDING = 1.001


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
    # Kernels that run at once each count in full: together they take no longer than the GPU is busy.
    once = trace.at_once
    sixteen, eight = once * layer_us(trace, *SIXTEEN), once * us_of(trace, *FP8)
    casts = once * (quantising_us(trace) if eight else us_of(trace, "dequantize"))
    span = span_of(trace)
    products = sixteen + RATE * eight
    if products <= 0 or casts >= span:
        return None
    bf16 = span - casts - eight + RATE * eight
    if products > ROUNDING * bf16:
        return None
    products = min(products, bf16)
    return Ceiling(span, products, bf16, bf16 - products + products / RATE)


def _has_no_fp8(trace: Trace) -> bool:
    seen = [found for text in trace.compute_capabilities or () if (found := capability(text))]
    return bool(seen) and all(found < FIRST_FP8 for found in seen)


def _waits_for_fp8(trace: Trace) -> bool:
    """Whether much of the time is waiting for launches that BF16 would not have."""
    return bool(eager_quantising(trace)) and (launching_us(trace) or 0.0) >= MUCH * span_of(trace)


def _was_tried(model: Model | None) -> bool:
    """Whether FP8 was measured in this model, beside which a bound from a recorded step tells nothing."""
    trials = (model.trials or ()) if model is not None else ()
    return any(trial.outcome == "ok" and "fp8" in (trial.config or "") for trial in trials)


@rule("STP020", "amdahl-only-gemm-faster", Severity.INFO, scope="usage")
def only_products_gain(trace: Trace, model: Model | None) -> Verdict:
    """FP8 in the products of layers alone makes nothing else faster: how much that can be for this step.

    What it means: a step is also attention, norms, element-wise work, communication and waiting. If the products of
    layers are the part f of the step in BF16, FP8 gives at most 1 / (1 - f + f/2), with products at twice the rate and
    scales and casts for nothing. FP8 in attention, in a KV cache and in communication is not part of it.

    Why it costs time: it costs none; it says what to expect. What is reached is less: casts take time, and a product
    rarely reaches twice the rate.

    What to do: look at the rest first where it is larger: compile, a faster attention, a CUDA graph, fewer copies.

    Sources: arithmetic on the trace (Amdahl's law); an estimate, and an upper bound for products of layers alone.
    Kernels that run at once share the time. The dense rate of FP8 is twice BF16's on every board that has both.
    NVIDIA/Megatron-LM#396.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    if _was_tried(model):
        return NotApplicable("what FP8 gives was tried on the model's blocks")
    found = ceiling_of(trace)
    open_us = layer_us(trace, *FULL, "other-gemm")
    if open_us > layer_us(trace, *SIXTEEN, *FP8) and not _has_no_fp8(trace):
        return Unknown("most products are in 32 bits or in a format that is not told: what BF16 takes was not recorded")
    if found is None or found.share < LEAST:
        return NotApplicable("no product here would run in FP8")
    if _waits_for_fp8(trace):
        return Unknown("the GPU waits for the launches that eager quantising adds: BF16's time was not recorded")
    if fp8_products(trace) and found.factor >= LOW_CEILING:
        return None
    recorded = "this step" if trace.steps else "what was recorded"
    return Finding(
        title=f"Perfect FP8 in products of layers alone would make {recorded} at most {found.factor:.2f}x "
        "as fast as BF16 (estimated)",
        evidence=(
            took("products of layers", trace.at_once * (layer_us(trace, *SIXTEEN) + us_of(trace, *FP8)), trace),
            Evidence(
                f"1 / (1 - f + f/2) with f = {part(found.products_us, found.bf16_us)} of the time in BF16",
                round(found.factor, 3),
                "x",
                "trace.us_by_kind",
            ),
        ),
        actions=(Action("Measure on this GPU what FP8 really gives", "fp8doctor"),),
    )


@exhibit
def ceiling_table(trace: Trace, model: Model | None) -> Exhibit | None:
    """The step as recorded, in BF16, and in perfect FP8."""
    found = ceiling_of(trace)
    if found is None or found.share < LEAST or _waits_for_fp8(trace) or _was_tried(model):
        return None
    rows = [("as recorded", found.recorded_us, ""), ("in BF16", found.bf16_us, "estimated")]
    if not fp8_products(trace):
        rows = [("as recorded", found.recorded_us, "")]
    rows.append(("perfect FP8 in them", found.fp8_us, "estimated, an upper bound: 1 / (1 - f + f/2)"))
    return Exhibit(
        id="step-ceiling",
        kind="table",
        title="what FP8 can give in products of layers alone, "
        f"f = {part(found.products_us, found.bf16_us)} of the time in BF16",
        unit="ms",
        rows=tuple(
            {
                "cells": {
                    "": name,
                    f"ms {a_step(trace)}": f"{shown(trace, us) / 1e3:,.2f}",
                    "over BF16": f"{found.bf16_us / us:.2f}x",
                    "how it is known": known or "recorded",
                }
            }
            for name, us, known in rows
        ),
    )
