"""The probe of attention, with torch on the CPU, a stub for its device, and packages on disk that compute there."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fp8doctor.checks.attention import AttentionBackend, AttentionSwitch
from fp8doctor.checks.attention_times import probe
from fp8doctor.checks.attention_times.facts import AttentionTimes
from fp8doctor.checks.attention_times.lookup import DEFAULT, best_route, device_us
from fp8doctor.checks.attention_times.probe import Known, ended_children, gather, resumed
from fp8doctor.checks.attention_times.shapes import BOTH_WAYS, Task, flops, planned
from fp8doctor.checks.attention_times.te import LOGGER
from fp8doctor.checks.flash_attention import FlashAttention, Generation
from fp8doctor.checks.linear.timing import LAUNCHES_SHOW
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.measuring.workloads import Step, Workload
from fp8doctor.model import Facts, NotApplicable, ProbeRun, Request
from fp8doctor.plain import plain_problem, to_plain
from tests.attention_facts import REGISTRY, TIMES, verdict
from tests.attention_run import (
    ALL,
    DECODE,
    GROUPED,
    ONE,
    SEEN,
    TE,
    TRAINING,
    WORKLOAD,
    by_route,
    records,
    stub,
)
from tests.broken_packages import BrokenSite
from tests.fake_attention import install

# The profiler says so where there is no GPU to trace.
pytestmark = pytest.mark.filterwarnings("ignore:CUDA is not available")


@pytest.fixture(scope="module", autouse=True)
def cold() -> Iterator[None]:
    """A stub's clock needs no warming up, and tensors this small no threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "WARM_S", 0.0)
        if importlib.util.find_spec("torch") is None:
            yield
            return
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """FlashAttention 3 and Transformer Engine, importable in this process while this module is tested."""
    folder = tmp_path_factory.mktemp("site")
    install(BrokenSite(folder))
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    for name in [
        name for name in sys.modules if name.partition(".")[0] in ("flash_attn_interface", "transformer_engine")
    ]:
        del sys.modules[name]
    logging.Logger.manager.loggerDict.pop(LOGGER, None)


@pytest.fixture(scope="module")
def told(packages: None, cold: None) -> list[AttentionTimes]:
    """What the probe yields where every package is there."""
    return records(ALL)


# --- from end to end -------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_every_route_is_called_compared_and_timed(told: list[AttentionTimes]) -> None:
    record = told[-1]
    assert (record.measurable, record.attempting, record.device_name) == (True, None, "NVIDIA Stub")
    assert record.compute_capability == "9.0"
    assert record.not_measured == ()
    cases = by_route(record, GROUPED)
    for slug in (DEFAULT, "torch-sdpa-flash", "torch-sdpa-math", "flash-attn-3", "te-attention"):
        case = cases[slug]
        assert (case.outcome, case.calls) == ("ok", 8), (slug, case.error)
        assert case.device_us is not None
        assert case.tflops == round(flops(GROUPED) / case.device_us.median * 1e-6, 2)
        assert case.relative_error is not None
        assert 0 < case.relative_error <= (case.relative_error_limit or 0) < 0.03
        # Nobody chooses the unfused route, so nobody waits for its calls.
        assert (case.call_us is None) is (slug == "torch-sdpa-math")
    for slug in ("flash-attn-3-fp8", "te-fp8-delayed-attention"):
        case = cases[slug]
        assert case.outcome == "ok", case.error
        assert case.relative_error is not None
        assert (case.bf16_error_limit or 1) < case.relative_error < (case.relative_error_limit or 0)


@pytest.mark.torch
@pytest.mark.usefixtures("told")
def test_packages_get_the_layout_the_mask_and_the_fewer_heads_of_keys() -> None:
    import flash_attn_interface

    seen = set(flash_attn_interface.calls)
    for dtype in ("torch.bfloat16", "torch.float8_e4m3fn"):
        assert (dtype, (1, 48, 4, 32), (1, 48, 2, 32), True) in seen
        assert (dtype, (2, 1, 4, 32), (2, 64, 2, 32), False) in seen


@pytest.mark.torch
@pytest.mark.usefixtures("packages")
def test_what_transformer_engine_says_of_its_choice_is_kept_and_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    cases = by_route(records(replace(ALL, attention=None, flash=None, workload=ONE))[-1], GROUPED)
    assert cases["te-attention"].backend == "FusedAttention (sub-backend 1)"
    assert cases["te-fp8-delayed-attention"].backend == "FusedAttention (sub-backend 2)"
    current = cases["te-fp8-current-attention"]
    assert (current.outcome, current.backend, current.device_us) == ("refused", "NoBackend", None)
    assert current.error == (
        "Disabling UnfusedDotProductAttention for FP8 attention; "
        "Disabling FusedAttention for FP8 current scaling on arch < sm100"
    )
    printed = capfd.readouterr()
    assert "Selected backend" not in printed.out + printed.err


@pytest.mark.torch
@pytest.mark.usefixtures("packages")
def test_delayed_scaling_gets_its_scales_before_it_is_timed_and_keeps_them() -> None:
    import transformer_engine.pytorch as te

    before = te.updates
    records(Known(te=TE, workload=ONE))
    assert te.updates == before + 3


@pytest.mark.torch
def test_what_is_known_to_be_closed_is_told_once_and_never_called(told: list[AttentionTimes]) -> None:
    (closed,) = [case for case in told[-1].cases or () if case.route == "te-mxfp8-attention"]
    assert (closed.outcome, closed.error) == ("unavailable", TE.recipes[2].reason if TE.recipes else None)
    assert closed.queries == GROUPED.queries


@pytest.mark.torch
@pytest.mark.usefixtures("packages")
def test_a_step_that_trains_has_its_gradients_compared_too() -> None:
    record = records(replace(ALL, workload=TRAINING))[-1]
    forward, both = by_route(record, GROUPED), by_route(record, GROUPED, trains=True)
    assert set(forward) - set(both) == {"torch-sdpa-math", "flash-attn-3-fp8", "te-mxfp8-attention"}
    for slug in (DEFAULT, "flash-attn-3", "te-attention", "te-fp8-delayed-attention"):
        case = both[slug]
        assert case.outcome == "ok", (slug, case.error)
        assert case.gradient_error is not None
        assert 0 < case.gradient_error <= (case.gradient_error_limit or 0)
        assert forward[slug].gradient_error is None
        assert case.device_us is not None
        assert case.tflops == round(3.5 * flops(GROUPED) / case.device_us.median * 1e-6, 2)


@pytest.mark.torch
def test_which_backend_torch_picks(told: list[AttentionTimes]) -> None:
    cases = by_route(told[-1], GROUPED)
    assert cases[DEFAULT].backend == "flash"  # the CPU's own
    assert cases["torch-sdpa-math"].backend == "math"


@pytest.mark.torch
def test_torchs_switch_is_on_while_its_route_is_timed_and_off_again_after() -> None:
    attention = pytest.importorskip("torch.nn.attention")
    if not hasattr(attention, "restore_flash_attention_impl"):
        pytest.skip("this torch cannot turn its switch back")
    seen: list[str] = []

    def register() -> Any:
        seen.append("on")
        return SimpleNamespace(remove=lambda: seen.append("off"))

    attention.register_flash_attention_impl("FA0", register_fn=register)
    switch = AttentionSwitch("FA0", installed=True, outcome="ok")
    record = records(Known(replace(SEEN, switches=(switch,)), workload=ONE))[-1]
    case = by_route(record, GROUPED)["torch-sdpa-fa0"]
    assert (case.outcome, case.backend) == ("ok", "FA0")
    assert case.device_us is not None
    assert case.call_us is not None
    assert seen == ["on", "off"] * (len(seen) // 2)
    assert attention.current_flash_attention_impl() is None


@pytest.mark.torch
def test_a_switch_that_cannot_be_turned_back_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = pytest.importorskip("torch.nn.attention")
    monkeypatch.delattr(attention, "restore_flash_attention_impl", raising=False)
    switch = AttentionSwitch("FA3", installed=True, outcome="ok")
    record = records(Known(replace(SEEN, backends=(), switches=(switch,)), workload=ONE))[-1]
    assert set(by_route(record, GROUPED)) == {DEFAULT}
    assert record.not_measured == ("torch-sdpa-fa3: this torch cannot turn its switch back",)


@pytest.mark.torch
def test_a_backend_that_does_not_take_this_call_is_a_result() -> None:
    known = Known(replace(SEEN, backends=(AttentionBackend("cudnn", "ok"),)), workload=ONE)
    cases = by_route(records(known)[-1], GROUPED)
    assert cases["torch-sdpa-cudnn"].outcome == "refused"
    assert "No viable backend" in (cases["torch-sdpa-cudnn"].error or "")
    assert cases[DEFAULT].device_us is not None


@pytest.mark.torch
def test_a_wrong_result_is_neither_timed_nor_found_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = BrokenSite(tmp_path)
    site.module("attention_of_values", "def flash_attn_func(q, k, v, causal=False):\n    return q\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    flash = FlashAttention(generations=(Generation(3, True, module="attention_of_values", outcome="ok"),))
    record = records(Known(SEEN, flash, workload=ONE))[-1]
    case = by_route(record, GROUPED)["flash-attn-3"]
    assert (case.outcome, case.device_us) == ("wrong", None)
    assert (case.relative_error or 0) > (case.relative_error_limit or 1)
    assert best_route(record, GROUPED) != "flash-attn-3"
    assert device_us(record, "flash-attn-3", GROUPED) is None
    assert device_us(record, DEFAULT, GROUPED) is not None


@pytest.mark.torch
@pytest.mark.timeout(40)
def test_where_launches_show_no_time_is_kept() -> None:
    torch = pytest.importorskip("torch")
    one = Workload(steps=(Step(name="forward", attentions=(DECODE,)),))
    record = records(Known(workload=one), torch_here=stub(torch, launches_show=True))[-1]
    (case,) = record.cases
    assert (case.outcome, case.error, case.device_us, case.call_us) == ("not-measured", LAUNCHES_SHOW, None, None)


# --- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_the_unfused_route_is_left_out_where_its_scores_would_fill_the_memory() -> None:
    torch = pytest.importorskip("torch")
    task = Task(GROUPED)
    just = {"fits": 4 * task.score_bytes, "does not": 4 * task.score_bytes - 1}
    for which, free in just.items():
        assert task.operand_bytes < free / 2
        record = records(Known(SEEN, workload=ONE), torch_here=stub(torch, free=free))[-1]
        told = [words for words in record.not_measured or () if words.startswith("torch-sdpa-math at")]
        assert ("torch-sdpa-math" in by_route(record, GROUPED)) is (which == "fits")
        assert len(told) == (which != "fits")
        assert by_route(record, GROUPED)[DEFAULT].device_us is not None


@pytest.mark.torch
def test_calls_that_cannot_be_timed_are_told() -> None:
    torch = pytest.importorskip("torch")
    odd = Workload(steps=(Step(attentions=(GROUPED, replace(GROUPED, queries=16))),))
    record = records(Known(workload=odd), torch_here=stub(torch, free=1024))[-1]
    assert record.cases == ()
    large, masked = record.not_measured
    assert "do not fit" in large
    assert "lies differently" in masked


@pytest.mark.torch
@pytest.mark.usefixtures("packages")
def test_when_the_time_is_spent_all_that_was_left_out_is_told() -> None:
    record = records(ALL, seconds=0.0)[-1]
    assert (record.cases, record.attempting) == ((), None)
    assert record.not_measured == (
        "Transformer Engine's attention: no time left to import it",
        f"{Task(GROUPED).label}: the time budget was spent",
        f"{Task(DECODE).label}: the time budget was spent",
    )


@pytest.mark.torch
def test_a_slow_import_gives_way_to_what_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "transformer_engine.pytorch", raising=False)
    slow = replace(TE, import_s=30.0)
    record = records(Known(SEEN, te=slow, workload=ONE), seconds=20.0)[-1]
    assert record.not_measured == ("Transformer Engine's attention: no time left to import it",)
    assert set(by_route(record, GROUPED)) == {DEFAULT, "torch-sdpa-flash", "torch-sdpa-math", "te-mxfp8-attention"}


# --- after a crash ---------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_after_a_crash_a_fresh_child_goes_on_and_leaves_out_what_crashed(told: list[AttentionTimes]) -> None:
    step = f"flash-attn-3: {Task(GROUPED).label}"
    last = next(record for record in told if record.attempting == step)
    assert {case.route for case in last.cases or ()} >= {DEFAULT, "torch-sdpa-flash"}
    assert not any(case.device_us for case in last.cases or ())
    second = records(ALL, so_far=to_plain(last), so_far_ended="SIGSEGV")
    cases = by_route(second[-1], GROUPED)
    assert (cases["flash-attn-3"].outcome, cases["flash-attn-3"].device_us) == ("crashed", None)
    assert "SIGSEGV" in (cases["flash-attn-3"].error or "")
    for slug in (DEFAULT, "torch-sdpa-flash", "te-attention", "flash-attn-3-fp8"):
        assert cases[slug].device_us is not None, slug
    assert by_route(second[-1], DECODE)["flash-attn-3"].outcome == "ok"
    assert step not in [record.attempting for record in second]


@pytest.mark.torch
def test_what_was_timed_before_a_crash_is_kept_and_not_timed_again(told: list[AttentionTimes]) -> None:
    last = next(record for record in told if record.attempting == f"{DEFAULT}: {Task(DECODE).label}")
    kept = by_route(last, GROUPED)[DEFAULT].device_us
    assert kept is not None
    second = records(Known(SEEN, workload=WORKLOAD), so_far=to_plain(last), so_far_ended="SIGALRM")[-1]
    assert by_route(second, GROUPED)[DEFAULT].device_us == kept
    assert by_route(second, GROUPED)[DEFAULT].call_us is None
    assert "calls and kernels of what was timed before a child ended" in second.not_measured
    assert by_route(second, DECODE)[DEFAULT].outcome == "timeout"


@pytest.mark.torch
@pytest.mark.parametrize("step", [Task(GROUPED).label, "importing Transformer Engine", "calls"])
def test_a_step_that_is_no_route_is_not_taken_again(step: str, told: list[AttentionTimes]) -> None:
    assert step in [record.attempting for record in told]
    crashed = AttentionTimes(measurable=True, attempting=step)
    second = records(Known(te=TE, workload=ONE), so_far=to_plain(crashed), so_far_ended="SIGABRT")
    assert step not in [record.attempting for record in second]
    last = second[-1]
    assert f"{step}: the child ended by SIGABRT" in last.not_measured
    timed = {case.route for case in last.cases if case.device_us}
    called = {case.route for case in last.cases if case.call_us}
    every: set[str] = {DEFAULT, "te-attention", "te-fp8-delayed-attention"}
    left = {"calls": (every, set()), "importing Transformer Engine": ({DEFAULT}, {DEFAULT})}
    assert (timed, called) == left.get(step, (set(), set()))


def test_a_first_child_begins_with_an_empty_record() -> None:
    assert resumed(Request(), planned(None, thorough=False)) == AttentionTimes(measurable=True)
    assert ended_children(AttentionTimes(measurable=True)) == frozenset()


def test_the_label_of_a_backward_is_found_again() -> None:
    tasks = planned(TRAINING, thorough=False)
    last = replace(TIMES, cases=(), attempting=f"te-attention: {tasks[1].label}")
    record = resumed(Request(so_far=to_plain(last), so_far_ended="SIGSEGV"), tasks)
    assert tasks[1].label.endswith(BOTH_WAYS)
    (case,) = record.cases or ()
    assert (case.route, case.trains, case.outcome) == ("te-attention", True, "crashed")


# --- a child ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (TorchBuild(installed=True, version="2.13.0+cpu", accelerator="cpu", devices=()), "torch sees no GPU"),
        (TorchBuild(installed=False), "there is no torch to measure with"),
    ],
)
def test_without_a_gpu_or_a_torch_it_says_so_and_imports_nothing(tmp_path: Path, build: TorchBuild, why: str) -> None:
    site = BrokenSite(tmp_path)
    site.break_import("torch", "abort")
    needs: dict[str, ProbeRun[Facts]] = {"torch_build": ProbeRun("ok", build)}
    run = site.probe(gather, needs=needs)
    assert (run.outcome, run.facts) == ("ok", AttentionTimes(measurable=False, why_not=why))
    assert {verdict(rule, run.facts) for rule in REGISTRY.rules} == {NotApplicable(why)}


def test_it_times_alone_and_is_no_part_of_a_quick_run() -> None:
    spec = REGISTRY.probes["attention_times"]
    assert spec.times_gpu
    assert "quick" not in spec.modes
    assert inspect.isgeneratorfunction(spec.function), "so that a crash keeps what was measured before it"
    assert plain_problem(AttentionTimes) is None
