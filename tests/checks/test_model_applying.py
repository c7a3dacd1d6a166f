"""The advised configuration is put into the whole model for a moment, and the model is as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

import fp8doctor
from fp8doctor import api
from fp8doctor.checks.model.trying import applying, block_times, placing
from fp8doctor.checks.model.trying import trials as trying
from fp8doctor.checks.model.trying.applying import checked
from fp8doctor.checks.model.trying.blocks import kinds_of_blocks
from fp8doctor.checks.model.trying.trials import Trier
from fp8doctor.observed import AS_IT_IS, Check, StepRun, Trial
from fp8doctor.observing import looking
from fp8doctor.observing.keeping import as_it_was
from tests.checks.test_model_plan import ms
from tests.checks.tried_models import asked_for, everything, llama, tokens
from tests.observing.models import blocks

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

TRAINED = "torchao-fp8train-tensorwise"


@pytest.fixture(autouse=True)
def shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps and blocks are timed for hundredths of a second."""
    monkeypatch.setattr(block_times, "TIMED_S", 0.01)
    monkeypatch.setattr(block_times, "WARM_S", 0.005)
    monkeypatch.setattr(applying, "TIMED_S", 0.03)
    monkeypatch.setattr(placing, "STEPS", 3)


def x(rows: int = 16, **more: Any) -> Any:
    return torch.randn(rows, 64, generator=torch.Generator().manual_seed(1), **more)


class Headed(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Blocks between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layers, self.head = torch.nn.Linear(64, 64), blocks(3), torch.nn.Linear(64, 8)

    def forward(self, x: Any) -> Any:
        return self.head(self.layers(self.embed(x)))


def hooked(model: Any) -> Any:
    """The model with hooks, gradients and a compiled block of its own."""
    model.layers[0].register_forward_hook(lambda *_: None)
    model.layers[1].up.register_forward_pre_hook(lambda *_: None)
    model.layers[2].compile(backend="eager")
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


def stepping(model: Any) -> Callable[[], None]:
    def step() -> None:
        if not model.training:
            with torch.no_grad():
                model(x(dtype=model.embed.weight.dtype))
            return
        model(x(dtype=model.embed.weight.dtype)).float().square().mean().backward()
        for parameter in model.parameters():
            parameter.grad = None

    return step


def trier_of(model: Any, step: Callable[[], None]) -> Trier:
    found = dataclasses.replace(looking.look(model, api.knowledge().describers), run=StepRun(step_ms=ms(10)))
    return Trier(found, model, kinds_of_blocks(model, step))


def check(model: Any, config: str, step: Callable[[], None] | None = None) -> Check:
    step = step or stepping(model)
    with as_it_was(model):
        return checked(trier_of(model, step), model, step, Trial(config, config, "ok", step_ms=ms(8)))


# --- The advised configuration in the whole model ---


@pytest.mark.parametrize("trains", [False, True])
def test_afterwards_the_model_is_the_very_same(trains: bool) -> None:
    model = hooked(Headed().to(torch.bfloat16).train(trains))
    before = everything(model)
    found = check(model, "torch-bf16")
    assert everything(model) == before
    assert (found.outcome, found.config, found.detail) == ("ok", "torch-bf16", None)
    assert found.step_ms is not None
    assert found.as_it_is_ms is not None
    assert min(found.as_it_is_ms.n, found.step_ms.n) >= applying.FEWEST
    assert found.first_s is not None
    assert found.estimated_ms == ms(8)


def test_in_training_the_converted_blocks_have_the_optimizers_own_parameters() -> None:
    pytest.importorskip("torchao.float8")
    model = Headed().to(torch.bfloat16).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    own = {id(parameter) for parameter in model.parameters()}
    seen: list[tuple[str, bool, bool]] = []

    def step() -> None:
        model(x(dtype=torch.bfloat16)).float().square().mean().backward()
        every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        kind = type(model.layers[0].up).__name__
        with_gradients = all(parameter.grad is not None for parameter in every)
        seen.append((kind, {id(parameter) for parameter in model.parameters()} == own, with_gradients))
        optimizer.step()
        optimizer.zero_grad()

    found = check(model, TRAINED, step)
    assert (found.outcome, found.detail) == ("ok", None)
    assert set(seen) == {("Linear", True, True), ("Float8Linear", True, True)}
    assert seen[-1][0] == "Linear"


def test_parameters_of_another_type_are_not_the_optimizers_and_that_is_said() -> None:
    model = Headed().to(torch.half).train()
    before = everything(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = check(model, "torch-bf16")
    assert found.outcome == "ok"
    assert found.detail == "its parameters are not the optimizer's, whose work is left out"
    assert everything(model) == before


def test_a_step_that_raises_when_converted_fails_and_the_model_is_back() -> None:
    model = hooked(Headed().to(torch.bfloat16).eval())
    before, kept = everything(model), model.layers[0]

    def step() -> None:
        if model.layers[0] is not kept:
            raise ZeroDivisionError("not with these blocks")
        model(x(dtype=torch.bfloat16))

    found = check(model, "torch-bf16", step)
    assert (found.outcome, found.detail) == ("failed", "ZeroDivisionError: not with these blocks")
    assert found.step_ms is None
    assert found.estimated_ms == ms(8)
    assert everything(model) == before


def test_a_model_whose_other_layers_are_of_another_type_is_not_checked_in_parts() -> None:
    model = Headed().eval()
    before = everything(model)
    found = check(model, "torch-bf16")
    assert found.outcome == "refused"
    assert found.detail == "the model is in float32: its blocks alone cannot be in bfloat16"
    assert everything(model) == before


def test_what_the_library_refuses_is_refused() -> None:
    pytest.importorskip("torchao")
    model = hooked(Headed().to(torch.bfloat16).eval())
    before = everything(model)
    found = check(model, "torchao-fp8-rowwise")  # torchao has FP8 products for GPUs alone
    assert found.outcome in ("refused", "failed")
    assert found.detail
    assert everything(model) == before


def test_a_model_that_repeats_nothing_is_checked_as_a_whole() -> None:
    class One(torch.nn.Linear):  # type: ignore[misc, name-defined]
        pass

    for model in (One(64, 64).to(torch.bfloat16).eval(), blocks(1)[0].to(torch.bfloat16).eval()):
        before = everything(model)
        found = check(model, "torch-bf16", lambda model=model: model(x(dtype=torch.bfloat16)))  # type: ignore[misc]
        assert found.outcome == "ok"
        assert everything(model) == before


def test_a_plan_is_checked_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stored(torch.nn.Module):  # type: ignore[misc, name-defined]
        """A block whose weight lies in FP8, which it takes long to cast."""

        def __init__(self) -> None:
            super().__init__()
            self.up, self.norm = torch.nn.Linear(64, 64, dtype=torch.bfloat16), torch.nn.LayerNorm(64).bfloat16()
            self.up.weight.data = self.up.weight.data.to(torch.float8_e4m3fn)

        def forward(self, x: Any) -> Any:
            for _ in range(1 if self.up.weight.dtype == torch.bfloat16 else 600):
                weight = self.up.weight.to(torch.bfloat16)
            return x + torch.nn.functional.linear(self.norm(x), weight)

    monkeypatch.setattr(trying, "INFERENCE", ("torch-bf16",))
    model = torch.nn.Sequential(Stored(), Stored()).eval()
    before = everything(model)
    report = fp8doctor.examine_model(model, x(dtype=torch.bfloat16), check_plan=True)
    assert everything(model) == before
    found = report.facts["model"]["check"]
    assert (found["config"], found["outcome"]) == ("torch-bf16", "ok")
    assert found["step_ms"]["median"] < found["as_it_is_ms"]["median"] / 2
    assert report.use[0].config == "torch-bf16"
    # Nothing faster: nothing to check.
    report = fp8doctor.examine_model(blocks(2).to(torch.bfloat16).eval(), x(dtype=torch.bfloat16), check_plan=True)
    assert report.facts["model"]["check"]["outcome"] == "refused"


def test_compiled_blocks_are_timed_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*arguments: Any) -> Any:
            called.append(1)
            return graph.forward(*arguments)

        return run

    monkeypatch.setattr(trying, "INFERENCE", ())
    model = Headed().eval()
    model.layers = torch.nn.ModuleList([torch.compile(layer, backend=backend) for layer in model.layers])
    model.forward = lambda x: model.head(model.layers[2](model.layers[1](model.layers[0](model.embed(x)))))
    step = stepping(model)
    step()
    trier = trier_of(model, step)
    before = len(called)
    trier.trial(AS_IT_IS, step)
    assert len(called) - before > 3 * block_times.FEWEST


def test_torchs_attention_is_checked_in_the_whole_model() -> None:
    model = llama("eager")
    seen: list[tuple[str, ...]] = []

    def step() -> None:
        seen.append(tuple(asked_for(model)))
        with torch.no_grad():
            model(tokens())

    trier = trier_of(model, step)
    trier.trial(AS_IT_IS, step)
    trial = trier.trial("torch-bf16+attention-sdpa", step)
    seen.clear()
    found = checked(trier, model, step, trial)
    assert found.outcome == "ok"
    assert set(seen) == {("eager",) * 3, ("sdpa",) * 3}
    assert asked_for(model) == ["eager"] * 3
