"""What is slower or faster in B, beyond what two runs on one box differ by?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fp8doctor.differing.boxes import Changed, concerns
from fp8doctor.differing.gathering import Gathered
from fp8doctor.differing.record import Direction, OneSided, TimedCase
from fp8doctor.judging.advice import effective
from fp8doctor.measuring.statistics import speedup
from fp8doctor.model import Candidate, Clock, Estimate
from fp8doctor.traced import Trace

# Two runs on one box agree within 3 %, on times under 50 us within 8 %. A step that runs back to back brings a GPU to
# its power limit, and the same work then took up to 8 % longer in one run than in the next. The host's own speed moved
# by up to 1.4 times within seconds, and with it what waits for it (benchmarks/RESULTS.md, "Do two runs agree?").
NOISE, SHORT_NOISE, SHORT_US, STEP_NOISE, HOST_NOISE = 0.03, 0.08, 50.0, 0.08, 0.4
# A profiler's trace is one recording, and what it costs itself moves its times.
RECORDED_NOISE = 0.1
# Fewer samples have no interval to speak of.
LEAST_SAMPLES = 3


@dataclass(frozen=True)
class Compared:
    """A case that both timed, with the words by which a trait says that it concerns it (`Trait.affects`)."""

    case: TimedCase
    words: frozenset[str]
    workload: str | None


@dataclass(frozen=True)
class Pairs:
    """What both timed, what one did alone, and what was timed in two ways."""

    compared: tuple[Compared, ...]
    one_sided: tuple[OneSided, ...]
    not_compared: tuple[str, ...]


def compare_times(before: Gathered, after: Gathered, methods: Iterable[Changed]) -> Pairs:
    """Compare what both timed, in the order of A, but what a changed method concerns."""
    changed_methods = tuple(methods)
    compared: list[Compared] = []
    refused: dict[str, int] = {}
    for name, old in before.timed.items():
        new = after.timed.get(name)
        case = _case(old, new, recorded=name[0] == Trace.key) if new is not None else None
        if new is None or case is None:
            continue
        words = _words(case, new)
        method = next((one.change for one in changed_methods if concerns(one.trait, words)), None)
        if method is not None:
            why = f"{method.name} was {method.before} in A and is {method.after} in B"
            refused[why] = refused.get(why, 0) + 1
        else:
            compared.append(Compared(case, words, new.workload))
    reasons = tuple(f"{count} {'case' if count == 1 else 'cases'}: {why}" for why, count in refused.items())
    return Pairs(tuple(compared), (*_alone(before, after, "before"), *_alone(after, before, "after")), reasons)


def _alone(one: Gathered, other: Gathered, which: Literal["before", "after"]) -> list[OneSided]:
    counts: dict[tuple[str, str], int] = {}
    for name, candidate in one.timed.items():
        if name not in other.timed:
            key = (candidate.label, candidate.task)
            counts[key] = counts.get(key, 0) + 1
    return [OneSided(label, task, count, which) for (label, task), count in counts.items()]


def _case(old: Candidate, new: Candidate, *, recorded: bool) -> TimedCase | None:
    clock, waits = _clock(old, new)
    was, now = (one.call_us if clock == "call" else one.device_us for one in (old, new))
    if was is None or now is None or min(was.low, now.low) <= 0:
        return None
    margin = RECORDED_NOISE if recorded else _margin(min(was.median, now.median), clock, waits)
    speed = speedup(was, now)
    return TimedCase(
        task=new.task, config=new.config, label=new.label, format=new.format, shape=dict(new.shape), sweep=new.sweep,
        clock=clock, waits_for_host=waits, before=was, after=now, speed=speed, margin=margin,
        changed=_changed(was, now, margin, 1 if recorded else LEAST_SAMPLES), doing=new.doing,
        kernel_before=old.kernel, kernel_after=new.kernel,
    )  # fmt: skip


def _margin(shorter_us: float, clock: Clock, waits_for_host: bool) -> float:
    """What two runs on one box differ by; only whole steps are timed at the call without waiting for the host."""
    if waits_for_host:
        return HOST_NOISE
    return STEP_NOISE if clock == "call" else SHORT_NOISE if shorter_us < SHORT_US else NOISE


def _clock(old: Candidate, new: Candidate) -> tuple[Clock, bool]:
    """The clock that counts for both, and whether the device waits for the host in either."""
    clocks = [found[1] for one in (old, new) if (found := effective(one)) is not None]
    called = old.call_us is not None and new.call_us is not None
    if "call" in clocks and called:
        return "call", old.waits_for_host or new.waits_for_host
    return "device", False


def _changed(was: Estimate, now: Estimate, margin: float, least_samples: int) -> Direction | None:
    """Whether the times differ: their intervals lie apart, and the medians by more than the margin, either way."""
    factor = max(was.median, now.median) / min(was.median, now.median)
    # Not by the rounded ratio: A against B is to say what B against A says.
    apart = was.high < now.low or now.high < was.low
    if min(was.n, now.n) < least_samples or not apart or factor <= 1 + margin:
        return None
    return "slower" if now.median > was.median else "faster"


def _words(case: TimedCase, candidate: Candidate) -> frozenset[str]:
    base, *modifiers = case.config.split("+")
    words = {case.task, case.format, case.clock, base.partition("-")[0], *modifiers, *candidate.requires}
    return frozenset(words | ({"step"} if candidate.workload is not None else set()))
