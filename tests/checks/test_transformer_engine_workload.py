"""te.Linear for a workload that was named: only what its steps run is timed, told and advised."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.transformer_engine import timing_probe
from fp8doctor.checks.transformer_engine.configurations import in_order, plan
from fp8doctor.checks.transformer_engine.times import BOTH, FORWARD, TRAINING, passes_of
from fp8doctor.checks.workload import WorkloadSeen
from fp8doctor.measuring.workloads import LinearUse, Step, Workload, built_in
from fp8doctor.model import Finding, NotApplicable, Request, Shape
from tests import fake_transformer_engine as fake
from tests.linear_facts import LINEAR, us
from tests.transformer_engine_facts import TIMES, candidates, changed, finding, verdict

SMALL, SECOND = Shape(32, 64, 48), Shape(16, 48, 64)
RECIPES = ("Float8CurrentScaling", "DelayedScaling")
INFERENCE = WorkloadSeen(workload=Workload(steps=(Step(name="denoise", trains=False),)))
TRAINS = WorkloadSeen(workload=Workload(steps=(Step(name="train", trains=True),)))
NONE = WorkloadSeen()


def test_what_a_workload_runs() -> None:
    assert passes_of(None) == BOTH
    assert passes_of(built_in("flux")) == (FORWARD,)
    assert passes_of(built_in("train-454m")) == (TRAINING,)
    assert passes_of(Workload(steps=(Step(trains=True), Step(trains=False)))) == BOTH
    assert passes_of(Workload(steps=())) == BOTH


# --- what is timed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("everything", [True, False])
def test_inference_is_planned_without_a_backward(first: bool, everything: bool) -> None:
    scalings = in_order(RECIPES, "DelayedScaling")
    both = plan(scalings, first=first, everything=everything)
    ways = plan(scalings, first=first, everything=everything, passes=(FORWARD,))
    assert ways == [way for way in both if way.passes == FORWARD]
    assert ways[0].config == "torch-bf16"


@pytest.mark.parametrize("first", [True, False])
def test_training_is_planned_with_the_plain_forwards_that_take_the_hosts_time_apart(first: bool) -> None:
    scalings = in_order(RECIPES, "DelayedScaling")
    both = plan(scalings, first=first, everything=False)
    ways = plan(scalings, first=first, everything=False, passes=(TRAINING,))
    assert [way for way in ways if way.passes == TRAINING] == [way for way in both if way.passes == TRAINING]
    assert {way.config for way in ways if way.passes == FORWARD} == {
        "torch-bf16",
        "te-bf16",
        "te-fp8-current",
        "te-fp8-delayed",
    }


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(timing_probe, "WARM_S", 0.0)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Any]:
    with fake.imported(tmp_path) as (found, _):
        yield found


@pytest.mark.torch
@pytest.mark.usefixtures("quick")
@pytest.mark.filterwarnings("ignore:CUDA is not available, disabling CUDA profiling")
@pytest.mark.parametrize("hides_us", [4000.0, 100.0], ids=["work that waits", "work that hides the host"])
def test_nothing_of_inference_is_timed_with_a_backward(
    engine: Any, hides_us: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = importlib.import_module("torch")
    monkeypatch.setattr(timing_probe, "HIDES_THE_HOST_US", hides_us)
    cuda = fake.stub_torch(torch, 300.0)
    asked = Request(seconds_left=600.0)
    run = timing_probe.Run(cuda, engine, torch.device("cpu"), asked, fake.seen(*RECIPES), (SMALL, SECOND), (FORWARD,))
    *_, found = run.records()
    assert {case.passes for case in found.cases or ()} == {FORWARD}
    assert {case.outcome for case in found.cases or ()} == {"ok"}
    assert {(case.m, case.k, case.n) for case in found.cases or ()} == {(32, 64, 48), (16, 48, 64)}
    graphs = [case for case in found.cases or () if "cudagraph" in (case.config or "")]
    assert bool(graphs) is (hides_us > 300.0)


# --- what is said and advised ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["TE004", "TE017", "TE018"])
def test_lessons_on_training_are_no_question_of_inference(rule: str) -> None:
    """Even where an older record holds its times."""
    answer = verdict(rule, TIMES, INFERENCE)
    assert isinstance(answer, NotApplicable)
    assert "does not train" in answer.reason
    for trains in (TRAINS, NONE, None):
        assert verdict(rule, TIMES, trains) == verdict(rule, TIMES)


def test_the_weights_cast_is_told_of_the_passes_that_the_workload_has() -> None:
    found = verdict("TE016", TIMES, INFERENCE)
    assert isinstance(found, Finding)
    assert "forward + backward" not in " ".join([found.title, *(line.text for line in found.evidence)])
    assert [action.command for action in found.actions] == [finding("TE016").actions[1].command]
    cast_once = changed("te-fp8-current+cachedweight", TRAINING, device_us=us(100.0), call_us=us(700.0))
    found = verdict("TE016", cast_once, TRAINS)
    assert isinstance(found, Finding)
    assert all("forward + backward" in line.text for line in found.evidence)
    assert [action.command for action in found.actions] == [finding("TE016").actions[0].command]


def test_each_workload_is_advised_what_it_runs() -> None:
    tasks = {one.task for one in candidates(TIMES, LINEAR)}
    assert len(tasks) == 2
    assert {one.task for one in candidates(TIMES, LINEAR, INFERENCE)} == tasks - {"linear-training"}
    assert {one.task for one in candidates(TIMES, LINEAR, TRAINS)} == {"linear-training"}
    assert {one.task for one in candidates(TIMES, LINEAR, NONE)} == tasks


def test_a_workload_of_both_kinds_is_asked_both() -> None:
    use = LinearUse(32, 64, 48, 1)
    mixed = Workload(steps=(Step(trains=True, linears=(use,)), Step(trains=False, linears=(use,))))
    seen = replace(INFERENCE, workload=mixed)
    assert verdict("TE004", TIMES, seen) == verdict("TE004", TIMES)
