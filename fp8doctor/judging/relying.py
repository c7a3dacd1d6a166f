"""Which of the times may rules and advice build on?

A time that was taken while another program computed on the GPU may be wrong by a factor and look as steady as any: a
kernel that is longer than a turn of the GPU's time slicing always loses turns. Such times stay among the facts, and no
rule sees them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fp8doctor.judging.outcomes import Outcome, Runs, judge_rules, make
from fp8doctor.model import Estimate, Facts, ProbeRun
from fp8doctor.registry import Registry
from fp8doctor.reliance import Disturbance, Reliance

# A device time whose interquartile range exceeds this share of its median says nothing. Of 1,819 device times on quiet
# H200s the worst was 0.05; beside a program that multiplied all the time 20 of 527 exceeded 0.8 and none lay between
# 0.13 and 0.8 (benchmarks/RESULTS.md).
MOST_SCATTER = 0.2
# Fields that hold device time alone: the host's part of the others scatters by itself.
DEVICE_TIMES = ("device_us",)
# Taken after the device's times, at a moment that no record tells.
LATER_TIMES = ("call_us", "host_us")
# Single values are no estimates; the unit at the end of the name tells what they are.
UNITS = ("_us", "_ms", "tflops", "gb_s")


@dataclass
class _Tally:
    timed: int = 0
    disturbed: int = 0
    scattered: int = 0


@dataclass(frozen=True)
class _Window:
    """When something was timed; None where the record does not say."""

    first_s: float | None = None
    last_s: float | None = None

    def meets(self, disturbances: Sequence[Disturbance], *, later: bool) -> bool:
        """Whether a disturbance reaches into it, or (`later`) lasted beyond its begin."""
        if self.first_s is None:  # nobody knows when: what lasted all the time met it
            return any(math.isinf(one.first_s) and math.isinf(one.last_s) for one in disturbances)
        last_s = math.inf if later or self.last_s is None else self.last_s
        return any(one.first_s <= last_s and one.last_s >= self.first_s for one in disturbances)


def relied_on(registry: Registry, runs: Runs) -> dict[str, ProbeRun[Facts]]:
    """The runs as rules may see them: without the times that were disturbed or scatter, and with the `Reliance`.

    Facts of a subject that cannot be taken apart are left as they are.
    """
    disturbances: list[Disturbance] = []
    for maker in registry.makers:
        if maker.makes == "disturbances":
            try:
                disturbances += make(maker, runs)
            except Exception:  # a subject's own fault costs its word alone; judging tells of it
                continue
    tally = _Tally()
    seen = {
        key: run
        if run.facts is None
        else dataclasses.replace(run, facts=_sift(run.facts, disturbances, tally, _whole(run.facts)))
        for key, run in runs.items()
    }
    counted = Reliance(tally.timed, tally.disturbed, tally.scattered)
    return {**seen, Reliance.key: ProbeRun("ok", counted)}


def with_reasons(outcomes: list[Outcome], registry: Registry, before: Runs, relied: Runs) -> list[Outcome]:
    """The outcomes; where a rule could tell if all times were relied on, its reason says so."""
    if all(relied[key].facts is run.facts for key, run in before.items()):
        return outcomes
    told = {outcome.rule.id for outcome in judge_rules(registry, before) if outcome.name != "unknown"}
    return [
        dataclasses.replace(outcome, reason=f"{outcome.reason}; times were put aside (GPU014)")
        if outcome.name == "unknown" and outcome.rule.id in told
        else outcome
        for outcome in outcomes
    ]


def _whole(facts: Facts) -> _Window:
    """From the first to the last moment that a record tells: when that was timed of which no moment is told."""
    moments = list(_moments(facts))
    return _Window(min(moments), max(moments)) if moments else _Window()


def _moments(value: Any) -> Iterator[float]:
    if isinstance(value, tuple):
        for item in value:
            yield from _moments(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, (Estimate, type)):
        for field in dataclasses.fields(value):
            held = getattr(value, field.name)
            if field.name in ("started_s", "ended_s"):
                yield from () if held is None else (held,)
            else:
                yield from _moments(held)


def _sift(value: Any, disturbances: Sequence[Disturbance], tally: _Tally, window: _Window) -> Any:
    """The value without times that cannot be relied on; itself where nothing had to go."""
    if isinstance(value, tuple):
        sifted = [_sift(item, disturbances, tally, window) for item in value]
        return tuple(sifted) if any(new is not old for new, old in zip(sifted, value, strict=True)) else value
    if not dataclasses.is_dataclass(value) or isinstance(value, (Estimate, type)):
        return value
    if getattr(value, "started_s", None) is not None:
        window = _Window(value.started_s, getattr(value, "ended_s", None))  # type: ignore[attr-defined]
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    times = {name: held for name, held in fields.items() if isinstance(held, Estimate) or _is_single(name, held)}
    changed: dict[str, Any] = dict.fromkeys(_disturbed(times, window, disturbances))
    scattered = [name for name in DEVICE_TIMES if name not in changed and _scatters(fields.get(name))]
    changed |= dict.fromkeys(scattered)
    # A single value counts where it is put aside; a recording of somebody's own work is no timed case.
    if any(name not in LATER_TIMES and (isinstance(held, Estimate) or name in changed) for name, held in times.items()):
        tally.timed += 1
        tally.scattered += bool(scattered)
        tally.disturbed += any(name not in LATER_TIMES for name in set(changed) - set(scattered))
    for name, held in fields.items():
        if name not in times and (sifted := _sift(held, disturbances, tally, window)) is not held:
            changed[name] = sifted
    return dataclasses.replace(value, **changed) if changed else value


def _disturbed(times: Mapping[str, Any], window: _Window, disturbances: Sequence[Disturbance]) -> list[str]:
    if not disturbances:
        return []
    return [name for name in times if window.meets(disturbances, later=name in LATER_TIMES)]


def _is_single(name: str, held: Any) -> bool:
    return isinstance(held, float) and name.endswith(UNITS)


def _scatters(held: Any) -> bool:
    return isinstance(held, Estimate) and held.iqr is not None and held.iqr > MOST_SCATTER * held.median
