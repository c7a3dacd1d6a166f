"""A copy of a block has plain 16-bit layers that multiply by what the block multiplies by, or there is none."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.ladder.conversions import RefusedError
from fp8doctor.checks.model.trying.blocks import Block, kinds_of_blocks
from fp8doctor.checks.model.trying.converting import in_16_bits
from tests.broken_packages import BrokenSite
from tests.observing.models import blocks

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def x(rows: int = 4, **more: Any) -> Any:
    return torch.randn(rows, 64, **more)


def copy_of(module: Any, block: Block | None = None) -> Any:
    one = block or Block("blocks", module, [module], (), {})
    return in_16_bits(one, module, torch.bfloat16, torch.device("cpu"))


def state(model: Any) -> list[Any]:
    """All that a model is made of, by identity, and what hangs on it."""
    return [
        (name, module, dict(module._parameters), list(module._modules.items()), list(module._forward_hooks))
        for name, module in model.named_modules()
    ]


def test_a_copy_is_plain_and_the_original_is_untouched() -> None:
    model = blocks(1)[0]
    before = state(model)
    copied = copy_of(model)
    assert {parameter.dtype for parameter in copied.parameters()} == {torch.bfloat16}
    assert torch.equal(copied.up.weight, model.up.weight.to(torch.bfloat16))
    assert state(model) == before


def test_a_lora_is_merged_into_the_copy() -> None:
    peft = pytest.importorskip("peft")
    model = blocks(1).eval()
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=["up"], init_lora_weights=False), model)
    before = state(model)
    copied = copy_of(model[0])
    layer = model[0].up
    merged = layer.weight + layer.get_delta_weight("default")
    assert torch.allclose(copied.up.weight.float(), merged, atol=0.02)
    assert not torch.allclose(layer.weight, merged, atol=0.02)
    assert state(model) == before
    layer.merge()
    assert torch.allclose(copy_of(model[0]).up.weight, layer.weight.to(torch.bfloat16))


def test_a_lora_that_trains_is_not_merged() -> None:
    peft = pytest.importorskip("peft")
    model = blocks(1).train()
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=["up"]), model)
    with pytest.raises(RefusedError, match="its LoRA trains beside it"):
        copy_of(model[0])


def test_quantised_weights_are_what_they_multiply_by() -> None:
    q = pytest.importorskip("torchao.quantization")
    model = blocks(1).to(torch.bfloat16).eval()
    plain = model[0].up.weight.clone()
    q.quantize_(model, q.Float8WeightOnlyConfig())
    kind = type(model[0].up.weight)
    copied = copy_of(model[0])
    assert type(copied.up.weight) is torch.nn.Parameter
    error = (copied.up.weight - plain).norm() / plain.norm()
    assert 0.01 < error < 0.04  # e4m3 has been there
    assert type(model[0].up.weight) is kind


def test_weights_that_lie_in_fp8_without_scales_are_cast() -> None:
    model = blocks(1)[0].to(torch.bfloat16)
    stored = model.up.weight.data.to(torch.float8_e4m3fn)
    model.up.weight.data = stored
    assert torch.equal(copy_of(model).up.weight, stored.to(torch.bfloat16))


@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv", "scale_weight"])
def test_weights_with_scales_beside_them_are_refused(name: str) -> None:
    model = blocks(1)[0]
    model.up.weight.data = model.up.weight.data.to(torch.float8_e4m3fn)
    model.up.register_buffer(name, torch.ones(1))
    with pytest.raises(RefusedError, match=r"torch's Linear keeps its weights in a form that cannot be turned back"):
        copy_of(model)


def test_layers_that_do_more_than_multiply_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = BrokenSite(tmp_path)
    site.module(
        "transformer_engine.pytorch",
        "import torch\n"
        "class LayerNormLinear(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.in_features, self.out_features = 64, 128\n"
        "        self.weight = torch.nn.Parameter(torch.randn(128, 64))\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("transformer_engine", "transformer_engine.pytorch"):
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]  # afterwards it is as it was
    model = blocks(1)[0]
    model.up = importlib.import_module("transformer_engine.pytorch").LayerNormLinear()
    with pytest.raises(RefusedError, match="transformer_engine's LayerNormLinear has no plain counterpart"):
        copy_of(model)


class Scaled(torch.nn.Linear):  # type: ignore[misc, name-defined]
    """Multiplies by a weight that it makes of its own one."""

    def forward(self, x: Any) -> Any:
        return torch.nn.functional.linear(x, self.weight * 3, self.bias)


class Casting(torch.nn.Linear):  # type: ignore[misc, name-defined]
    """Multiplies by its weight in the type of its input, as many trainers have it."""

    def forward(self, x: Any) -> Any:
        return torch.nn.functional.linear(x, self.weight.to(x.dtype))


def test_a_linear_layer_of_ones_own_is_copied_if_it_gives_what_a_plain_one_gives() -> None:
    model = blocks(1)[0]
    model.up = Casting(64, 128, bias=False)
    assert type(copy_of(model).up) is torch.nn.Linear
    model.up = Scaled(64, 128, bias=False)
    with pytest.raises(RefusedError, match="Scaled has no plain counterpart"):
        copy_of(model)


def test_weights_that_are_elsewhere_are_refused() -> None:
    with pytest.raises(RefusedError, match="offloaded"):
        copy_of(blocks(1)[0].to("meta"))


class Noting(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A model whose hooks are its own methods, and which counts what they hear."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = blocks(2)
        self.heard = 0
        self.copies = 0
        for layer in self.layers:
            layer.register_forward_hook(self.hear)
            layer.register_forward_pre_hook(self.hear)
            layer.register_full_backward_hook(self.hear)
            layer.up.register_full_backward_pre_hook(self.hear)

    def hear(self, *arguments: Any) -> None:
        self.heard += 1

    def __deepcopy__(self, memo: Any) -> Any:
        self.copies += 1
        return Noting()


def test_hooks_do_not_come_along_nor_what_they_are_bound_to() -> None:
    model = Noting().train()
    (block,) = kinds_of_blocks(model, lambda: model.layers(x(requires_grad=True)).sum().backward())
    heard, before = model.heard, state(model)
    copied = copy_of(block.module, block)
    copied(x(dtype=torch.bfloat16, requires_grad=True)).sum().backward()
    assert (model.heard, model.copies) == (heard, 0)
    assert state(model) == before


def test_what_other_libraries_hang_on_a_module_does_not_come_along() -> None:
    model = blocks(1)[0]
    model.forward = lambda x: 1 / 0
    model.up._hf_hook = object()
    copied = copy_of(model)
    assert copied(x(dtype=torch.bfloat16)).shape == (4, 64)
    assert not hasattr(copied.up, "_hf_hook")
    with pytest.raises(ZeroDivisionError):
        model(x())
    model.forward = model.__class__.forward.__get__(model)
    model.compile(backend="eager")
    assert copy_of(model)._compiled_call_impl is None


def test_the_copy_of_a_model_that_is_one_linear_layer_is_one() -> None:
    model = torch.nn.Linear(64, 32)
    copied = copy_of(model)
    assert type(copied) is torch.nn.Linear
    assert copied.weight.dtype == torch.bfloat16
    assert torch.equal(copied.bias, model.bias.to(torch.bfloat16))
