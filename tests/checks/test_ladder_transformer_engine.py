"""Rungs with te.Linear on a small Transformer Engine: where their weights lie, and where their scales come from."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.ladder.calibration import CALIBRATING_CALLS, calibrate, learning
from fp8doctor.checks.ladder.climbing import convert
from fp8doctor.checks.ladder.conversions import around
from fp8doctor.checks.ladder.slugs import config_of
from fp8doctor.checks.workload.build import build, step_call, weight_bytes
from fp8doctor.checks.workload.catalogue import ModelPlan
from tests import fake_transformer_engine as fake
from tests.tiny_plans import TINY_LM, TINY_TRAIN

pytestmark = pytest.mark.torch


@pytest.fixture
def switches(tmp_path: Path) -> Iterator[Any]:
    """What the small Transformer Engine counts, while it can be imported."""
    pytest.importorskip("torch")
    with fake.imported(tmp_path) as (_, found):
        yield found


def converted(slug: str, plan: ModelPlan = TINY_LM) -> tuple[Any, list[Any], int]:
    """A model put into a configuration, its te.Linear, and the bytes that its linear layers' weights had."""
    import torch

    built = build(plan, "cpu", torch.bfloat16, blocks=2)
    lists = tuple(f"{blocks}." for blocks in built.depth)
    blocks = {n: m for n, m in built.model.named_modules() if isinstance(m, torch.nn.Linear) and n.startswith(lists)}
    assert blocks
    size = sum(layer.weight.numel() * 2 for layer in blocks.values())
    convert(built, config_of(slug), tuple(blocks))
    return built, [built.model.get_submodule(name) for name in blocks], size


@pytest.mark.parametrize("slug", ["te-fp8-current", "te-fp8-block"])
def test_inference_keeps_its_weights_in_fp8_and_casts_them_no_more(slug: str, switches: Any) -> None:
    import torch

    plain, _, size = converted("torch-bf16")
    built, layers, _ = converted(slug)
    assert weight_bytes(built.model) == weight_bytes(plain.model) - size // 2
    switches.counted.clear()
    with torch.no_grad(), around(slug, (), built):
        output = step_call(built, TINY_LM.steps[0])()
    assert (switches.counted["cast weight"], switches.counted["cast x"]) == (0, len(layers))
    right = step_call(plain, TINY_LM.steps[0])()
    assert (output - right).norm() / right.norm() < 0.1


@pytest.mark.parametrize(
    ("slug", "plan"),
    [
        ("te-bf16", TINY_LM),
        ("te-fp8-delayed", TINY_LM),
        ("te-nvfp4", TINY_LM),
        ("te-fp8-current", TINY_TRAIN),
        ("te-fp8-block", TINY_TRAIN),
    ],
)
def test_bf16_what_trains_and_recipes_that_cannot_keep_their_weights_as_they_were(
    slug: str, plan: ModelPlan, switches: Any
) -> None:
    import torch

    plain, before, _ = converted("torch-bf16", plan)
    built, layers, _ = converted(slug, plan)
    assert weight_bytes(built.model) == weight_bytes(plain.model)
    assert all(torch.equal(old.weight, new.weight) for old, new in zip(before, layers, strict=True))
    assert {layer.weight.requires_grad for layer in layers} == {plan is TINY_TRAIN}
    assert {layer.training for layer in layers} == {plan is TINY_TRAIN}
    assert switches.counted["cast weight"] == 0


def test_the_weight_that_was_replaced_is_free_though_the_layer_keeps_its_init_method(switches: Any) -> None:
    """transformer_engine's register_parameter keeps it (param_init_meta in module/base.py, 2.20.2)."""
    import torch

    built = build(TINY_LM, "cpu", torch.bfloat16, blocks=2)
    name, old = next((n, m) for n, m in built.model.named_modules() if isinstance(m, torch.nn.Linear))
    weight = weakref.ref(old.weight)
    convert(built, config_of("te-fp8-current"), (name,))
    assert built.model.get_submodule(name).init_method is not None
    del old
    gc.collect()
    assert weight() is None


def test_scales_of_earlier_calls_are_learnt_without_keeping_anything_for_a_backward(switches: Any) -> None:
    import torch

    built, layers, _ = converted("te-fp8-delayed")
    step, grads = step_call(built, TINY_LM.steps[0]), []
    switches.at_call = lambda layer, recipe: grads.append(torch.is_grad_enabled())

    def call() -> Any:
        with around("te-fp8-delayed", (), built):
            return step()

    with torch.no_grad():
        call()
        assert not any(layer.scales for layer in layers), "without gradients none is taken"
        calibrate(call)
    assert all(layer.scales["x"] != 1.0 for layer in layers)
    assert grads == [False] * len(layers) + [True] * CALIBRATING_CALLS * len(layers)


def test_nothing_is_saved_while_scales_are_learnt() -> None:
    import torch

    x = torch.randn(4, 4, requires_grad=True)
    with torch.no_grad(), learning():
        y = (x * x).sum()
    assert y.grad_fn is not None
    with pytest.raises(TypeError, match="NoneType"):
        _ = y.grad_fn.next_functions[0][0]._saved_self
