"""Traces recorded on an H200, one fault planted in each: what holds the step is what the report says first.

Made by `python -m benchmarks.record_traces`, whose situations say what was planted.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import fp8doctor
from fp8doctor.judging.report import Report
from fp8doctor.model import Severity

TRACES = Path(__file__).resolve().parent.parent / "traces"
PLANTED = {
    "attention-fp32": "attention-backend-slow",
    "attention-math": "attention-backend-slow",
    "eager-fp8": "not-compiled",
    "half-converted": "fp8-partial-coverage",
    "host-asleep": "host-stall",
    "item-in-every-block": "host-sync-in-step",
    "lora-unfused": "lora-unfused",
    "recompiling": "graph-break-recompile",
    "short-graph": "cpu-launch-bound",
    "sixteen-tokens": "small-shapes",
    "storage-only": "storage-only-fp8",
    "te-microbatches": "weight-requantized-every-microbatch",
    "te-small-layers": "small-shapes",
    "training-in-fp32": "fp8-without-bf16-autocast",
    "weight-only": "weight-only-dequant",
    "weights-from-host": "vram-offload-dominates",
}
# Nothing is wrong, or (graph breaks, eager BF16) nothing that costs such long steps anything.
HEALTHY = (
    "eager-bf16",
    "graph-breaks",
    "healthy-bf16",
    "healthy-fp8",
    "healthy-fp8-training",
    "healthy-te",
)


def judged(name: str) -> Report:
    return fp8doctor.trace(TRACES / f"{name}.json.gz")


@pytest.mark.parametrize(("name", "cause"), PLANTED.items())
def test_the_planted_cause_comes_first(name: str, cause: str) -> None:
    report = judged(name)
    assert report.findings[0].name == cause, [(f.name, f.severity.value, f.title) for f in report.findings]
    assert report.findings[0].title in report.verdict.headline


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_step_brings_no_warning(name: str) -> None:
    assert [(f.name, f.title) for f in judged(name).findings if f.severity is not Severity.INFO] == []


def test_each_recorded_situation_is_judged_here() -> None:
    recorded = {path.name.removesuffix(".json.gz") for path in TRACES.iterdir()}
    assert recorded == {*PLANTED, *HEALTHY}


def test_what_ran_in_which_format_is_told_from_every_kernel() -> None:
    for path in sorted(TRACES.iterdir()):
        trace = fp8doctor.trace(path).facts["trace"]
        kinds = trace["us_by_kind"]
        assert kinds.get("other-gemm", 0) + kinds.get("other", 0) <= 0.02 * trace["busy_us"], (path.name, kinds)
