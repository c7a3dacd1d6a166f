"""A model is examined in the caller's own process, and is afterwards as it was."""

from __future__ import annotations

import random
import re
import threading
from typing import Any

import pytest

import fp8doctor
from fp8doctor.checks.model.trying import trials
from fp8doctor.judging.report import BOX_NOT_ASKED
from tests.observing.models import blocks

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried on the blocks has tests of its own (tests/checks/test_model_trying.py)."""
    monkeypatch.setattr(trials, "INFERENCE", ())
    monkeypatch.setattr(trials, "TRAINING", ())


def test_a_forward_is_timed_recorded_and_its_rows_are_counted() -> None:
    report = fp8doctor.examine_model(blocks(2).eval(), torch.randn(3, 5, 64))
    assert report.source == "model"
    model, trace = report.facts["model"], report.facts["trace"]
    assert [layer["rows"] for layer in model["layers"]] == [[15], [15]]
    assert model["run"]["error"] is None
    assert model["run"]["step_ms"]["n"] >= 3
    assert model["autocast"] == "off"
    assert trace["steps"] == 3


def test_a_model_whose_weights_are_all_brought_in_for_a_call_is_run_where_they_are_brought() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = blocks(2).eval()
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    report = fp8doctor.examine_model(model, torch.randn(3, 5, 64), try_for_s=0)
    assert report.facts["model"]["run"]["error"] is None
    assert report.facts["model"]["run"]["step_ms"]["n"] >= 3


def test_a_model_on_meta_that_nobody_brings_in_is_not_called() -> None:
    report = fp8doctor.examine_model(blocks(2).to("meta").eval(), torch.randn(3, 5, 64, device="meta"), try_for_s=0)
    assert "weights are on meta" in report.facts["model"]["run"]["error"]


def test_a_report_of_a_model_speaks_of_it_and_is_silent_of_a_box_that_nobody_asked_about() -> None:
    report = fp8doctor.examine_model(blocks(2).eval(), torch.randn(3, 5, 64), try_for_s=0)
    assert re.fullmatch(
        r"All 4 linear layers multiply in 32 bits; a step \(forward\) takes [\d.,]+ ms on the CPU, "
        r"where timing tells nothing of FP8\. Nothing to mend was found\.",
        report.verdict.headline,
    )
    assert not [outcome for outcome in report.outcomes if outcome.outcome == "unknown"]
    assert not [one for one in report.outcomes if one.outcome == "pass" and not one.id.startswith("MOD")]
    probes = {key: (probe.outcome, probe.detail) for key, probe in report.probes.items()}
    assert probes.pop("model") == ("ok", None)
    assert set(probes.values()) == {("skipped", BOX_NOT_ASKED)}
    assert fp8doctor.diagnose(report.to_json(redact=False)).outcomes == report.outcomes


def test_a_report_of_a_model_is_printed_as_a_page() -> None:
    report = fp8doctor.examine_model(blocks(2).eval(), torch.randn(3, 5, 64), try_for_s=0)
    printed = str(report)
    assert printed.startswith(f"fp8doctor {fp8doctor.__version__} · Sequential, 32,768 parameters · 3 steps of")
    assert "\nNot examined\n  - the box itself: run fp8doctor\n" in printed
    assert len(printed.splitlines()) < 20
    assert not any(word in printed for word in ("On this box", "Could not tell", "fp8doctor demo", "--markdown"))
    assert "**Checks**" in report.to_markdown()
    assert "the box itself: run fp8doctor" in report.to_markdown()
    assert "Sequential" not in repr(report)
    assert len(repr(report).splitlines()) == 1


def test_in_training_a_step_goes_backward() -> None:
    report = fp8doctor.examine_model(blocks(1).train(), torch.randn(4, 64))
    operators = {one["name"] for one in report.facts["trace"]["operators"]}
    assert any("Backward" in name for name in operators)


def test_what_was_there_before_is_there_afterwards() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5)).train()
    model(torch.randn(4, 8)).sum().backward()
    gradient = model[0].weight.grad
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = gradient.clone()
    torch.manual_seed(7)
    random.seed(7)
    expected = (torch.rand(1).item(), random.random())
    torch.manual_seed(7)
    random.seed(7)
    fp8doctor.examine_model(model, torch.randn(4, 8, generator=torch.Generator().manual_seed(1)))
    assert (torch.rand(1).item(), random.random()) == expected
    assert model[0].weight.grad is gradient
    assert torch.equal(gradient, kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert model.training


def test_a_step_of_ones_own_is_called() -> None:
    model, calls = blocks(1), []

    def step() -> None:
        calls.append(model(torch.randn(2, 64)))

    report = fp8doctor.examine_model(model, step=step)
    assert report.facts["model"]["run"]["error"] is None
    assert len(calls) > 8


def test_without_inputs_it_is_looked_at_alone() -> None:
    report = fp8doctor.examine_model(blocks(2))
    assert report.facts["trace"] is None
    assert report.facts["model"]["run"] is None
    assert report.facts["model"]["parameters"] == 2 * 2 * 64 * 128


@pytest.mark.parametrize("inputs", [torch.randn(4, 63), {"no_such_argument": 1}, ("text",)])
def test_what_does_not_run_is_said_and_the_rest_is_reported(inputs: Any) -> None:
    report = fp8doctor.examine_model(blocks(1), inputs)
    failed = next(f for f in report.findings if f.name == "model-does-not-run")
    assert failed.evidence[0].text
    assert report.facts["model"]["layers"]
    assert not any(m._forward_pre_hooks for m in blocks(1).modules())


def test_an_output_without_a_gradient_is_told_what_to_do() -> None:
    model = blocks(1).train().requires_grad_(False)
    report = fp8doctor.examine_model(model, torch.randn(2, 64))
    assert "model.eval()" in report.findings[0].evidence[0].text


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        fp8doctor.examine_model(lambda x: x)


def test_a_watched_block_runs_as_by_itself_and_steps_are_the_optimizers() -> None:
    model = blocks(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []

    def step() -> None:
        for _ in range(2):  # two micro-batches
            model(torch.randn(4, 64)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(len(model._forward_pre_hooks))

    with fp8doctor.watch() as watched:
        for _ in range(6):
            step()
    assert watched.report.facts["trace"]["steps"] == 3
    assert watched.report.facts["model"]["class_name"].endswith("Sequential")
    assert watched.report.verdict.headline.startswith("All 4 linear layers multiply in 32 bits; it is on the CPU")
    assert seen[-3:] == [0, 0, 0]  # after the window nothing hangs on the model


def test_watched_calls_without_an_optimizer_are_steps() -> None:
    model = blocks(2).eval()
    with fp8doctor.watch() as watched, torch.no_grad():
        for _ in range(8):
            model(torch.randn(4, 64))
    assert watched.report.facts["trace"]["steps"] == 3


def test_a_window_in_which_something_was_compiled_is_begun_again() -> None:
    model = blocks(2).eval()
    model[0].compile(backend="eager")
    model[1].compile(backend="eager")
    with fp8doctor.watch() as watched, torch.no_grad():
        for _ in range(12):
            model(torch.randn(4, 64))
    assert watched.report.facts["trace"]["compilations"] == 0


def test_an_exception_in_the_block_is_the_callers_own() -> None:
    model = blocks(1)
    watched = fp8doctor.watch()

    def broken() -> None:
        with watched:
            model(torch.randn(2, 64))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert watched.report is None
    assert not model._forward_pre_hooks


def test_a_block_that_calls_no_model_is_no_fault() -> None:
    with fp8doctor.watch() as watched:
        torch.randn(4, 4) @ torch.randn(4, 4)
    assert not watched.report.findings
    assert "no model was called in the block" in watched.report.verdict.headline


def test_a_watch_is_used_once() -> None:
    watched = fp8doctor.watch()
    with watched:
        pass
    with pytest.raises(RuntimeError, match="make a new"), watched:
        pass


@pytest.mark.parametrize("outer", [True, False])
def test_another_profiler_is_said_and_survived(outer: bool) -> None:
    model, x = blocks(2).eval(), torch.randn(4, 64)
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    watched = fp8doctor.watch()
    first, then = (profiler, watched) if outer else (watched, profiler)
    with first, then:
        model(x)
    assert not watched.report.findings
    assert "another profiler" in watched.report.verdict.headline
    with profiler:
        assert "another profiler is on" in fp8doctor.examine_model(model, x, try_for_s=0).facts["model"]["run"]["error"]


def test_a_step_must_be_something_that_can_be_called() -> None:
    with pytest.raises(TypeError, match="step=lambda"):
        fp8doctor.examine_model(blocks(1), step=torch.zeros(3))


def test_without_inputs_it_says_that_no_step_was_timed() -> None:
    assert (
        "no step was timed: neither inputs nor a step were given" in fp8doctor.examine_model(blocks(1)).verdict.headline
    )


def test_it_works_in_another_thread() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(fp8doctor.examine_model(blocks(1), torch.randn(2, 64))))
    thread.start()
    thread.join()
    assert found[0].facts["model"]["run"]["error"] is None
