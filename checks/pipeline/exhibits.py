"""A pipeline to look at: its speeds, every rung, where an image's time goes, memory over time."""

from __future__ import annotations

from typing import Any

from fp8doctor.checks.pipeline.facts import ImageRung, Likeness, PipelineRun
from fp8doctor.checks.pipeline.winners import baseline, denoiser_s, hit_rate, image_s, ok, times
from fp8doctor.measuring.statistics import factor_columns
from fp8doctor.model import Exhibit
from fp8doctor.registry import exhibit

# Rungs whose memory is drawn over time.
DRAWN = 4


@exhibit
def speeds(pipeline: PipelineRun) -> Exhibit | None:
    """The rungs that computed every step, fastest first."""
    bf16 = baseline(pipeline)
    rows = tuple(
        {
            "label": rung.config or "",
            "value": image_s(rung),
            "start": 0,
            **factor_columns(times(bf16, rung) if bf16 and rung is not bf16 else None),
        }
        for rung in sorted(ok(pipeline), key=image_s)
    )
    title = f"{_what(pipeline)}: seconds an image, and speed over BF16 as it is"
    return Exhibit("pipeline-speeds", "bars", title, "s", rows, answers_why=True) if rows else None


@exhibit
def every_image(pipeline: PipelineRun) -> Exhibit | None:
    """All rungs: seconds, memory, and how far the image is from BF16's."""
    rows = tuple({"cells": _cells(pipeline, rung)} for rung in pipeline.rungs or ())
    missing = "".join(f"; no {name}: {why}" for name, why in sorted((pipeline.not_compared or {}).items()))
    title = f"{_what(pipeline)}: an image end to end, and its distance from BF16's{missing}"
    return Exhibit("pipeline", "table", title, "", rows) if rows else None


def _what(run: PipelineRun) -> str:
    """ "FluxPipeline, 1024x1024, 28 steps"."""
    size = f", {run.width}x{run.height}" if run.width and run.height else ""
    return f"{run.class_name}{size}" + (f", {run.steps} steps" if run.steps else "")


def _cells(run: PipelineRun, rung: ImageRung) -> dict[str, Any]:
    bf16 = baseline(run)
    ratio = times(bf16, rung) if bf16 else None
    skipped = hit_rate(rung)
    inside = denoiser_s(run, rung)
    return {
        "config": rung.config,
        "outcome": rung.outcome,
        "image s": rung.image_s.median if rung.image_s else None,
        "images": rung.image_s.n if rung.image_s else None,
        "x BF16": ratio.median if ratio else None,
        "low": ratio.low if ratio else None,
        "high": ratio.high if ratio else None,
        "denoiser s": None if inside is None else round(inside, 3),
        "first image s": rung.first_image_s,
        "peak GB": rung.peak_gb,
        "load peak GB": rung.load_peak_gb,
        "weights GB": rung.weights_gb,
        "steps skipped": None if skipped is None else f"{skipped:.0%}",
        "PSNR dB": _psnr(rung.likeness),
        "SSIM": rung.likeness.ssim if rung.likeness else None,
        "LPIPS": rung.likeness.lpips if rung.likeness else None,
        "file": rung.file,
        "why not": rung.error,
    }


def _psnr(likeness: Likeness | None) -> float | str | None:
    if likeness is None:
        return None
    return "identical" if likeness.identical else likeness.psnr_db


@exhibit
def parts(pipeline: PipelineRun) -> Exhibit | None:
    """Where the time of an image in BF16 goes: each part, and the pipeline's own work."""
    bf16 = baseline(pipeline)
    if bf16 is None or bf16.image_s is None or not bf16.parts_s:
        return None
    whole = image_s(bf16)
    spans = sorted(bf16.parts_s.items(), key=lambda part: -part[1])
    spans.append(("the pipeline itself", max(0.0, whole - sum(bf16.parts_s.values()))))
    rows: list[dict[str, Any]] = []
    begin = 0.0
    for name, seconds in spans:
        rows.append({"label": name, "value": round(seconds, 3), "start": round(begin, 3), **factor_columns(None)})
        begin += seconds
    rows.append({"label": "= image", "value": round(whole, 3), "start": 0.0, **factor_columns(None)})
    return Exhibit(
        "pipeline-parts", "bars", "an image in BF16, seconds of each part", "s", tuple(rows), answers_why=True
    )


@exhibit
def memory_over_time(pipeline: PipelineRun) -> Exhibit | None:
    """Memory of BF16 and of the rungs that needed least, from loading to the images."""
    bf16 = baseline(pipeline)
    others = sorted((r for r in ok(pipeline) if r is not bf16 and r.peak_gb), key=lambda r: r.peak_gb or 0.0)
    drawn = [rung for rung in (bf16, *others) if rung is not None and rung.memory][:DRAWN]
    rows = tuple(
        {"series": rung.config or "", "x": point.at_s, "y": point.allocated_gb, "low": None, "high": None}
        for rung in drawn
        for point in rung.memory or ()
        if point.at_s is not None and point.allocated_gb is not None
    )
    title = "memory of the whole pipeline"
    return Exhibit("pipeline-memory", "lines", title, "GB", rows, x_title="seconds") if rows else None
