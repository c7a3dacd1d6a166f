"""Was a pipeline named, and did it make images? If not, why not?"""

from __future__ import annotations

from fp8doctor.checks.pipeline.facts import ImageRung, PipelineRun
from fp8doctor.checks.pipeline.winners import baseline, image_s
from fp8doctor.model import Evidence, NotApplicable, ProbeRun, Unknown

NOT_NAMED = "no pipeline was named (fp8doctor bench --pipeline FOLDER)"
NO_GPU, NO_TORCH = "torch sees no GPU", "there is no torch to measure with"
# How the schedule says that there is nothing to draw with (fp8doctor/probing/schedule.py).
NOT_ASKED = ("not part of a", "no pipeline was named")


def asked(probe_run: ProbeRun[PipelineRun]) -> PipelineRun | Unknown | NotApplicable:
    """The facts, if a folder was named. Where none can be (in a run that is no benchmark), no rule has a question."""
    run = probe_run.facts
    if run is None:
        left_out = probe_run.outcome == "skipped" and not (probe_run.detail or "").startswith(NOT_ASKED)
        if left_out or probe_run.failed:
            return Unknown(f"the pipeline was not measured: {probe_run.detail or probe_run.outcome}")
        return NotApplicable(NOT_NAMED)
    return run if run.asked is True else NotApplicable(NOT_NAMED)


def measured(probe_run: ProbeRun[PipelineRun]) -> PipelineRun | Unknown | NotApplicable:
    """The facts, if BF16 made its image, or why there is nothing to say."""
    run = asked(probe_run)
    if not isinstance(run, PipelineRun):
        return run
    if run.measurable is False:
        return Unknown(run.why_not or "the pipeline could not be measured")
    return run if baseline(run) else Unknown("BF16 made no image to compare with")


def line(rung: ImageRung, more: str = "") -> Evidence:
    """What a rung's images took, as evidence."""
    value = image_s(rung)
    return Evidence(f"{rung.config}: {seconds(value)} an image{more}", round(value, 4), "s", "pipeline.rungs")


def peak(rung: ImageRung) -> str:
    """The end of such a line: what the images needed on the device."""
    return f", peak {rung.peak_gb:.1f} GB" if rung.peak_gb else ""


def seconds(value: float) -> str:
    """Seconds in words, with the figures that tell something."""
    return f"{value:.0f} s" if value >= 100 else f"{value:.3g} s"
