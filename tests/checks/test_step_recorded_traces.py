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
    "sixteen-tokens": "small-shapes",
    "storage-only": "storage-only-fp8",
    "te-microbatches": "weight-requantized-every-microbatch",
    "te-small-layers": "small-shapes",
    "training-in-fp32": "fp8-without-bf16-autocast",
    "weight-only": "weight-only-dequant",
    "weights-from-host": "vram-offload-dominates",
}
# Nothing is wrong, or nothing that costs such steps much: graph breaks, and a graph with little work in it, are
# noted.
NOTED = {"graph-breaks": "graph-break-recompile", "short-graph": "cpu-launch-bound"}
HEALTHY = (
    *NOTED,
    "eager-bf16",
    "healthy-bf16",
    "healthy-fp8",
    "healthy-fp8-graph",
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


@pytest.mark.parametrize(("name", "cause"), NOTED.items())
def test_what_costs_little_is_noted(name: str, cause: str) -> None:
    assert judged(name).findings[0].name == cause


def test_each_recorded_situation_is_judged_here() -> None:
    recorded = {path.name.removesuffix(".json.gz") for path in TRACES.iterdir()}
    assert recorded == {*PLANTED, *HEALTHY}


def test_what_ran_in_which_format_is_told_from_every_kernel() -> None:
    for path in sorted(TRACES.iterdir()):
        trace = fp8doctor.trace(path).facts["trace"]
        kinds = trace["us_by_kind"]
        assert kinds.get("other-gemm", 0) + kinds.get("other", 0) <= 0.02 * trace["busy_us"], (path.name, kinds)


def test_a_step_is_as_long_as_its_own_work_whatever_was_launched_before() -> None:
    """Milliseconds on the GPU, added up by hand: the warm-up's last kernels still run when the recording begins."""
    by_hand = {
        "attention-fp32": 30.8,
        "attention-math": 16.2,
        "eager-bf16": 6.19,
        "healthy-bf16": 5.38,
        "healthy-fp8": 4.08,
        "healthy-fp8-training": 18.07,
        "te-microbatches": 53.4,
        "training-in-fp32": 66.5,
        "weight-only": 9.50,
        # Its third sleep is after the last kernel.
        "host-asleep": 27.7,
    }
    for name, step_ms in by_hand.items():
        trace = judged(name).facts["trace"]
        assert trace["span_us"] / trace["steps"] / 1e3 == pytest.approx(step_ms, rel=0.01), name


def test_who_holds_the_gpu_up_is_named() -> None:
    asleep = judged("host-asleep").findings[0]
    assert any("sleep" in e.text and "record_traces.py" in e.text for e in asleep.evidence)
    looking = judged("item-in-every-block").findings[0]
    assert any("record_traces.py" in e.text and ": look" in e.text for e in looking.evidence)
    breaking = judged("graph-breaks").findings[0]
    assert any("language_model.py(98)" in e.text for e in breaking.evidence)


def test_transformer_engines_weights_are_weighed_by_their_sizes() -> None:
    """16384 x 16384 weights beside 2048 x 16384 inputs and gradients: four fifths of what is cast are weights."""
    finding = judged("te-microbatches").findings[0]
    assert finding.gain is not None
    assert finding.gain.speedup == pytest.approx(1.13, abs=0.01)


def test_a_product_split_along_k_is_one_product() -> None:
    heads = [p for p in judged("lora-unfused").facts["trace"]["products"] if p["n"] == 16]
    assert heads
    assert all(p["count"] % 3 == 0 and p["count"] / 3 <= 14 for p in heads)


def test_what_a_compiler_tries_is_no_work_of_the_model() -> None:
    trace = judged("recompiling").facts["trace"]
    assert trace["compilations"] == 3
    assert trace["us_by_kind"]["compile"] > 10 * trace["us_by_kind"]["bf16-gemm"]
    assert trace["recompiled"] >= 5
