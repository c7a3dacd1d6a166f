"""The timing of te.Linear: what is planned, how it is called, and the whole probe on a small Transformer Engine."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.linear.facts import Linear
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torch_build.facts import TorchDevice
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS
from fp8doctor.checks.transformer_engine import Recipe, TransformerEngine, timing_probe
from fp8doctor.checks.transformer_engine.configurations import in_order, plan
from fp8doctor.checks.transformer_engine.times import FORWARD, TRAINING, LayerTime, TransformerEngineTimes
from fp8doctor.checks.transformer_engine.timing import cost_s
from fp8doctor.checks.workload import WorkloadSeen
from fp8doctor.measuring.timer import Pace
from fp8doctor.measuring.workloads import LinearUse, Step, Workload
from fp8doctor.model import Facts, ProbeRun, Request, Shape
from fp8doctor.plain import plain_problem, to_plain
from fp8doctor.store import decode_facts
from tests import fake_transformer_engine as fake
from tests.broken_packages import BrokenSite
from tests.stub_cuda import StubTorch

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:CUDA is not available, disabling CUDA profiling"),
]
FIRST, SECOND, ODD = Shape(32, 64, 48), Shape(16, 48, 64), Shape(12, 48, 64)
CURRENT, DELAYED = "te-fp8-current", "te-fp8-delayed"
RECIPES = ("Float8CurrentScaling", "DelayedScaling")
DEVICE_US = 300.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No warming up, and no threads that wait for one another over matrices this small."""
    monkeypatch.setattr(timing_probe, "WARM_S", 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """The small Transformer Engine, and its switches."""
    with fake.imported(tmp_path) as found:
        yield found


def stub(**settings: Any) -> StubTorch:
    return fake.stub_torch(torch, DEVICE_US, **settings)


def records(
    engine: Any, shapes: tuple[Shape, ...] = (FIRST,), recipes: tuple[str, ...] = RECIPES, **request: Any
) -> Iterator[TransformerEngineTimes]:
    """The growing record of a run on the CPU; `torch_stub` may be given beside what the request holds."""
    cuda = request.pop("torch_stub", None) or stub()
    asked = Request(shapes=shapes, **{"seconds_left": 600.0, **request})
    return timing_probe.Run(cuda, engine, torch.device("cpu"), asked, fake.seen(*recipes), shapes).records()


def last(growing: Iterator[TransformerEngineTimes]) -> TransformerEngineTimes:
    *_, found = growing
    return found


def by_name(times: TransformerEngineTimes, shape: Shape = FIRST) -> dict[tuple[str, str], LayerTime]:
    return {
        (case.config or "", case.passes or ""): case
        for case in times.cases or ()
        if (case.m, case.k, case.n) == (shape.m, shape.k, shape.n)
    }


# --- the whole run ---------------------------------------------------------------------------------------------------


def test_every_case_has_its_times_its_errors_and_their_limits(engine: tuple[Any, Any]) -> None:
    found = last(records(engine[0], (FIRST, SECOND)))
    assert (found.measurable, found.device_name, found.attempting) == (True, "a stub", None)
    assert (found.default_config, found.configs) == (DELAYED, (CURRENT, DELAYED))
    assert found.not_measured == ()
    scalings = in_order(RECIPES, "DelayedScaling")
    for shape, first in ((FIRST, True), (SECOND, False)):
        cases = by_name(found, shape)
        assert set(cases) == {(w.config, w.passes) for w in plan(scalings, first=first, everything=False)}
        for (config, passes), case in cases.items():
            assert case.outcome == "ok", case
            assert case.device_us is not None
            assert case.device_us.median == DEVICE_US
            assert case.device_us.n == timing_probe.ROUNDS["default"] * 5
            assert case.call_us is not None
            assert case.host_us is not None
            assert case.call_us.n == timing_probe.ROUNDS["default"]
            assert 0 < (case.relative_error or 0) <= (case.relative_error_limit or 0)
            assert (case.gradient_error is not None) == (passes == TRAINING)
            if passes == TRAINING:
                assert 0 < (case.gradient_error or 0) <= (case.gradient_error_limit or 0)
            assert ("fp8" in config) == ((case.relative_error or 0) > ERROR_LIMITS["bf16-output"])


def test_thorough_measures_everything_everywhere(engine: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(timing_probe.ROUNDS, "thorough", 2)
    found = last(records(engine[0], (FIRST, SECOND), RECIPES[:1], mode="thorough"))
    scalings = in_order(RECIPES[:1], "DelayedScaling")
    for shape in (FIRST, SECOND):
        wanted = {(w.config, w.passes) for w in plan(scalings, first=True, everything=True)}
        assert set(by_name(found, shape)) == wanted
    assert found.default_config is None, "the default was not right here, so it was not timed"


def test_a_shape_that_fp8_refuses_is_a_result_and_does_not_lead(engine: tuple[Any, Any]) -> None:
    found = last(records(engine[0], (ODD, SECOND)))
    refused = {case.outcome for (config, _), case in by_name(found, ODD).items() if "fp8" in config}
    assert refused == {"refused"}
    assert by_name(found, ODD)["torch-bf16", TRAINING].outcome == "ok"
    assert ("te-fp8-current+cachedweight", TRAINING) in by_name(found, SECOND)


def test_where_launches_show_no_time_is_kept(engine: tuple[Any, Any]) -> None:
    found = last(records(engine[0], recipes=RECIPES[:1], torch_stub=stub(launches_show=True)))
    assert {case.outcome for case in found.cases or ()} == {"not-measured"}
    assert not any(case.device_us or case.call_us for case in found.cases or ())


def test_long_work_needs_no_graphs_beside_it(engine: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing_probe, "HIDES_THE_HOST_US", DEVICE_US / 2)
    configs = {config for config, _ in by_name(last(records(engine[0])))}
    assert not [config for config in configs if "cudagraph" in config or config == "te-bf16"]
    assert {"torch-bf16", CURRENT, DELAYED} < configs


def test_releases_of_old_are_called_in_their_own_words(tmp_path: Path) -> None:
    with fake.imported(tmp_path, old=True) as (engine, switches):
        assert not hasattr(engine.te, "autocast")
        assert engine.default_recipe() == "DelayedScaling"
        found = last(records(engine))
        assert switches.counted["resets"] == 1
    ways = plan(in_order(RECIPES, "DelayedScaling"), first=True, everything=False)
    assert {(way.config, way.passes) for way in ways} == set(by_name(found))
    assert {case.outcome for case in found.cases or ()} == {"ok"}


@pytest.mark.parametrize("failing", [RECIPES, RECIPES[1:]], ids=["each", "one after another went well"])
def test_a_capture_that_fails_leaves_the_layers_after_it_as_they_were(
    engine: tuple[Any, Any], failing: tuple[str, ...]
) -> None:
    error = RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def choose(layer: Any, recipe: str | None) -> None:
        engine[1].fail_capture = error if recipe in failing else None

    engine[1].at_call = choose
    times = last(records(engine[0], (FIRST, SECOND)))
    graphs = {scaling.recipe: f"{scaling.config}+cudagraph" for scaling in in_order(RECIPES, None)}
    failed = {way for way, case in by_name(times).items() if case.outcome != "ok"}
    assert failed == {(graphs[recipe], TRAINING) for recipe in failing}
    # Patched, the layers would have run in BF16: more exactly than FP8 can be.
    ran_in_fp8 = [c for c in times.cases or () if "fp8" in (c.config or "") and c.outcome == "ok"]
    assert {(c.m, c.k, c.n) for c in ran_in_fp8} == {(s.m, s.k, s.n) for s in (FIRST, SECOND)}
    assert [c for c in ran_in_fp8 if (c.relative_error or 0) <= ERROR_LIMITS["bf16-output"]] == []
    assert engine[0].te.graph._IS_GRAPH_CAPTURING is False
    assert gc.isenabled()


# --- the budget ------------------------------------------------------------------------------------------------------


def test_without_time_nothing_is_measured_and_it_says_so(engine: tuple[Any, Any]) -> None:
    found = last(records(engine[0], (FIRST, SECOND), seconds_left=0.5))
    assert found.cases == ()
    assert found.not_measured == tuple(f"{shape}: the time budget was spent" for shape in (FIRST, SECOND))


def test_what_does_not_fit_is_left_out_and_named(engine: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing_probe, "HIDES_THE_HOST_US", 1e9)
    slow = stub()
    slow.pair_ms = 20.0
    one_s = cost_s(Pace(20_000, 0), timing_probe.ROUNDS["default"])
    seconds = timing_probe.RESERVE_S + 1.6 * one_s
    found = last(records(engine[0], seconds_left=seconds, torch_stub=slow))
    assert list(by_name(found)) == [("torch-bf16", TRAINING)]
    ways = plan(in_order(RECIPES, "DelayedScaling"), first=True, everything=False)
    assert found.not_measured is not None
    assert found.not_measured[0] == f"{ways[1]} and {len(ways) - 2} more at {FIRST}: the time budget was spent"


# --- a crash ---------------------------------------------------------------------------------------------------------


class Died(BaseException):
    """In the place of a signal, which would end the test as well."""


def crash(growing: Iterator[TransformerEngineTimes]) -> TransformerEngineTimes:
    """The last record that a child writes which dies at what it tries."""
    written = TransformerEngineTimes()
    try:
        for record in growing:
            written = record
    except Died:
        return written
    pytest.fail("it did not die")


def test_a_crash_costs_what_was_tried_and_the_rest_goes_on(engine: tuple[Any, Any]) -> None:
    def die(layer: Any, recipe: str | None) -> None:
        if recipe == "DelayedScaling" and not torch.is_grad_enabled():
            raise Died

    engine[1].at_call = die
    shapes = (SECOND, FIRST)
    written = crash(records(engine[0], shapes))
    assert written.attempting == f"te-fp8-delayed forward {SECOND}"
    engine[1].at_call = None
    so_far = {"so_far": to_plain(written), "so_far_ended": "signal 11 (SIGSEGV)"}
    found = last(records(engine[0], shapes, **so_far))
    crashed = by_name(found, SECOND)[DELAYED, FORWARD]
    assert (crashed.outcome, crashed.error) == ("crashed", "the process ended: signal 11 (SIGSEGV)")
    assert crashed.device_us is None
    assert [c for c in found.cases or () if c.outcome != "ok"] == [crashed]
    assert by_name(found, FIRST)[DELAYED, FORWARD].outcome == "ok"
    assert found.not_measured == (f"te-fp8-delayed forward {SECOND}: the child ended by signal 11 (SIGSEGV)",)


def test_shapes_that_are_done_are_not_done_again(engine: tuple[Any, Any]) -> None:
    done = last(records(engine[0], (FIRST,)))
    interrupted = replace(done, attempting=f"timing {SECOND}")
    again = last(records(engine[0], (FIRST, SECOND), so_far=to_plain(interrupted), so_far_ended="status 1"))
    assert by_name(again, FIRST) == by_name(done, FIRST)
    assert by_name(again, SECOND) == {}
    assert again.not_measured == (f"timing {SECOND}: the child ended by status 1",)


def test_what_poisons_the_gpu_ends_the_child_and_not_the_record(engine: tuple[Any, Any]) -> None:
    def fault(layer: Any, recipe: str | None) -> None:
        if recipe == "Float8CurrentScaling":
            poisoned.cuda.synchronize = raising
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def raising(device: Any = None) -> None:
        raise Died

    poisoned = stub()
    engine[1].at_call = fault
    written = crash(records(engine[0], torch_stub=poisoned))
    assert written.attempting == f"te-fp8-current forward+backward {FIRST}"


# --- a child ---------------------------------------------------------------------------------------------------------

GPU = TorchBuild(installed=True, devices=(TorchDevice(index=0, name="a stub"),))
REFUSED = Recipe("DelayedScaling", available=False, reason="Device compute capability 8.9 or higher required")


@pytest.mark.parametrize(
    ("build", "te", "why"),
    [
        (GPU, TransformerEngine(installed=False), "Transformer Engine is not installed"),
        (GPU, TransformerEngine(installed=True, import_ok=False), "Transformer Engine cannot be imported"),
        (TorchBuild(installed=True, devices=()), fake.seen(*RECIPES), "torch sees no GPU"),
        (TorchBuild(installed=False), fake.seen(*RECIPES), "there is no torch to measure with"),
        (GPU, None, "whether Transformer Engine is there was not seen"),
        (
            GPU,
            TransformerEngine(installed=True, import_ok=True, recipes=(REFUSED,)),
            f"Transformer Engine has no FP8 recipe that runs here: {REFUSED.reason}",
        ),
    ],
)
def test_why_it_measures_nothing(build: TorchBuild, te: TransformerEngine | None, why: str) -> None:
    (record,) = timing_probe.gather(Request(), build, te, None)
    assert record == TransformerEngineTimes(measurable=False, why_not=why)


def test_recipes_that_are_wrong_or_failed_are_not_timed() -> None:
    seen = fake.seen(*RECIPES)
    right, other = seen.recipes or ()
    for bad in ({"relative_error": 0.3}, {"forward_ok": False}, {"available": False}, {"relative_error": None}):
        spoilt = replace(seen, recipes=(right, replace(other, **bad)))
        assert timing_probe.right_recipes(spoilt) == [right.name]


def test_it_times_alone_after_the_linear_layer_and_is_no_part_of_a_quick_run() -> None:
    probe = timing_probe.gather.__fp8doctor__  # type: ignore[attr-defined]
    assert probe.times_gpu
    assert "quick" not in probe.modes
    assert inspect.isgeneratorfunction(probe.function), "so that a crash keeps what was measured before it"
    assert plain_problem(TransformerEngineTimes) is None
    assert Linear.key not in {need.key for need in probe.needs.values()}


# The stub in the place of torch, in a process of its own: as Python starts.
_STUBBED = """
import sys
sys.path.append({root!r})
import torch
from types import SimpleNamespace
from tests.stub_cuda import StubTorch
stub = StubTorch(torch, pair_ms=0.3)
stub.__path__ = torch.__path__
stub.device = lambda *names: torch.device("cpu")
stub.cuda.set_device = lambda index: None
stub.cuda._is_in_bad_fork = lambda: True  # manual_seed asks, and leaves CUDA alone
stub.cuda.get_device_properties = lambda device: SimpleNamespace(L2_cache_size=4096, name="a stub")
stub.cuda.make_graphed_callables = lambda module, sample_args: module
sys.modules["torch"] = stub
"""
_DIES_WHILE_CAPTURING = """
import os, signal
def at_call(layer, recipe):
    from transformer_engine.pytorch import graph
    if graph._IS_GRAPH_CAPTURING:
        os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.mark.timeout(60)
def test_in_a_child_a_segmentation_fault_costs_one_case(tmp_path: Path) -> None:
    site: BrokenSite = fake.write(tmp_path)
    site.module("transformer_engine.switches", fake.SWITCHES + _DIES_WHILE_CAPTURING)
    site.module("sitecustomize", _STUBBED.format(root=str(Path(__file__).parents[2])))
    te = fake.seen("Float8CurrentScaling")
    step = Step(trains=True, linears=(LinearUse(FIRST.m, FIRST.k, FIRST.n, 1),))
    needs: dict[str, ProbeRun[Facts]] = {
        "torch_build": ProbeRun("ok", GPU),
        "transformer_engine": ProbeRun("ok", te),
        "workload": ProbeRun("ok", WorkloadSeen(workload=Workload(steps=(step,)))),
    }
    run = site.probe(timing_probe.gather, needs=needs, deadline_s=50.0, environment={"OMP_NUM_THREADS": "1"})
    assert run.outcome == "ok", run
    found = by_name(run.facts)
    assert {way for way, case in found.items() if case.outcome != "ok"} == {("te-fp8-current+cudagraph", TRAINING)}
    assert "SIGSEGV" in (found["te-fp8-current+cudagraph", TRAINING].error or "")
    assert found[CURRENT, TRAINING].device_us is not None
    assert decode_facts(TransformerEngineTimes, to_plain(run.facts)) == run.facts
