"""Traces with one known fault each: the planted cause is what the report says first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fp8doctor import api
from fp8doctor.judging.report import Report
from fp8doctor.model import Severity
from fp8doctor.traced import Trace
from tests import step_situations as facts


def judged(trace: Trace) -> Report:
    return api.read_report(api.knowledge(), {Trace.key: trace}, "trace")


@pytest.mark.parametrize(
    ("situation", "causes"),
    [
        (facts.eager_fp8, {"not-compiled"}),
        (facts.eager_fp8_by_functions, {"not-compiled"}),
        (facts.weight_only, {"weight-only-dequant"}),
        (facts.storage_only, {"storage-only-fp8"}),
        (facts.te_small_layers, {"small-shapes"}),
        (facts.te_microbatches, {"weight-requantized-every-microbatch"}),
        (facts.attention_fp32, {"attention-backend-slow"}),
        (facts.attention_efficient_fp32, {"attention-backend-slow"}),
        (facts.attention_sdpa_math, {"attention-backend-slow"}),
        (facts.attention_math, {"attention-backend-slow"}),
        (facts.lora_unfused, {"lora-unfused"}),
        (facts.lora_on_fp8, {"lora-on-fp8"}),
        (facts.half_converted, {"fp8-partial-coverage"}),
        (facts.item_in_every_block, {"host-sync-in-step"}),
        (facts.weights_from_host, {"vram-offload-dominates"}),
        (facts.host_asleep, {"host-stall"}),
        (facts.sixteen_tokens, {"small-shapes", "cpu-launch-bound"}),
        (facts.without_autocast, {"fp8-without-bf16-autocast"}),
    ],
)
def test_the_planted_cause_comes_first(situation: Callable[[], Trace], causes: set[str]) -> None:
    report = judged(situation())
    assert report.findings
    first = report.findings[0]
    assert first.name in causes, [(f.name, f.severity.value, f.title) for f in report.findings]
    assert first.severity is not Severity.INFO
    assert first.title.rstrip(".") in report.verdict.headline


@pytest.mark.parametrize("situation", [facts.healthy_bf16, facts.healthy_fp8, facts.eager_bf16])
def test_a_healthy_trace_brings_no_alarm(situation: Callable[[], Trace]) -> None:
    report = judged(situation())
    assert [(f.name, f.title) for f in report.findings if f.severity is not Severity.INFO] == []


def test_no_rule_and_no_exhibit_crashes_on_any_of_them() -> None:
    situations = [value for name, value in vars(facts).items() if getattr(value, "__module__", "") == facts.__name__]
    for situation in situations:
        if situation.__annotations__.get("return") == "Trace" and situation.__name__ != "transformer_engine":
            report = judged(situation())
            assert [o for o in report.outcomes if o.outcome == "crashed"] == []
            assert "step-time" in {e.id for e in report.exhibits}


def test_what_a_trace_proves_is_answered() -> None:
    assert judged(facts.healthy_fp8()).verdict.fp8_runs is True
    assert judged(facts.healthy_bf16()).verdict.fp8_runs is None


def test_without_gpu_activity_every_rule_says_what_to_record() -> None:
    report = judged(Trace(format="pytorch-profiler", accelerator="cpu", has_shapes=True, steps=3))
    assert report.findings == ()
    reasons = {o.reason for o in report.outcomes if o.id.startswith("STP")}
    assert len(reasons) == 1
    assert "ProfilerActivity.CUDA" in (reasons.pop() or "")
