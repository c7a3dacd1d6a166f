"""Which configurations compete for an image? None with a step cache: they change it."""

from __future__ import annotations

from fp8doctor.checks.ladder.naming import how, label, number_format
from fp8doctor.checks.ladder.winners import NOT_ADVISED, SIXTEEN_BIT
from fp8doctor.checks.pipeline.facts import ImageRung, PipelineRun
from fp8doctor.checks.pipeline.winners import ok
from fp8doctor.model import Candidate, Estimate
from fp8doctor.registry import candidates

TASK = "pipeline"


@candidates
def measured(pipeline: PipelineRun) -> list[Candidate]:
    """Every rung that made a right image and computed every step."""
    return [
        _candidate(pipeline, rung)
        for rung in ok(pipeline)
        if not any(part in (rung.config or "") for part in NOT_ADVISED)
    ]


def _candidate(run: PipelineRun, rung: ImageRung) -> Candidate:
    slug = rung.config or ""
    return Candidate(
        task=TASK,
        config=slug,
        label=label(slug),
        format=number_format(slug),
        how=how(slug, f"diffusers.{run.denoiser_class}").replace("model", f"pipe.{run.denoiser}"),
        call_us=_microseconds(rung.image_s),
        # An image has no error that a number format explains: likeness is shown, and a person judges.
        error=rung.likeness.relative_error if rung.likeness else None,
        requires=(slug.partition("-")[0],),
        baseline=number_format(slug) in SIXTEEN_BIT,
        workload=run.class_name,
        when=f"one image in {run.steps} steps" if run.steps else "one image",
    )


def _microseconds(value: Estimate | None) -> Estimate | None:
    """An estimate in seconds as one in microseconds."""
    if value is None:
        return None
    low, median, high = (round(1e6 * v, 3) for v in (value.low, value.median, value.high))
    return Estimate(median, low, high, value.n, None if value.iqr is None else round(1e6 * value.iqr, 3))
