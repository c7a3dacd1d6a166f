"""Which configurations compete for a workload's step?"""

from __future__ import annotations

from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.ladder.naming import how, label, number_format
from fp8doctor.checks.ladder.winners import NOT_ADVISED, SIXTEEN_BIT, carried_over, ok
from fp8doctor.checks.workload.catalogue import BUILT_IN, StepPlan
from fp8doctor.model import Candidate, Estimate
from fp8doctor.registry import candidates


@candidates
def measured(ladder: Ladder) -> list[Candidate]:
    """Every rung that ran, was right and computed every step; 16-bit ones are what FP8 is compared with."""
    return [
        candidate(ladder, rung)
        for step in ladder.tokens or {}
        for rung in ok(ladder, step)
        if not carried_over(rung) and not any(part in (rung.config or "") for part in NOT_ADVISED)
    ]


def candidate(ladder: Ladder, rung: Rung) -> Candidate:
    """A rung as a candidate."""
    slug = rung.config or ""
    return Candidate(
        task=f"{ladder.workload} {rung.step}",
        config=slug,
        label=label(slug),
        format=number_format(slug),
        how=how(slug, ladder.model_class, trains=trains(ladder.workload, rung.step)),
        call_us=microseconds(rung.step_ms),
        error=rung.relative_error,
        error_limit=rung.relative_error_limit,
        requires=(slug.partition("-")[0],),
        baseline=number_format(slug) in SIXTEEN_BIT,
        workload=ladder.workload,
        when=step_title(ladder.workload, rung.step),
    )


def step_title(workload: str | None, step: str | None) -> str:
    """ "one denoising step, 1024x1024", or the step's name where the workload is none of ours."""
    plan = _plan(workload, step)
    return plan.title if plan else step or ""


def trains(workload: str | None, step: str | None) -> bool:
    """Whether the step has a backward and an optimizer; only built-in workloads have such."""
    plan = _plan(workload, step)
    return plan is not None and plan.trains


def _plan(workload: str | None, step: str | None) -> StepPlan | None:
    plan = BUILT_IN.get(workload or "")
    return next((one for one in plan.steps if one.name == step), None) if plan else None


def microseconds(value: Estimate | None) -> Estimate | None:
    """An estimate in milliseconds as one in microseconds."""
    if value is None:
        return None
    iqr = None if value.iqr is None else round(1e3 * value.iqr, 3)
    return Estimate(round(1e3 * value.median, 3), round(1e3 * value.low, 3), round(1e3 * value.high, 3), value.n, iqr)
