"""Which configurations compete for a workload's step?"""

from __future__ import annotations

from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.ladder.naming import how, label, number_format
from fp8doctor.checks.ladder.winners import carried_over, ok
from fp8doctor.checks.workload.catalogue import BUILT_IN
from fp8doctor.model import Candidate, Estimate
from fp8doctor.registry import candidates

# What changes the task, not its speed alone, or forces what is slower: shown, and never the configuration to use.
NOT_ADVISED = ("lora", "attention-math")
SIXTEEN_BIT = ("bf16", "fp16")


@candidates
def measured(ladder: Ladder) -> list[Candidate]:
    """Every rung that ran, was right and computed every step; 16-bit ones are what FP8 is compared with."""
    return [
        _candidate(ladder, rung)
        for step in ladder.tokens or {}
        for rung in ok(ladder, step)
        if not carried_over(rung) and not any(part in (rung.config or "") for part in NOT_ADVISED)
    ]


def _candidate(ladder: Ladder, rung: Rung) -> Candidate:
    slug = rung.config or ""
    return Candidate(
        task=f"{ladder.workload} {rung.step}",
        config=slug,
        label=label(slug),
        format=number_format(slug),
        how=how(slug),
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
    plan = BUILT_IN.get(workload or "")
    return next((s.title for s in plan.steps if s.name == step), step or "") if plan else step or ""


def microseconds(value: Estimate | None) -> Estimate | None:
    """An estimate in milliseconds as one in microseconds."""
    if value is None:
        return None
    iqr = None if value.iqr is None else round(1e3 * value.iqr, 3)
    return Estimate(round(1e3 * value.median, 3), round(1e3 * value.low, 3), round(1e3 * value.high, 3), value.n, iqr)
