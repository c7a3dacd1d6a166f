"""Layers that torchao leaves out: what it really does with them, and what is said of a workload that has some."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fp8doctor.checks.torchao.coverage import ODD_LAYERS, observe
from fp8doctor.checks.torchao.coverage_rules import layers_skipped
from fp8doctor.checks.torchao.facts import CONVERTING, TRAINING, OddLinear, Torchao
from fp8doctor.checks.torchao.probe import _after_crash
from fp8doctor.checks.workload import WorkloadSeen
from fp8doctor.measuring.workloads import LinearUse, Step, Workload
from fp8doctor.model import Finding, NotApplicable, Unknown

REFUSED = "RuntimeError: Expected trailing dimension of mat1 to be divisible by 16"
SKIPS = tuple(OddLinear("dynamic", k, n, converted=False) for k, n in ODD_LAYERS)
FAILS = tuple(OddLinear(TRAINING, k, n, converted=True, error=REFUSED) for k, n in ODD_LAYERS)
AO = Torchao(installed=True, odd_linears=(*SKIPS, *FAILS))
# Multiply-adds: 24 x 64 x 32 in all layers but the head, whose 50,257 columns make it the largest.
BLOCK, HEAD = LinearUse(8, 64, 32, 24, "blocks.0.up"), LinearUse(8, 64, 50257, 1, "head")
INFERS = Step(name="prefill", trains=False, linears=(BLOCK, HEAD))
TRAINS = Step(name="train", trains=True, linears=(BLOCK, HEAD))


def seen(*steps: Step) -> WorkloadSeen:
    return WorkloadSeen(asked="mine", workload=Workload(title="my model", steps=steps))


def only(result: object) -> Finding:
    assert isinstance(result, list)
    (finding,) = result
    assert isinstance(finding, Finding)
    return finding


def test_a_layer_that_is_left_out_is_told_with_its_share_of_the_work() -> None:
    found = only(layers_skipped(AO, seen(INFERS)))
    share = 50257 / (50257 + 24 * 32)
    assert found.title == (
        f"torchao leaves 1 of 25 linear layers of my model in BF16 without a word: {share:.1%} of the multiply-adds"
    )
    assert found.evidence[1].value == pytest.approx(share)
    assert found.evidence[2].text == "head: Linear(64, 50257), 1 a step"
    said = replace(AO, odd_linears=tuple(replace(odd, said="Skipping float8 quantization") for odd in SKIPS))
    assert "without a word" not in only(layers_skipped(said, seen(INFERS))).title


def test_in_training_the_layer_is_converted_and_the_step_fails() -> None:
    found = only(layers_skipped(AO, seen(TRAINS)))
    assert found.title.startswith("FP8 training of my model fails at 1 of 25 linear layers")
    assert REFUSED in found.evidence[0].text
    both = layers_skipped(AO, seen(INFERS, TRAINS))
    assert isinstance(both, list)
    assert len(both) == 2


def test_a_workload_whose_layers_all_fit_passes() -> None:
    fits = replace(INFERS, linears=(BLOCK,))
    assert layers_skipped(AO, seen(fits)) is None


def test_a_torchao_that_takes_them_leaves_nothing_out() -> None:
    takes = tuple(replace(odd, converted=True, error=None) for odd in (*SKIPS, *FAILS))
    assert layers_skipped(replace(AO, odd_linears=takes), seen(INFERS, TRAINS)) is None


def test_without_torchao_or_a_workload_the_question_does_not_arise() -> None:
    assert isinstance(layers_skipped(Torchao(installed=False), seen(INFERS)), NotApplicable)
    for nothing in (None, WorkloadSeen(), WorkloadSeen(asked="x", why_not="x is no workload")):
        assert isinstance(layers_skipped(AO, nothing), NotApplicable)


def test_what_was_not_tried_is_not_known() -> None:
    assert isinstance(layers_skipped(Torchao(installed=True), seen(INFERS)), Unknown)
    refused = tuple(replace(odd, converted=None, error="AssertionError: requires CUDA") for odd in SKIPS)
    told = layers_skipped(replace(AO, odd_linears=refused), seen(INFERS))
    assert isinstance(told, Unknown)
    assert "requires CUDA" in told.reason


def test_a_child_that_ended_while_converting_does_not_try_again() -> None:
    assert _after_crash(Torchao(installed=True, attempting=CONVERTING), "SIGSEGV") == Torchao(
        installed=True, odd_linears=()
    )


@pytest.mark.torch
def test_what_torchao_really_does_with_odd_layers() -> None:
    """On the CPU: weight-only and training take them, and dynamic FP8 asks for a GPU first."""
    pytest.importorskip("torch")
    pytest.importorskip("torchao", reason="needs torchao")
    found = observe("cpu", ("Float8DynamicActivationFloat8WeightConfig", "Float8WeightOnlyConfig"))
    assert [(odd.how, odd.k, odd.n) for odd in found] == [
        (how, k, n) for how in ("dynamic", "weight-only", TRAINING) for k, n in ODD_LAYERS
    ]
    by_how = {odd.how: odd for odd in found}
    assert by_how["weight-only"].converted
    assert by_how[TRAINING].converted
    assert (by_how["dynamic"].converted, by_how["dynamic"].said) == (None, None)
    assert "requires CUDA" in (by_how["dynamic"].error or "")
