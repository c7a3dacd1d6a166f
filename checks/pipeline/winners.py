"""Which rungs made a right image, and how do they compare?"""

from __future__ import annotations

from fp8doctor.checks.ladder.naming import number_format
from fp8doctor.checks.ladder.slugs import BASELINE, config_of
from fp8doctor.checks.ladder.winners import LEAST_GAIN
from fp8doctor.checks.pipeline.facts import ImageRung, PipelineRun
from fp8doctor.measuring.statistics import differs, speedup
from fp8doctor.model import Estimate

# Weights lie in FP8 and are multiplied in BF16.
STORED = ("torchao-fp8-weightonly", "diffusers-fp8-storage")


def ok(run: PipelineRun, *, cached: bool = False) -> list[ImageRung]:
    """The rungs that ran and were right, in the order of measuring: those with a step cache, or those without."""
    right = [rung for rung in run.rungs or () if rung.outcome == "ok" and rung.image_s and rung.config]
    return [rung for rung in right if (config_of(rung.config or "").cache is not None) == cached]


def find(run: PipelineRun, config: str) -> ImageRung | None:
    """The rung of a configuration, if it ran and was right."""
    return next((rung for rung in (*ok(run), *ok(run, cached=True)) if rung.config == config), None)


def baseline(run: PipelineRun) -> ImageRung | None:
    """BF16 as it is."""
    return find(run, BASELINE)


def in_fp8(run: PipelineRun) -> list[ImageRung]:
    """The rungs without a cache that multiply in FP8, fastest first."""
    found = [
        rung
        for rung in ok(run)
        if number_format(rung.config or "") not in ("bf16", "fp16", "int8")
        and config_of(rung.config or "").base not in STORED
    ]
    return sorted(found, key=image_s)


def in_16_bit(run: PipelineRun) -> list[ImageRung]:
    """The rungs without a cache that compute in 16 bits, fastest first."""
    return sorted((r for r in ok(run) if number_format(r.config or "") in ("bf16", "fp16")), key=image_s)


def twin(run: PipelineRun, rung: ImageRung) -> ImageRung | None:
    """The rung in BF16 that is otherwise the same, or BF16 as it is."""
    modifiers = [m for m in config_of(rung.config or "").modifiers if m != "tuned"]
    return find(run, "+".join([BASELINE, *modifiers])) or baseline(run)


def image_s(rung: ImageRung) -> float:
    """Seconds of an image after the first."""
    return rung.image_s.median if rung.image_s else float("inf")


def times(slow: ImageRung, fast: ImageRung) -> Estimate | None:
    """How many times as fast the second is; None if one was not timed."""
    return speedup(slow.image_s, fast.image_s) if slow.image_s and fast.image_s else None


def gains(slow: ImageRung, fast: ImageRung) -> bool:
    """Whether the second is faster beyond the noise."""
    ratio = times(slow, fast)
    return ratio is not None and differs(ratio) and ratio.median >= LEAST_GAIN


def denoiser_s(run: PipelineRun, rung: ImageRung) -> float | None:
    """Seconds of an image in which the denoiser worked."""
    return (rung.parts_s or {}).get(run.denoiser or "")


def hit_rate(rung: ImageRung) -> float | None:
    """Share of the denoiser's calls that a step cache skipped."""
    if rung.skipped_calls is None or not rung.denoiser_calls:
        return None
    return rung.skipped_calls / rung.denoiser_calls
