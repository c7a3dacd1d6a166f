"""What a step is made of, and what it would take in a configuration that was not run: Amdahl's law, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fp8doctor.checks.attention_times import AttentionTimes
from fp8doctor.checks.ladder.facts import Ladder
from fp8doctor.checks.ladder.parts import OFF_BY
from fp8doctor.checks.workload import WorkloadSeen
from fp8doctor.measuring.workloads import AttentionUse, LinearUse, Step, Workload
from fp8doctor.model import Unknown
from tests.attention_facts import case as attention_case
from tests.ladder_facts import (
    FLUX,
    SEEN,
    STEP,
    USE,
    candidates,
    changed,
    exhibits,
    finding,
    linear,
    only,
    rung,
    training,
    use,
    verdict,
)

# 100 layers of 0.8 ms are 80 ms of a step of 200 ms; in FP8 they take 30 ms.
BF16 = only("torch-bf16", ladder=changed("torch-bf16", 200.0))
LAYERS = linear(torch__bf16=800, torchao__fp8__rowwise=300)
ATTENTION = AttentionUse(1, 24, 24, 4096, 4096, 128, False, 57)


def seen(**step: Any) -> WorkloadSeen:
    """The workload with other fields in its one step."""
    base = Step(STEP, "a step", trains=False, tokens=4608, linears=(USE,))
    return replace(SEEN, workload=Workload("flux", "FLUX.1-dev", steps=(replace(base, **step),)))


def estimated(ladder: Ladder, *facts: Any) -> dict[str, float]:
    return {
        c.config: c.call_us.median / 1e3
        for c in candidates(ladder, *facts)
        if c.basis == "estimated" and c.call_us is not None
    }


def test_the_share_of_the_linear_layers_bounds_what_fp8_can_give() -> None:
    found = finding("LAD001", BF16, LAYERS)
    assert found.title == (
        "flux, denoise: linear layers are 40% of the best BF16 step, so FP8 in them gives less than 1.7x"
    )  # 200 / (200 - 80)
    assert [e.value for e in found.evidence] == [200.0, 80.0, 120.0]


def test_attention_that_was_not_timed_is_no_zero() -> None:
    found = finding("LAD001", BF16, LAYERS)
    assert found.evidence[2].text == "attention, which was not timed, and the rest: 120.00 ms"
    (row, _) = exhibits(BF16, LAYERS)["ladder-parts"].rows
    assert row["cells"]["how"] == "linear layers 40%, attention (not timed) and rest 60%"


def test_attention_that_was_timed_is_told_apart_from_the_rest() -> None:
    # 57 calls at 1 ms.
    timed = AttentionTimes(measurable=True, cases=(attention_case("torch-sdpa", ATTENTION, 206.1584302),))
    us = (timed.cases or ())[0].device_us
    assert us is not None
    assert us.median == pytest.approx(1000.0, rel=1e-3)
    both = (LAYERS, timed, seen(attentions=(ATTENTION,)))
    values = [e.value for e in finding("LAD001", BF16, *both).evidence]
    assert values == [200.0, 80.0, pytest.approx(57.0, rel=1e-3), pytest.approx(63.0, rel=1e-3)]
    assert exhibits(BF16, *both)["ladder-parts"].rows[0]["cells"]["how"] == (
        "linear layers 40%, attention 29%, rest 31%"
    )
    other = replace(ATTENTION, heads=8, kv_heads=8)
    partly = seen(attentions=(ATTENTION, other))
    assert len(finding("LAD001", BF16, LAYERS, timed, partly).evidence) == 3, "a part of it is not all of it"
    none = seen(attentions=())
    assert finding("LAD001", BF16, LAYERS, none).evidence[2].value == 0.0, "a step without attention"


def test_without_the_layers_times_nothing_is_said_of_their_share() -> None:
    unknown = Unknown("the layers of the step were not timed by themselves")
    assert verdict("LAD001", BF16) == unknown
    assert verdict("LAD001", BF16, linear(torchao__fp8__rowwise=300)) == unknown
    assert verdict("LAD001", only("torchao-fp8-rowwise"), LAYERS) == unknown
    assert verdict("LAD001", BF16, LAYERS, WorkloadSeen("flux", why_not="no model")) == unknown


def test_layers_that_hold_under_nine_tenths_of_the_work_stand_for_no_step() -> None:
    def with_other(calls: int) -> WorkloadSeen:
        return seen(linears=(USE, LinearUse(USE.m, USE.k, 2 * (USE.n or 0), calls)))

    assert estimated(BF16, LAYERS, with_other(5)) == {"torchao-fp8-rowwise": 150.0}  # 100 of 110 are timed
    assert estimated(BF16, LAYERS, with_other(6)) == {}  # 100 of 112
    assert isinstance(verdict("LAD001", BF16, LAYERS, with_other(6)), Unknown)


def test_a_step_is_estimated_by_what_its_layers_save() -> None:
    # 200 - 100 * (0.8 - 0.3)
    (found,) = [c for c in candidates(BF16, LAYERS) if c.basis == "estimated"]
    assert (found.config, found.task) == ("torchao-fp8-rowwise", "flux denoise")
    assert found.call_us is not None
    assert found.call_us.median == 150_000.0
    assert found.call_us.low == 135_000.0
    assert found.call_us.high == pytest.approx(165_000.0)
    assert OFF_BY == 0.10
    (advised,) = use(BF16, LAYERS)
    assert (advised.config, advised.basis, advised.versus) == ("torchao-fp8-rowwise", "estimated", "torch-bf16")


def test_an_estimate_that_may_be_off_by_its_gain_is_not_advised() -> None:
    (advised,) = use(BF16, linear(torch__bf16=800, torchao__fp8__rowwise=700))  # 190 +- 19 against 200
    assert advised.config == "torch-bf16"


def test_each_form_is_estimated_from_its_own_twin() -> None:
    ladder = changed("torch-bf16", 200.0, ladder=changed("torch-bf16+compile", 140.0))
    forms = only("torch-bf16", "torch-bf16+compile", ladder=ladder)
    layers = linear(torch__bf16=800, torch__bf16_C=700, torchao__fp8__rowwise=900, torchao__fp8__rowwise_C=400)
    assert estimated(forms, layers) == {"torchao-fp8-rowwise": 210.0, "torchao-fp8-rowwise+compile": 110.0}


def test_nothing_is_estimated_from_a_step_that_waits_for_the_host() -> None:
    # Seen on an H200: a decoded token took 8.8 ms compiled, 8.7 of them the host's; in FP8 15.5 (RESULTS.md).
    held = replace(BF16, rungs=(rung("torch-bf16", 200.0, 198.0),))
    free = replace(BF16, rungs=(rung("torch-bf16", 200.0, 110.0),))
    assert estimated(held, LAYERS) == {}
    assert estimated(free, LAYERS) == {"torchao-fp8-rowwise": 150.0}


def test_a_graph_is_estimated_with_compiled_layers() -> None:
    graphed = replace(BF16, rungs=(rung("torch-bf16+compile+cudagraph", 140.0),))
    layers = linear(torch__bf16=800, torch__bf16_C=700, torchao__fp8__rowwise_C=400)
    assert estimated(graphed, layers) == {"torchao-fp8-rowwise+compile+cudagraph": 110.0}
    assert "torch-bf16+compile+cudagraph: 140.00 ms" in finding("LAD001", graphed, layers).evidence[0].text


def test_what_was_measured_or_tried_is_not_estimated() -> None:
    assert estimated(only("torch-bf16", "torchao-fp8-rowwise"), LAYERS) == {}
    crashed = changed("torchao-fp8-rowwise", outcome="crashed", step_ms=None)
    assert estimated(only("torch-bf16", "torchao-fp8-rowwise", ladder=crashed), LAYERS) == {}


def test_layers_with_few_rows_stay_as_they_are_unless_all_have_few() -> None:
    narrow = LinearUse(8, 3072, 3072, 100)
    times = linear(torch__bf16=800, torchao__fp8__rowwise=300)
    slow = replace((times.cases or ())[0], m=8), replace((times.cases or ())[1], m=8)
    both = replace(times, cases=(*(times.cases or ()), *slow))
    assert estimated(BF16, both, seen(linears=(USE, narrow))) == {"torchao-fp8-rowwise": 150.0}
    assert estimated(BF16, both, seen(linears=(narrow,))) == {"torchao-fp8-rowwise": 150.0}


def test_an_estimate_of_no_time_at_all_is_none() -> None:
    short = only("torch-bf16", ladder=changed("torch-bf16", 40.0))
    assert estimated(short, LAYERS) == {}, "the layers by themselves took longer than the step that they are part of"


def test_a_training_step_is_estimated_from_layers_with_their_backward() -> None:
    trains = seen(trains=True)
    layers = training(torch__bf16=800, torchao__fp8train__tensorwise=600)
    assert estimated(BF16, layers, trains) == {"torchao-fp8train-tensorwise": 180.0}
    assert estimated(BF16, LAYERS, trains) == {}, "forward times say nothing of a backward"


def test_estimates_stand_beside_what_was_measured() -> None:
    rows = [row["cells"] for row in exhibits(only("torch-bf16", "torchao-fp8-rowwise"), LAYERS)["ladder-parts"].rows]
    assert [(r["config"], r["measured ms"], r["estimated ms"]) for r in rows] == [
        ("torch-bf16", 174.54, None),
        ("torchao-fp8-rowwise", 219.39, 124.54),
    ]
    assert "ladder-parts" not in exhibits(FLUX)
