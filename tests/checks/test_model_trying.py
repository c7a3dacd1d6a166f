"""Other configurations are tried on copies of a model's blocks, and the model is as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import fp8doctor
from fp8doctor import api
from fp8doctor.checks.model import advice
from fp8doctor.checks.model.trying import block_times
from fp8doctor.checks.model.trying import trials as trying
from fp8doctor.model import Estimate
from fp8doctor.observed import Blocks, Model, StepRun, Trial
from tests.observing.models import blocks

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def trials(model: Any, inputs: Any, **more: Any) -> dict[str, Any]:
    report = fp8doctor.examine_model(model, inputs, **more)
    found = report.facts["model"]
    return {"untried": found["untried"], **{trial["config"]: trial for trial in found["trials"] or ()}}


def test_each_configuration_becomes_a_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "INFERENCE", ("torch-bf16", "torch-bf16+compile", "torchao-fp8-rowwise"))
    found = trials(blocks(3).to(torch.bfloat16).eval(), torch.randn(16, 64, dtype=torch.bfloat16), try_for_s=1e4)
    assert found["as-it-is"]["outcome"] == "ok"
    assert found["as-it-is"]["relative_error"] == 0
    assert "torch-bf16" not in found  # it is that already
    compiled = found["torch-bf16+compile"]
    assert compiled["outcome"] == "ok"
    assert 0 <= compiled["relative_error"] <= compiled["error_limit"]
    assert compiled["step_ms"]["low"] <= compiled["step_ms"]["median"] <= compiled["step_ms"]["high"]
    # torchao refuses FP8 without a GPU: that is an outcome, and no fault.
    assert found["torchao-fp8-rowwise"]["outcome"] != "ok"
    assert found["torchao-fp8-rowwise"]["detail"]


def test_training_tries_training_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchao.float8")
    monkeypatch.setattr(trying, "TRAINING", ("torch-bf16", "torchao-fp8train-tensorwise"))
    model = blocks(2).to(torch.bfloat16).train()
    found = trials(model, torch.randn(16, 64, dtype=torch.bfloat16), try_for_s=1e4)
    assert found["torchao-fp8train-tensorwise"]["outcome"] == "ok"
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.fixture(autouse=True)
def shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are timed for hundredths of a second."""
    monkeypatch.setattr(block_times, "TIMED_S", 0.02)
    monkeypatch.setattr(block_times, "WARM_S", 0.01)


@pytest.fixture
def plain_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without compiling, which takes long."""
    monkeypatch.setattr(trying, "INFERENCE", ("torch-bf16",))


@pytest.mark.usefixtures("plain_alone")
def test_a_converted_block_is_turned_back_to_16_bits_first() -> None:
    q = pytest.importorskip("torchao.quantization")
    model = blocks(2).to(torch.bfloat16).eval()
    before = model(torch.ones(4, 64, dtype=torch.bfloat16))
    q.quantize_(model, q.Float8WeightOnlyConfig())
    kind = type(model[0].up.weight)
    found = trials(model, torch.ones(4, 64, dtype=torch.bfloat16))
    assert found["torch-bf16"]["outcome"] == "ok"
    assert type(model[0].up.weight) is kind  # the model itself was not touched
    assert torch.allclose(model(torch.ones(4, 64, dtype=torch.bfloat16)), before, rtol=0.2, atol=0.2)


@pytest.mark.usefixtures("plain_alone")
def test_an_adapter_is_merged_in_the_copy_alone() -> None:
    peft = pytest.importorskip("peft")
    model = blocks(2).to(torch.bfloat16).eval()
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=["up"]), model)
    found = trials(model, torch.randn(4, 64, dtype=torch.bfloat16))
    assert found["torch-bf16"]["outcome"] == "ok"
    assert not model[0].up.merged


@pytest.mark.usefixtures("plain_alone")
def test_a_compiled_block_is_not_compiled_anew_for_it() -> None:
    model = blocks(2).to(torch.bfloat16).eval()
    for block in model:
        block.compile(backend="eager")
    x = torch.randn(4, 64, dtype=torch.bfloat16)
    model(x)
    kept = model[0]._compiled_call_impl
    trials(model, x)
    assert model[0]._compiled_call_impl is kept
    assert not model[0]._forward_pre_hooks


@pytest.mark.usefixtures("plain_alone")
def test_what_cannot_be_tried_says_why() -> None:
    x = torch.randn(4, 64)
    assert "compiled at once" in trials(torch.compile(blocks(2), backend="eager"), x)["untried"]
    assert "no time" in trials(blocks(2), x, try_for_s=1e-9)["untried"]
    assert trials(blocks(2), x, try_for_s=0)["untried"] is None


def _tried(**more: Any) -> Model:
    step = Estimate(20.0, 19.9, 20.1, 12)
    return Model(
        class_name="diffusers.models.transformers.transformer_flux.FluxTransformer2DModel",
        blocks=(Blocks("transformer_blocks", "B", 19, 1, 0), Blocks("single_transformer_blocks", "S", 38, 1, 0)),
        run=StepRun(step_ms=step),
        trials=(
            Trial("as-it-is", "as it is", "ok", step_ms=step),
            Trial("torch-bf16", "BF16", "ok", step_ms=Estimate(16.0, 15.9, 16.1, 12), relative_error=0.0),
            Trial(
                "torchao-fp8-rowwise+compile", "torchao float8 row-wise + torch.compile of each block", "ok",
                step_ms=Estimate(8.0, 7.9, 8.1, 12), relative_error=0.01, error_limit=0.08,
            ),
        ),
        **more,
    )  # fmt: skip


def test_what_was_tried_is_advised_on_with_code_for_its_own_blocks() -> None:
    report = api.read_report(api.knowledge(), {Model.key: _tried()}, "model")
    assert report.use[0].config == "torchao-fp8-rowwise+compile"
    assert report.use[0].basis == "estimated"
    assert "[*model.transformer_blocks, *model.single_transformer_blocks]" in (report.use[0].how or "")
    assert "filter_fn=wanted" in (report.use[0].how or "")
    compile(report.use[0].how or "", "how", "exec")


def test_a_wrong_configuration_is_never_advised() -> None:
    right = _tried()
    wrong = replace(right, trials=(*(right.trials or ())[:2], replace((right.trials or ())[2], outcome="wrong")))
    assert [c.config for c in advice.configurations(wrong)] == ["as-it-is", "torch-bf16"]
    table = advice.tried_table(wrong)
    assert table is not None
    assert table.rows[2]["cells"]["how it is known"] == "wrong"
    assert table.rows[1]["cells"]["over as it is"] == "1.25x"
