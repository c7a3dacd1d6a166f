"""What is worth looking at in a trace: where a step's time went, the largest kernels and products."""

from __future__ import annotations

from fp8doctor.checks.step.sums import a_step, elsewhere_us, launching_us, part, shown, span_of, unreadable
from fp8doctor.measuring.statistics import factor_columns
from fp8doctor.model import Exhibit
from fp8doctor.registry import exhibit
from fp8doctor.traced import KIND_WORDS, ProductTotal, Trace

LARGEST = 10
# Kinds below this part of the recorded time are drawn as one.
LEAST_DRAWN = 0.01


def words(kind: str) -> str:
    """A kind as a person calls it."""
    return KIND_WORDS.get(kind, kind)


@exhibit
def where_time_went(trace: Trace) -> Exhibit | None:
    """A step's time by kind, the largest first, and what the GPU was idle for; kernels that run at once share it."""
    if unreadable(trace) is not None:
        return None
    span = span_of(trace)
    kinds = sorted((trace.us_by_kind or {}).items(), key=lambda item: -item[1])
    kinds = [(kind, trace.share(kind, us) * span) for kind, us in kinds]
    drawn = [(words(kind), us) for kind, us in kinds if us >= LEAST_DRAWN * span]
    if (rest := sum(us for _, us in kinds) - sum(us for _, us in drawn)) > 0:
        drawn.append(("all other kinds", rest))
    idle = [
        ("idle, host launches", launching_us(trace)),
        ("idle, host waits", trace.idle_waiting_us),
        ("idle, host elsewhere", elsewhere_us(trace)),
    ]
    if all(us is None for _, us in idle):
        idle = [("idle", trace.idle_us)]
    drawn += [(label, us) for label, us in idle if us]
    whole = "a step" if trace.steps else "the recording"
    earlier = f" ({(trace.before_us or 0.0) / 1e3:,.1f} ms launched earlier are left out)" if trace.before else ""
    own_ms = shown(trace, trace.profiler_us or 0.0) / 1e3
    profilers = f" ({own_ms:,.1f} ms {a_step(trace)} of the profiler's own are taken off)" if own_ms else ""
    return Exhibit(
        id="step-time",
        kind="bars",
        title=f"where {whole}'s time went, us {a_step(trace)} on the GPU{earlier}{profilers}",
        unit="us",
        rows=tuple(
            {
                "label": f"{label}, {part(us, span)}",
                "value": round(shown(trace, us), 1),
                "start": 0,
                **factor_columns(None),
            }
            for label, us in drawn
        ),
        answers_why=True,
    )


@exhibit
def largest_kernels(trace: Trace) -> Exhibit | None:
    """The kernels that take most of the time."""
    if unreadable(trace) is not None or not trace.kernels:
        return None
    largest = sorted(trace.kernels, key=lambda kernel: -(kernel.us or 0.0))[:LARGEST]
    rows = tuple(
        {
            "cells": {
                "kind": words(kernel.kind or ""),
                "below": kernel.operator or "",
                "kernel": (kernel.name or "")[:60],
                a_step(trace): f"{shown(trace, kernel.count or 0):,.0f}",
                f"us {a_step(trace)}": f"{shown(trace, kernel.us or 0.0):,.1f}",
                "of the time": part(kernel.us or 0.0, span_of(trace)),
            }
        }
        for kernel in largest
    )
    return Exhibit("step-kernels", "table", "the largest kernels", "", rows)


@exhibit
def largest_products(trace: Trace) -> Exhibit | None:
    """The matrix products that take most of the time, with the rate that they reach."""
    if unreadable(trace) is not None:
        return None
    sized = [p for p in trace.products or () if p.m and p.k and p.n and p.us and p.count]
    rows = tuple(
        {
            "cells": {
                "MxKxN": f"{f'{p.batch} of ' if p.batch else ''}{p.m}x{p.k}x{p.n}",
                "format": words(p.kind or "").removesuffix(" products"),
                "by": ", ".join((p.modules or ())[:2]),
                a_step(trace): f"{shown(trace, p.count or 0):,.0f}",
                "us each": f"{(p.us or 0.0) / (p.count or 1):,.1f}",
                "TFLOP/s": f"{_tflops(p):,.0f}",
            }
        }
        for p in sorted(sized, key=lambda p: -(p.us or 0.0))[:LARGEST]
    )
    return Exhibit("step-products", "table", "the largest products", "", rows) if rows else None


def _tflops(product: ProductTotal) -> float:
    """The rate that a product of known sizes reached, in TFLOP/s: 2 M K N for each."""
    each = (product.batch or 1) * (product.m or 0) * (product.k or 0) * (product.n or 0)
    return 2e-6 * each * (product.count or 0) / (product.us or float("inf"))
