"""The ladder to look at: bars, the whole table, memory over time."""

from __future__ import annotations

from typing import Any

from fp8doctor.checks.ladder.advice import step_title
from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.ladder.winners import baseline, fastest, ok
from fp8doctor.measuring.statistics import speedup
from fp8doctor.model import Exhibit
from fp8doctor.registry import exhibit

# Rungs whose memory is drawn over time.
DRAWN = 4


@exhibit
def first_step(ladder: Ladder) -> Exhibit | None:
    """The rungs of the workload's first step, fastest first."""
    return _bars(ladder, 0)


@exhibit
def second_step(ladder: Ladder) -> Exhibit | None:
    """The rungs of its second step."""
    return _bars(ladder, 1)


def _bars(ladder: Ladder, place: int) -> Exhibit | None:
    steps = list(ladder.tokens or {})
    if place >= len(steps):
        return None
    step = steps[place]
    bf16 = baseline(ladder, step)
    rungs = sorted(ok(ladder, step), key=lambda rung: rung.step_ms.median if rung.step_ms else 0.0)
    rows = tuple(
        {
            "label": rung.config or "",
            "value": rung.step_ms.median,
            "start": 0,
            "ratio": _times(bf16, rung),
        }
        for rung in rungs
        if rung.step_ms
    )
    title = f"{ladder.workload}, {step_title(ladder.workload, step)}: ms a step, and speed over BF16 as it is"
    return Exhibit(f"ladder-{step}", "bars", title, "ms", rows) if rows else None


@exhibit
def every_rung(ladder: Ladder) -> Exhibit | None:
    """All rungs with everything that was measured of them."""
    rows = tuple({"cells": _cells(ladder, rung)} for rung in ladder.rungs or ())
    return Exhibit("ladder", "table", f"{ladder.workload}: every rung", "", rows) if rows else None


def _cells(ladder: Ladder, rung: Rung) -> dict[str, Any]:
    bf16 = baseline(ladder, rung.step or "")
    ratio = speedup(bf16.step_ms, rung.step_ms) if bf16 and bf16.step_ms and rung.step_ms else None
    return {
        "config": rung.config,
        "step": rung.step,
        "outcome": rung.outcome,
        "mean ms": rung.mean_ms,
        "min ms": rung.least_ms,
        "P50 ms": rung.step_ms.median if rung.step_ms else None,
        "P90 ms": rung.p90_ms,
        "P99 ms": rung.p99_ms,
        "steps": rung.step_ms.n if rung.step_ms else None,
        "x BF16": ratio.median if ratio else None,
        "low": ratio.low if ratio else None,
        "high": ratio.high if ratio else None,
        "tokens/s": _rate(ladder, rung),
        "host ms": rung.host_ms.median if rung.host_ms else None,
        "first call s": rung.first_call_s,
        "peak GB": rung.peak_gb,
        "weights GB": rung.weights_gb,
        "error": rung.relative_error,
        "gradient error": rung.gradient_error,
        "why not": rung.error,
    }


def _rate(ladder: Ladder, rung: Rung) -> float | None:
    tokens = (ladder.tokens or {}).get(rung.step or "")
    return round(1e3 * tokens / rung.step_ms.median) if tokens and rung.step_ms else None


@exhibit
def memory_over_time(ladder: Ladder) -> Exhibit | None:
    """Memory of BF16 and of the fastest rungs, from building to the steps; of the blocks that were built."""
    wanted: list[Rung] = []
    for step in ladder.tokens or {}:
        chosen = [baseline(ladder, step), fastest(ladder, step)]
        wanted += [rung for rung in chosen if rung is not None and rung.memory]
    rows = tuple(
        {
            "series": f"{rung.config} @ {rung.step}",
            "x": point.at_s,
            "y": point.allocated_gb,
            "low": None,
            "high": None,
        }
        for rung in wanted[:DRAWN]
        for point in rung.memory or ()
        if point.at_s is not None and point.allocated_gb is not None
    )
    return (
        Exhibit("ladder-memory", "lines", "memory of the blocks that were built, over seconds", "GB", rows)
        if rows
        else None
    )


def _times(bf16: Rung | None, rung: Rung) -> float | None:
    if bf16 is None or bf16.step_ms is None or rung.step_ms is None or rung is bf16:
        return None
    return speedup(bf16.step_ms, rung.step_ms).median
