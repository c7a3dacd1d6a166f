"""The ladder to look at: bars, and tables that a terminal has room for; together they hold every figure."""

from __future__ import annotations

from typing import Any

from fp8doctor.checks.ladder.advice import step_title
from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.ladder.winners import advised, baseline, fastest, ok
from fp8doctor.measuring.statistics import factor_columns, speedup
from fp8doctor.model import Estimate, Exhibit
from fp8doctor.registry import exhibit

# One after the other.
PHASES = ("build", "convert", "scales", "first call", "steps")


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
            **factor_columns(_speed(bf16, rung)),
        }
        for rung in rungs
        if rung.step_ms
    )
    what = f"{ladder.workload}{_size(ladder)}, {step_title(ladder.workload, step)}"
    title = f"{what}: ms a step, and speed over BF16 as it is"
    if advised(ladder, step) != fastest(ladder, step):
        title += "; of those about as fast the simplest is advised"
    return Exhibit(f"ladder-{step}", "bars", title, "ms", rows, answers_why=True) if rows else None


def _size(ladder: Ladder) -> str:
    """The number of parameters in brackets, without which tokens a second say nothing; nothing if it is not known."""
    count = ladder.parameters
    if not count:
        return ""
    return f" ({count / 1e9:.1f}B parameters)" if count >= 1e9 else f" ({count / 1e6:.0f}M parameters)"


@exhibit
def first_figures(ladder: Ladder) -> Exhibit | None:
    """What decides between the rungs of the first step, in columns that a terminal has room for."""
    return _figures(ladder, 0)


@exhibit
def second_figures(ladder: Ladder) -> Exhibit | None:
    """The same of the second step."""
    return _figures(ladder, 1)


def _figures(ladder: Ladder, place: int) -> Exhibit | None:
    steps = list(ladder.tokens or {})
    if place >= len(steps):
        return None
    step = steps[place]
    bf16 = baseline(ladder, step)
    rows = [
        {
            "config": rung.config,
            "P50 ms": rung.step_ms.median if rung.step_ms else None,
            "x BF16": _times(bf16, rung),
            "peak GB": rung.peak_gb,
            "first s": rung.first_call_s,
            "error": rung.relative_error,
        }
        for rung in _ran(ladder)
        if rung.step == step
    ]
    title = f"{ladder.workload}, {step}: time of a step, peak memory, first call (s), error against BF16"
    return _table(f"ladder-{step}-figures", title, rows)


@exhibit
def spread(ladder: Ladder) -> Exhibit | None:
    """How the times of a step are spread, of all rungs and steps."""
    rows = [
        {
            "config": rung.config,
            **_step(ladder, rung),
            "mean ms": rung.mean_ms,
            "min ms": rung.least_ms,
            "P50 ms": rung.step_ms.median if rung.step_ms else None,
            "P90 ms": rung.p90_ms,
            "P99 ms": rung.p99_ms,
        }
        for rung in _ran(ladder)
    ]
    return _table("ladder", f"{ladder.workload}: how the times of a step are spread", rows)


@exhibit
def speeds(ladder: Ladder) -> Exhibit | None:
    """The speed-up's interval, what was counted, and the host's part."""
    trained = any(rung.gradient_error is not None for rung in ladder.rungs or ())
    rows = [
        {
            "config": rung.config,
            **_step(ladder, rung),
            **_interval(ladder, rung),
            "steps": rung.step_ms.n if rung.step_ms else None,
            "tokens/s": _rate(ladder, rung),
            "host ms": rung.host_ms.median if rung.host_ms else None,
            **({"gradient": rung.gradient_error} if trained else {}),
        }
        for rung in _ran(ladder)
    ]
    what = f"{ladder.workload}{_size(ladder)}"
    title = f"{what}: interval of the speed over BF16, steps timed, what the host takes to ask for one"
    title += ", error of the gradients" if trained else ""
    return _table("ladder-speeds", title, rows)


@exhibit
def memory_over_time(ladder: Ladder) -> Exhibit | None:
    """The most memory of each phase, from building to the steps; every point of it is in the report's facts."""
    rungs = [rung for rung in ladder.rungs or () if rung.memory]
    seen = {point.phase for rung in rungs for point in rung.memory or ()}
    phases = [phase for phase in PHASES if phase in seen]
    rows = [
        {
            "config": rung.config,
            **_step(ladder, rung),
            **{phase: _most(rung, phase) for phase in phases},
            "weights": rung.weights_gb,
        }
        for rung in rungs
    ]
    built = "the model" if ladder.full else "the blocks that were built"
    title = f"most memory of {built} in each phase, one after the other, and the whole model's weights"
    return _table("ladder-memory", title, rows, "GB")


@exhibit
def without_times(ladder: Ladder) -> Exhibit | None:
    """What did not run, or gave a wrong result, and why."""
    rows = [
        {"config": rung.config, **_step(ladder, rung), "outcome": rung.outcome, "why not": rung.error}
        for rung in ladder.rungs or ()
        if rung.outcome != "ok"
    ]
    return _table("ladder-not-measured", f"{ladder.workload}: what did not run, or was wrong", rows)


def _table(name: str, title: str, rows: list[dict[str, Any]], unit: str = "") -> Exhibit | None:
    return Exhibit(name, "table", title, unit, tuple({"cells": cells} for cells in rows)) if rows else None


def _ran(ladder: Ladder) -> list[Rung]:
    """The rungs with times; step caches have a table of their own."""
    return [rung for rung in ladder.rungs or () if rung.step_ms is not None and rung.skipping is None]


def _step(ladder: Ladder, rung: Rung) -> dict[str, Any]:
    """A column for the step's name, where there are several."""
    return {"step": rung.step} if len(ladder.tokens or {}) > 1 else {}


def _interval(ladder: Ladder, rung: Rung) -> dict[str, float | None]:
    bf16 = baseline(ladder, rung.step or "")
    ratio = speedup(bf16.step_ms, rung.step_ms) if bf16 and bf16.step_ms and rung.step_ms else None
    return {"low": ratio.low if ratio else None, "high": ratio.high if ratio else None}


def _most(rung: Rung, phase: str) -> float | None:
    held = [p.allocated_gb for p in rung.memory or () if p.phase == phase and p.allocated_gb is not None]
    return max(held, default=None)


def _rate(ladder: Ladder, rung: Rung) -> float | None:
    tokens = (ladder.tokens or {}).get(rung.step or "")
    return round(1e3 * tokens / rung.step_ms.median) if tokens and rung.step_ms else None


def _times(bf16: Rung | None, rung: Rung) -> float | None:
    found = _speed(bf16, rung)
    return found.median if found else None


def _speed(bf16: Rung | None, rung: Rung) -> Estimate | None:
    if bf16 is None or bf16.step_ms is None or rung.step_ms is None or rung is bf16:
        return None
    return speedup(bf16.step_ms, rung.step_ms)
