"""What the rules of the ladder share: each step is judged by itself, and rungs are told in the same words."""

from __future__ import annotations

from collections.abc import Callable

from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.ladder.naming import label
from fp8doctor.checks.ladder.slugs import BASELINE
from fp8doctor.checks.ladder.winners import ok
from fp8doctor.model import Evidence, Gain, NotApplicable, RuleResult, Unknown, Verdict


def per_step(ladder: Ladder, judge: Callable[[str], Verdict]) -> RuleResult:
    """What `judge` says of each step, given its name."""
    if ladder.measurable is False:
        return NotApplicable(ladder.why_not or "no step was measured")
    verdicts = [judge(step) for step in ladder.tokens or {}]
    return verdicts or Unknown("no step was measured")


def find(ladder: Ladder, step: str, config: str) -> Rung | None:
    """The rung of a configuration; None unless it ran and was right."""
    return next((rung for rung in ok(ladder, step) if rung.config == config), None)


def times(slow: Rung, fast: Rung) -> float:
    """How many times as fast `fast` is."""
    assert slow.step_ms is not None
    assert fast.step_ms is not None
    return round(slow.step_ms.median / fast.step_ms.median, 3)


def line(rung: Rung) -> Evidence:
    """What a step took."""
    assert rung.step_ms is not None
    ms = rung.step_ms.median
    return Evidence(f"{rung.config}: {ms:.2f} ms a step", ms, "ms", "ladder.rungs")


def gain(slow: Rung, fast: Rung) -> Gain:
    """What `fast` gives over `slow`."""
    config = slow.config or BASELINE
    return Gain(times(slow, fast), config, "measured", label(config))
