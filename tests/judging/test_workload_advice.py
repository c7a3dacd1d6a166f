"""What is advised, and said in one sentence, where whole steps of a workload were timed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fp8doctor.judging.advice import advise, compared_steps
from fp8doctor.judging.outcomes import Outcome
from fp8doctor.judging.report import VerdictRecord
from fp8doctor.judging.verdict import decide
from fp8doctor.model import Candidate, Estimate, Settles, Severity
from fp8doctor.specs import Rule


def step(config: str, ms: float, name: str = "prefill", **more: Any) -> Candidate:
    """A configuration of one step of a workload; `torch-bf16...` are the baselines."""
    us = 1e3 * ms
    fields: dict[str, Any] = {
        "task": f"llama {name}",
        "config": config,
        "label": config,
        "format": "bf16" if config.startswith("torch-bf16") else "int8" if "int8" in config else "fp8",
        "how": "",
        "call_us": Estimate(us, 0.99 * us, 1.01 * us, 20),
        "error": 0.03,
        "error_limit": 0.08,
        "baseline": config.startswith("torch-bf16"),
        "workload": "llama",
        "when": f"one {name}",
    }
    return Candidate(**{**fields, **more})


def layer(config: str, us: float) -> Candidate:
    """A linear layer by itself."""
    one = step(config, us / 1e3, task="linear", workload=None, when=None)
    return replace(one, shape={"k": 4096, "n": 4096}, sweep=4096, device_us=one.call_us)


def verdict(*candidates: Candidate) -> VerdictRecord:
    """The verdict on a box whose hardware and software have FP8, where it runs."""
    questions: tuple[Settles, ...] = ("hardware", "software", "runs")
    rules = [Rule("ANY001", "any", Severity.ERROR, "box", one, (), lambda: None, {}, "t", "p") for one in questions]
    return decide([Outcome(rule, "pass", None, ()) for rule in rules], (), advise(candidates), candidates)


def test_each_step_has_its_own_advice_the_largest_gain_first() -> None:
    use = advise(
        [
            *(step("torch-bf16", 30), step("fp8", 20)),
            *(step("torch-bf16", 30, "decode"), step("fp8", 40, "decode"), step("fp8+cudagraph", 10, "decode")),
        ]
    )
    assert [(u.when.text, u.config, u.versus) for u in use] == [
        ("one decode", "fp8+cudagraph", "torch-bf16"),
        ("one prefill", "fp8", "torch-bf16"),
    ]
    assert [u.speedup and u.speedup.high for u in use] == [3.0, 1.5]
    assert {u.when.workload for u in use} == {"llama"}


def test_a_step_in_fp8_must_beat_every_form_of_bf16() -> None:
    members = [step("torch-bf16", 30), step("torch-bf16+compile", 19.8), step("fp8+compile", 20)]
    (use,) = advise(members)
    assert (use.config, use.speedup) == ("torch-bf16+compile", None)


def test_a_step_gains_over_the_fastest_16_bit_twin_though_a_simpler_one_is_as_fast_within_the_noise() -> None:
    twins = [step("torch-bf16", 40), step("torch-bf16+compile", 30), step("torch-bf16+compile-whole", 29.9)]
    (use,) = advise([*twins, step("fp8", 20)])
    assert use.versus == "torch-bf16+compile-whole"
    assert use.speedup is not None
    assert use.speedup.high == 1.495
    (use,) = advise(twins)
    assert use.config == "torch-bf16+compile", "to use, the simpler one stays"


def test_what_a_layer_gains_by_itself_is_not_advised_where_the_step_loses() -> None:
    layers = [layer("torch-bf16", 100), layer("fp8", 50)]
    (use,) = advise([*layers, step("torch-bf16", 30), step("fp8", 40)])
    assert (use.config, use.when.workload) == ("torch-bf16", "llama")
    assert [u.config for u in advise(layers)] == ["fp8"]


def test_a_wrong_step_is_not_advised_however_fast() -> None:
    for error in (0.09, None, float("nan")):
        (use,) = advise([step("torch-bf16", 30), step("fp8", 5, error=error)])
        assert use.config == "torch-bf16"


@pytest.mark.parametrize(
    ("fp8_ms", "basis", "status"),
    [(20, "measured", "ready"), (29.5, "measured", "slow"), (40, "measured", "slow"), (20, "estimated", "unknown")],
)
def test_whether_fp8_pays_is_what_the_measured_steps_say(fp8_ms: float, basis: str, status: str) -> None:
    found = verdict(step("torch-bf16", 30), step("fp8", fp8_ms, basis=basis))
    assert found.status == status


def test_the_sentence_names_the_workload_its_step_and_the_best_16_bit_twin() -> None:
    found = verdict(step("torch-bf16", 40), step("torch-bf16+compile", 30), step("fp8+compile", 20))
    assert found.headline.startswith("llama, one prefill: 1.50x")
    assert "fp8+compile" in found.headline
    slow = verdict(step("torch-bf16", 30), step("fp8", 40))
    assert "gains nothing over BF16 in llama." in slow.headline


def test_int8_may_be_the_advice_and_is_no_proof_that_fp8_pays() -> None:
    members = (step("torch-bf16", 30), step("fp8", 40), step("torchao-int8-dynamic", 20))
    assert [u.config for u in advise(members)] == ["torchao-int8-dynamic"]
    assert verdict(*members).status == "slow"


# --- what is advised on at all


def test_where_fp8_was_timed_in_a_step_the_workloads_steps_alone_are_advised_on() -> None:
    layers = [layer("torch-bf16", 100), layer("fp8", 50)]
    steps = [step("torch-bf16", 30), step("fp8", 40), step("torch-bf16", 3, "decode")]
    assert compared_steps([*layers, *steps]) == steps
    assert compared_steps(iter([*steps, *layers])) == steps
    estimated = [steps[0], replace(steps[1], basis="estimated")]
    assert compared_steps([*layers, *estimated]) == estimated


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [step("torch-bf16", 30), step("torch-bf16+compile", 20)],
        [step("torch-bf16", 30), step("torchao-int8-dynamic", 20)],
        [step("torch-bf16", 30), step("fp8", 20, call_us=None)],
    ],
    ids=["no steps", "BF16 alone", "BF16 and INT8", "an FP8 step that was not timed"],
)
def test_where_no_step_was_timed_in_fp8_the_layers_are_advised_on_too(steps: list[Candidate]) -> None:
    layers = [layer("torch-bf16", 100), layer("fp8", 50)]
    assert compared_steps([*layers, *steps]) == [*layers, *steps]
    assert "fp8" in [u.config for u in advise([*layers, *steps])]


def test_a_steps_advice_stands_before_a_layers_though_that_gains_more() -> None:
    layers = [layer("torch-bf16", 100), layer("fp8", 20)]
    use = advise([*layers, step("torch-bf16", 30), step("torch-bf16+compile", 20)])
    assert [(u.when.workload, u.config) for u in use] == [("llama", "torch-bf16+compile"), (None, "fp8")]


def test_a_layer_that_gains_does_not_make_fp8_pay_where_the_workloads_step_lost() -> None:
    layers = (layer("torch-bf16", 100), layer("fp8", 50))
    assert verdict(*layers).status == "ready"
    lost = verdict(*layers, step("torch-bf16", 30), step("fp8", 40))
    assert lost.status == "slow"
    assert lost.headline == "FP8 runs on this box, and even its best path gains nothing over BF16 in llama."
    gained = verdict(*layers, step("torch-bf16", 40), step("fp8", 30))
    assert (gained.status, gained.headline) == (
        "ready",
        "llama, one prefill: 1.33x the best 16-bit configuration with fp8.",
    )


def test_a_gain_that_was_only_estimated_for_a_step_is_not_proved_by_a_layers() -> None:
    layers = (layer("torch-bf16", 100), layer("fp8", 50))
    assert verdict(*layers, step("torch-bf16", 30), step("fp8", 20, basis="estimated")).status == "unknown"
