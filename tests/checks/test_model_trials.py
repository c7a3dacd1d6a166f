"""What is tried on a model ends by itself: whatever is raised costs its own trial, and results are compared."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import fp8doctor
from fp8doctor.checks.model.trying import block_times, placing
from fp8doctor.checks.model.trying import trials as trying
from fp8doctor.observed import AS_IT_IS, Trial
from tests import fake_transformer_engine
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
    monkeypatch.setattr(placing, "STEPS", 3)


def x(rows: int = 16, **more: Any) -> Any:
    return torch.randn(rows, 64, generator=torch.Generator().manual_seed(1), **more)


def trials(model: Any, inputs: Any, **more: Any) -> dict[str, Any]:
    report = fp8doctor.examine_model(model, inputs, try_for_s=1e4, **more)
    found = report.facts["model"]
    return {trial["config"]: trial for trial in found["trials"] or ()}


class Full(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A block that finds no memory when it is called with other weights than its own."""

    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(64, 64)
        self.own = (id(self.up),)

    def forward(self, x: Any) -> Any:
        if id(self.up) not in self.own:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return x + self.up(x)


def test_a_trial_that_finds_no_memory_is_told_so_and_the_rest_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "INFERENCE", ("torch-bf16", "torch-bf16+compile"))
    model = torch.nn.Sequential(Full(), Full()).eval()
    before = everything(model)
    found = trials(model, x())
    assert found[AS_IT_IS]["outcome"] == "ok"
    assert found[AS_IT_IS]["step_ms"]
    assert [found[config]["outcome"] for config in ("torch-bf16", "torch-bf16+compile")] == ["out-of-memory"] * 2
    assert "2.00 GiB" in found["torch-bf16"]["detail"]
    assert everything(model) == before


def test_a_block_that_cannot_be_copied_fails_in_its_trial_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "INFERENCE", ("torch-bf16",))
    model = blocks(2).eval()
    model[0].lock = (one for one in "no copy of this")
    found = trials(model, x())
    assert found[AS_IT_IS]["outcome"] == "ok"
    assert found["torch-bf16"]["outcome"] == "failed"
    assert "generator" in found["torch-bf16"]["detail"]


def test_a_lora_that_trains_is_tried_in_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    monkeypatch.setattr(trying, "TRAINING", ("torch-bf16",))
    model = blocks(2).train()
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=["up"]), model)
    found = trials(model, x())
    assert found["torch-bf16"]["outcome"] == "refused"
    assert "trains beside it" in found["torch-bf16"]["detail"]


# --- What the trials compare, and with what ---


class Dropping(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A block that drops values at random when it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.dropout = torch.nn.Linear(64, 64), torch.nn.Dropout(0.1)

    def forward(self, x: Any) -> Any:
        return x + self.dropout(self.up(x))


def test_blocks_that_drop_values_are_compared_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "TRAINING", ("torch-bf16",))
    model = torch.nn.Sequential(Dropping(), Dropping()).train()
    found = trials(model, x())
    for one in found.values():
        assert one["relative_error"] < 0.005  # BF16's rounding, and no mask
        assert one["error_limit"] < 0.02
    assert all(part.training for part in model.modules())


def test_the_error_and_its_limit_are_those_of_one_block() -> None:
    # One kind of block is off by more than the other may be, and may be.
    judged = trying._judged(Trial("torch-bf16"), [0.2, 0.01], [0.3, 0.08])
    assert (judged.outcome, judged.relative_error, judged.error_limit) == ("ok", 0.2, 0.3)
    judged = trying._judged(Trial("torch-bf16"), [0.2, 0.09], [0.3, 0.08])
    assert (judged.outcome, judged.relative_error, judged.error_limit) == ("wrong", 0.09, 0.08)
    judged = trying._judged(Trial("torch-bf16"), [float("inf")], [0.08])
    assert (judged.outcome, judged.relative_error) == ("wrong", None)
    # What is right is so in its figures.
    judged = trying._judged(Trial("torch-bf16"), [0.076042], [0.0760424])
    assert judged.outcome == "ok"
    assert (judged.relative_error or 1) <= (judged.error_limit or 0)


class Narrow(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Two lists of blocks; FP8 takes none of the second's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = blocks(2)
        self.refiner = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(64, 64)) for _ in range(2)])

    def forward(self, x: Any) -> Any:
        x = self.layers(x)
        for one in self.refiner:
            x = x + one(x[:2]).sum()
        return x


def test_a_list_that_fp8_takes_nothing_of_stays_and_the_others_are_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchao.float8")
    monkeypatch.setattr(trying, "TRAINING", (TRAINED,))
    found = trials(Narrow().to(torch.bfloat16).train(), x(dtype=torch.bfloat16))[TRAINED]
    assert found["outcome"] == "ok"
    assert found["kept"] == {"refiner.*.0": "rows"}
    few = trials(blocks(2).to(torch.bfloat16).train(), x(2, dtype=torch.bfloat16))[TRAINED]
    assert (few["outcome"], few["detail"]) == ("refused", "no layer is left that FP8 would take and gain by")


def test_a_model_that_is_one_layer_is_not_said_to_run_in_fp8_where_nothing_was_put(monkeypatch: Any) -> None:
    pytest.importorskip("torchao.float8")
    monkeypatch.setattr(trying, "TRAINING", (TRAINED,))
    found = trials(torch.nn.Linear(64, 64).to(torch.bfloat16).train(), x(dtype=torch.bfloat16))[TRAINED]
    assert found["outcome"] == "refused"
    assert "left as they were" in found["detail"]


# --- Attention by hand ---


def test_a_model_that_attends_by_hand_is_tried_with_torchs_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "INFERENCE", ("torch-bf16",))
    called: list[int] = []
    original = torch.nn.functional.scaled_dot_product_attention

    def counting(*arguments: Any, **more: Any) -> Any:
        called.append(1)
        return original(*arguments, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    model = llama("eager")
    before, output = everything(model), model(tokens()).logits
    assert not called
    found = trials(model, tokens())
    assert list(found) == [AS_IT_IS, "torch-bf16+attention-sdpa"]  # plain BF16 it is already
    assert found["torch-bf16+attention-sdpa"]["outcome"] == "ok"
    assert len(called) > 2 * block_times.FEWEST  # its blocks were timed so, and not noted alone
    assert asked_for(model) == ["eager"] * 3
    assert everything(model) == before
    assert torch.equal(model(tokens()).logits, output)


def test_a_model_that_attends_by_torchs_attention_is_not_tried_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "INFERENCE", ("torch-bf16",))
    assert list(trials(llama("sdpa"), tokens())) == [AS_IT_IS]


def test_attention_inside_of_another_model_is_switched_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrapper(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = llama("eager")

        def forward(self, numbers: Any) -> Any:
            return self.inner(numbers).logits

    monkeypatch.setattr(trying, "INFERENCE", ("torch-bf16",))
    model = Wrapper().eval()
    found = trials(model, tokens())
    assert found["torch-bf16+attention-sdpa"]["outcome"] == "ok"
    assert asked_for(model.inner) == ["eager"] * 3


def test_a_switch_that_raises_costs_its_trial_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "INFERENCE", ("torch-bf16",))
    model = llama("eager")

    def refusing(implementation: str) -> None:
        if implementation == "sdpa":
            raise ValueError("LlamaForCausalLM does not support it")

    model.set_attn_implementation = refusing
    found = trials(model, tokens())
    assert found[AS_IT_IS]["outcome"] == "ok"
    assert found["torch-bf16+attention-sdpa"]["outcome"] == "failed"
    assert "does not support it" in found["torch-bf16+attention-sdpa"]["detail"]
    assert asked_for(model) == ["eager"] * 3


# --- Transformer Engine ---


def test_layers_of_transformer_engine_are_compared_in_fp8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "INFERENCE", ("te-fp8-current",))
    model = blocks(2).to(torch.bfloat16).eval()
    before = everything(model)
    with fake_transformer_engine.imported(tmp_path):
        manager = sys.modules["transformer_engine.pytorch.quantization"].FP8GlobalStateManager
        manager.is_fp8_enabled = staticmethod(lambda: False)
        found = trials(model, x(dtype=torch.bfloat16))["te-fp8-current"]
    assert found["outcome"] == "ok"
    assert 0.005 < found["relative_error"] <= found["error_limit"]
    # Each layer by itself, in FP8: some 28 dB, where BF16 has 50.
    assert {error["name"] for error in found["worst"]} == {"*.up", "*.down"}
    assert all(error["sqnr_db"] < 35 for error in found["worst"])
    assert everything(model) == before
