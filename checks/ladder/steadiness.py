"""Was the box the same at the end of the ladder as at its beginning?"""

from __future__ import annotations

from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.ladder.winners import LEAST_GAIN, baseline
from fp8doctor.measuring.statistics import differs, speedup
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, RuleResult, Severity, Unknown
from fp8doctor.registry import rule


@rule("LAD011", "drift-while-measuring", Severity.WARNING, scope="usage")
def drift(ladder: Ladder) -> RuleResult:
    """BF16 was measured again after all other configurations, and took another time than before them.

    What it means: something about the box changed while the ladder was climbed: clocks, temperature, power, or another
    program. Rungs that were measured at different ends of the run do not compare as well as their intervals say.

    Why it costs time: a configuration may seem faster for having been measured while the GPU was faster.

    What to do: measure again on a box that nobody else uses; look at the clocks that the report shows (GPU rules).

    Sources: the same step, measured first and last; two runs on one box agree within 3 % (benchmarks/RESULTS.md).
    """
    if ladder.measurable is False:
        return NotApplicable(ladder.why_not or "no step was measured")
    pairs = [(baseline(ladder, again.step or ""), again) for again in ladder.again or () if again.step_ms]
    known = [(first, again) for first, again in pairs if first is not None]
    if not known:
        return Unknown("BF16 was not measured a second time")
    return [_finding(ladder, first, again) for first, again in known if _differ(first, again)] or None


def _differ(first: Rung, again: Rung) -> bool:
    assert first.step_ms is not None
    assert again.step_ms is not None
    ratio = speedup(again.step_ms, first.step_ms)
    return differs(ratio) and not 1 / LEAST_GAIN < ratio.median < LEAST_GAIN


def _finding(ladder: Ladder, first: Rung, again: Rung) -> Finding:
    assert first.step_ms is not None
    assert again.step_ms is not None
    before, after = first.step_ms.median, again.step_ms.median
    changed = f"{abs(after / before - 1):.0%} {'longer' if after > before else 'less'}"
    return Finding(
        title=f"{ladder.workload}, {first.step}: BF16 took {changed} at the end of the run than at its beginning",
        evidence=(
            Evidence(f"BF16 first: {before:.2f} ms a step", before, "ms", "ladder.rungs"),
            Evidence(f"BF16 last: {after:.2f} ms a step", after, "ms", "ladder.again"),
        ),
        actions=(Action("Measure again on a box that nobody else uses"),),
        about=f"step:{first.step}",
    )
