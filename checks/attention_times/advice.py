"""What competes for attention, how each route is had, and what is worth looking at."""

from __future__ import annotations

from fp8doctor.checks.attention_times.code import how
from fp8doctor.checks.attention_times.facts import AttentionCase, AttentionTimes
from fp8doctor.checks.attention_times.lookup import (
    DEFAULT,
    Timings,
    is_fp8,
    name_of,
    task_of,
    timed_of,
    waits_for_host,
)
from fp8doctor.checks.attention_times.shapes import Task
from fp8doctor.measuring.statistics import factor_columns, interval_text, speedup
from fp8doctor.model import Candidate, Estimate, Exhibit
from fp8doctor.registry import candidates, exhibit

TASK = "attention"
_WORDS = "batch x heads (/ heads of keys) x queries (: keys) x head dimension"
# A table is read on a screen.
_MOST_COLUMNS = 4
# Never advised: it is what torch takes when nothing else will do.
_NOT_ADVISED = "torch-sdpa-math"
_PACKAGES = {"torch": "torch", "flash": "flash-attn", "te": "transformer-engine"}


@candidates
def timed(times: AttentionTimes) -> list[Candidate]:
    """Every timed and right route, over the sequence's length; speed-ups are over torch's own pick.

    Only at calls where there is something to choose: that torch's own pick is the fastest BF16 attention says nothing
    of FP8 where none was timed. A route that was wrong at another call (ATT008) competes nowhere.
    """
    record = timed_of(times)
    return [
        candidate(case)
        for task in record.tasks.values()
        if _is_open(record, task)
        for route, case in record.reliable(task).items()
        if route != _NOT_ADVISED
    ]


def _is_open(record: Timings, task: Task) -> bool:
    """Whether an FP8 route was timed at this call, or another route is faster than torch's own pick."""
    best = record.best(task)
    return any(is_fp8(route) for route in record.reliable(task)) or (best is not None and best.route != DEFAULT)


def candidate(case: AttentionCase) -> Candidate:
    """A timed case as a candidate."""
    route = case.route or ""
    return Candidate(
        task=TASK,
        config=route,
        label=name_of(route),
        format="fp8" if is_fp8(route) else "bf16",
        how=how(case),
        shape=_shape(case),
        sweep=case.keys,
        device_us=case.device_us,
        call_us=case.call_us,
        waits_for_host=waits_for_host(case),
        error=case.relative_error,
        error_limit=case.relative_error_limit,
        requires=(_PACKAGES[route.partition("-")[0]],),
        baseline=route == DEFAULT,
        doing=_doing(case),
        kernel=case.kernel,
    )


def _doing(case: AttentionCase) -> str:
    """ "causal attention of 32 heads of 128, forward and backward": all of the call but its length."""
    causal = "causal attention" if case.causal else "attention"
    words = f"{causal} of {case.heads} heads of {case.head_dim}"
    decoding = f", {case.queries} query" if case.queries == 1 else ""
    return f"{words}{decoding}{', forward and backward' if case.trains else ''}"


def _shape(case: AttentionCase) -> dict[str, int]:
    """All but the length: what routes compete at. Of a decoded token, the one query is part of it."""
    shape = {"batch": case.batch or 0, "heads": case.heads or 0, "head_dim": case.head_dim or 0}
    shape["causal"] = int(bool(case.causal))
    if case.kv_heads != case.heads:
        shape["kv_heads"] = case.kv_heads or 0
    if case.queries != case.keys:
        shape["queries"] = case.queries or 0
    if case.trains:
        shape["backward"] = 1
    return shape


@exhibit
def rates(times: AttentionTimes) -> Exhibit | None:
    """What each route reaches at each call, in TFLOP/s, and how that stands to torch's own pick."""
    record = timed_of(times)
    tasks = [task for task in record.tasks.values() if record.at(task)][:_MOST_COLUMNS]
    found = {case.route or "": "" for case in times.cases or ()}
    rows = [
        {"cells": {"route": name_of(route), **{task.label: _rate(record, task, route) for task in tasks}}}
        for route in sorted(found, key=lambda route: -_tflops(record, tasks, route))
    ]
    title = f"attention, TFLOP/s (and over torch's own pick); {_WORDS}"
    return Exhibit("attention-rates", "table", title, "TFLOP/s", tuple(rows)) if tasks else None


@exhibit
def first_call(times: AttentionTimes) -> Exhibit | None:
    """What each route reaches at the call that stands for all: the first that was timed."""
    record = timed_of(times)
    task = next((task for task in record.tasks.values() if record.at(task)), None)
    if task is None:
        return None
    cases = record.at(task)
    default = cases.get(DEFAULT)
    rows = tuple(
        {
            "label": name_of(route),
            "value": round(case.tflops or 0.0, 1),
            "start": 0,
            **factor_columns(_speed(default, case)),
        }
        for route, case in sorted(cases.items(), key=lambda item: -(item[1].tflops or 0.0))
    )
    pick = f" ({default.backend})" if default is not None and default.backend else ""
    is_whole = all(case.route in cases for case in times.cases or () if task_of(case) == task)
    others = "" if is_whole else "; what was refused or wrong is in the table"
    title = f"attention by route, TFLOP/s and speed over torch's own pick{pick}; {task.label} ({_WORDS}){others}"
    return Exhibit("attention-routes", "bars", title, "TFLOP/s", rows)


def _speed(default: AttentionCase | None, case: AttentionCase) -> Estimate | None:
    if default is None or default.device_us is None or case is default or case.device_us is None:
        return None
    return speedup(default.device_us, case.device_us)


def _tflops(record: Timings, tasks: list[Task], route: str) -> float:
    """The rate at the first call where the route was timed; nothing if it was nowhere."""
    return next((case.tflops or 0.0 for task in tasks if (case := record.at(task).get(route)) is not None), 0.0)


def _rate(record: Timings, task: Task, route: str) -> str:
    cases = record.at(task)
    case, default = cases.get(route), cases.get(DEFAULT)
    if case is None or case.device_us is None:
        return ""
    rate = f"{case.tflops:,.0f}" if (case.tflops or 0.0) >= 10 else f"{case.tflops or 0.0:.2g}"
    if default is None or default.device_us is None or case is default:
        return f"{rate} ({default.backend})" if default and default.backend else rate
    return f"{rate} ({default.device_us.median / case.device_us.median:.2f}x)"


@exhibit
def every_case(times: AttentionTimes) -> Exhibit | None:
    """Every route at every call: time, rate, error, and the kernel or the reason."""
    rows = tuple(
        {
            "cells": {
                "call": task_of(case).label,
                "route": case.route or "",
                "device us": interval_text(case.device_us),
                "call us": interval_text(case.call_us),
                "TFLOP/s": f"{case.tflops:,.0f}" if case.tflops else "",
                "error": "" if case.relative_error is None else f"{case.relative_error:.4f}",
                "kernel, or why not": (case.kernel or case.backend or "")
                if case.outcome == "ok"
                else f"{case.outcome}: {case.error or ''}".rstrip(": ")[:120],
            }
        }
        for case in times.cases or ()
    )
    title = f"every timed attention; calls are {_WORDS}"
    return Exhibit("attention-cases", "table", title, "us", rows) if rows else None
