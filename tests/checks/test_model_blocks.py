"""A model's blocks are noted as a step calls them, copied in 16 bits, and others stand in their place for a moment."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from fp8doctor.checks.model.trying.blocks import Block, kinds_of_blocks
from fp8doctor.checks.model.trying.comparing import output_of
from fp8doctor.checks.model.trying.converting import in_16_bits
from fp8doctor.checks.model.trying.placing import in_their_place, outside
from fp8doctor.measuring.stepping import Meter
from tests.observing.models import blocks

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


def x(rows: int = 4, **more: Any) -> Any:
    return torch.randn(rows, 64, generator=torch.Generator().manual_seed(1), **more)


def noted(model: Any, *inputs: Any) -> list[Block]:
    return kinds_of_blocks(model, lambda: model(*(inputs or (x(),))))


def copy_of(module: Any, block: Block | None = None) -> Any:
    return in_16_bits(block or Block("blocks", module, [module], (), {}), module, torch.bfloat16, CPU)


def state(model: Any) -> list[Any]:
    """All that a model is made of, by identity, and what hangs on it."""
    return [
        (name, module, dict(module._parameters), dict(module._buffers), vars(module).get("_compiled_call_impl"),
         list(module._modules.items()), list(module._forward_hooks), list(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]  # fmt: skip


# --- Noting ---


def test_a_block_of_each_kind_is_noted_with_what_it_is_called_with_and_returns() -> None:
    model = blocks(5).eval()
    for wider in model[3:]:
        wider.up, wider.down = torch.nn.Linear(64, 256, bias=False), torch.nn.Linear(256, 64, bias=False)
    before = state(model)
    first, other = noted(model)
    assert (first.key, first.count, other.key, other.count) == ("", 3, "#1", 2)
    assert first.module is model[0]
    assert torch.equal(first.arguments[0], x())
    assert torch.equal(first.output, model[0](x()))
    assert state(model) == before


def test_a_model_that_repeats_nothing_is_one_block() -> None:
    model = torch.nn.Linear(64, 64)
    (block,) = noted(model)
    assert (block.name, block.count, block.layer_name("")) == ("", 1, "")
    assert block.module is model
    (block,) = noted(blocks(1)[0])
    assert block.layer_name("up") == "up"


def test_layers_are_named_as_the_model_names_them() -> None:
    (block,) = noted(blocks(2))
    assert block.layer_name("up") == "*.up"
    nested = torch.nn.Module()
    nested.stages = torch.nn.ModuleList([torch.nn.ModuleDict({"blocks": blocks(2)})])
    (block,) = kinds_of_blocks(nested, lambda: nested.stages[0]["blocks"](x()))
    assert block.layer_name("up") == "stages.0.blocks.*.up"


def test_an_autocast_is_entered_again_round_each_call() -> None:
    model = blocks(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (block,) = noted(model)
    assert block.call(model[0]).dtype == torch.float32  # the sum is; its products are not
    assert block.call(model[0].up).dtype == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")
    # It casts by itself: nothing else does.
    assert block.cast(torch.float32, torch.bfloat16) is block


def test_what_asks_for_a_gradient_does_so_again() -> None:
    model = blocks(2).train()
    (block,) = noted(model, x(requires_grad=True))
    assert block.arguments[0].requires_grad
    assert block.arguments[0].is_leaf
    (block,) = noted(model, x())
    assert not block.arguments[0].requires_grad


class Taking(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A block with other arguments than a tensor: a mask, numbers, a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(64, 64)

    def forward(self, x: Any, *, mask: Any, pair: Any, scale: float) -> Any:
        return torch.where(mask, self.up(x) * scale, x) + pair[0]


def test_a_block_in_fp32_is_called_with_bf16_where_its_copies_are() -> None:
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList([Taking(), Taking()])
    mask, pair = torch.ones(4, 1, dtype=torch.bool), (torch.ones(64), torch.ones(1, dtype=torch.int64))
    (block,) = kinds_of_blocks(model, lambda: model.layers[0](x(), mask=mask, pair=pair, scale=2.0))
    cast = block.cast(torch.float32, torch.bfloat16)
    assert cast.arguments[0].dtype == cast.keywords["pair"][0].dtype == torch.bfloat16
    assert cast.keywords["mask"].dtype == torch.bool
    assert cast.keywords["pair"][1].dtype == torch.int64
    assert cast.keywords["scale"] == 2.0
    assert block.arguments[0].dtype == torch.float32
    assert output_of(cast, copy_of(model.layers[0])).dtype == torch.bfloat16


def test_inputs_are_kept_as_they_were_when_the_block_was_called() -> None:
    class InPlace(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.up = torch.nn.Linear(64, 64)

        def forward(self, x: Any) -> Any:
            return x.add_(1)

    model = torch.nn.Sequential(InPlace(), InPlace()).eval()
    (block,) = noted(model, torch.zeros(2, 64))
    assert torch.equal(block.arguments[0], torch.zeros(2, 64))
    assert torch.equal(block.output, torch.ones(2, 64))


def test_hooks_are_gone_after_a_step_that_raises() -> None:
    model = blocks(2)
    before = state(model)
    with pytest.raises(RuntimeError):
        noted(model, torch.randn(4, 63))
    assert state(model) == before


def test_a_step_may_call_its_blocks_more_than_once() -> None:
    model = blocks(2)
    (block,) = kinds_of_blocks(model, lambda: (model(x()), model(x()), model(x())))
    assert (block.count, block.calls) == (2, 3)
    model.train()

    def checkpointed() -> None:
        y = x(requires_grad=True)
        for one in model:
            y = torch.utils.checkpoint.checkpoint(one, y, use_reentrant=False)
        y.sum().backward()

    (block,) = kinds_of_blocks(model, checkpointed)
    # What a backward calls again is a part of it.
    assert (block.calls, block.again_in_backward) == (1, True)


# --- Others in their place ---


def double(block: Any) -> Any:
    """A module that gives twice what a block gives."""

    class Double(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, *arguments: Any) -> Any:
            return 2 * block(*arguments)

    return Double()


class Chain(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Blocks that are called in a loop, one of which stands there twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(blocks(2))
        self.last = self.layers[1]

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


def test_other_blocks_are_called_in_their_place_and_the_model_is_as_it_was() -> None:
    model = Chain().eval()
    expected, before = model(x()), state(model)
    first, second = (double(layer) for layer in model.layers)
    plain = list(model.layers)
    with in_their_place(model, dict(zip(plain, (first, second), strict=True))):
        assert torch.equal(model(x()), 2 * plain[1](2 * plain[1](2 * plain[0](x()))))
    assert state(model) == before
    assert torch.equal(model(x()), expected)


def test_a_block_that_torch_compile_wrapped_is_replaced_with_its_wrapper() -> None:
    model = Chain().eval()
    plain = list(model.layers)
    model.layers = torch.nn.ModuleList([torch.compile(layer, backend="eager") for layer in plain])
    expected, before = model(x()), state(model)
    (block,) = kinds_of_blocks(model, lambda: model(x()))
    assert block.alike == plain
    with in_their_place(model, {layer: double(layer) for layer in plain}):
        assert [type(layer).__name__ for layer in model.layers] == ["Double", "Double"]
        assert not torch.equal(model(x()), expected)
    assert state(model) == before
    assert torch.equal(model(x()), expected)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_whole_model_hands_its_calls_to_another(compiled: bool) -> None:
    for model in (torch.nn.Linear(64, 64), blocks(1)[0]):
        if compiled:
            model.compile(backend="eager")
        expected, before = model(x()), state(model)
        plain = model.forward
        with in_their_place(model, {model: double(plain)}):
            assert torch.equal(model(x()), 2 * expected)
            assert [name for name, _ in model.named_modules()] == [name for name, *_ in before]
        assert state(model) == before
        assert torch.equal(model(x()), expected)


def test_everything_is_back_after_an_exception_in_the_step() -> None:
    model = Chain().eval()
    before = state(model)

    def failing() -> Any:
        raise ZeroDivisionError

    for replaced in (model.layers[0], model):
        with contextlib.suppress(ZeroDivisionError), in_their_place(model, {replaced: double(failing)}):
            failing()
        assert state(model) == before


# --- What a step takes outside of its blocks ---


class Headed(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Blocks between two layers; what calls a block is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layers, self.head = torch.nn.Linear(64, 64), blocks(3), torch.nn.Linear(64, 8)

    def forward(self, x: Any) -> Any:
        return self.head(self.layers(self.embed(x)))


def timed_outside(model: Any, step: Any) -> Any:
    return outside(Meter(torch, CPU), model, kinds_of_blocks(model, step), step)


def test_a_step_without_its_blocks_calls_none_of_them_and_gives_what_it_gave() -> None:
    model = Headed().eval()
    calls, outputs = [], []

    def step() -> None:
        with torch.no_grad():
            outputs.append(model(x()))

    handles = [layer.up.register_forward_hook(lambda *_: calls.append(1)) for layer in model.layers]
    found_blocks = kinds_of_blocks(model, step)
    called, before = len(calls), state(model)
    found = outside(Meter(torch, CPU), model, found_blocks, step)
    assert len(calls) == called
    # Each block gives what the first of its kind gave in an earlier call.
    assert torch.equal(outputs[-1], model.head(found_blocks[0].output))
    assert 0 < found.device_ms.low <= found.device_ms.high
    assert found.host_ms > 0
    assert state(model) == before
    for handle in handles:
        handle.remove()


class Waiting(torch.optim.SGD):  # type: ignore[misc, name-defined]
    """An optimizer that takes two hundredths of a second."""

    def step(self, closure: Any = None) -> None:
        time.sleep(0.02)
        super().step(closure)


@pytest.mark.parametrize("make", [Headed, lambda: blocks(3)])  # with a layer before the blocks, and with none
def test_in_training_optimizers_rest_while_blocks_are_silent_and_their_time_is_added(make: Any) -> None:
    model = make().train()
    own = list(model.parameters())
    optimizer = Waiting(own, lr=0.1)
    kept: list[tuple[bool, list[Any]]] = []

    def step() -> None:
        model(x()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        silent = any(type(part).__name__ == "Silent" for part in model.modules())
        kept.append((silent, [parameter.detach().clone() for parameter in own]))

    found = timed_outside(model, step)
    assert found.host_ms > 20
    assert found.device_ms.low > 20
    silent = [parameters for was_silent, parameters in kept if was_silent]
    assert len(silent) > 20
    assert all(torch.equal(one, first) for each in silent for one, first in zip(each, silent[0], strict=True))
    assert vars(optimizer).get("step") is None
    assert [id(parameter) for parameter in model.parameters()] == [id(parameter) for parameter in own]


def test_a_step_finds_the_parameters_of_its_model_without_its_blocks() -> None:
    model = Headed().train()
    names = [name for name, _ in model.named_parameters()]
    seen: list[list[str]] = []

    def step() -> None:
        model(x()).mean().backward()
        seen.append([name for name, _ in model.named_parameters()])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for parameter in model.parameters():
            parameter.grad = None

    timed_outside(model, step)
    assert all(one == names for one in seen)


def test_parameters_that_do_not_train_have_no_gradient() -> None:
    model = Headed().train()
    model.layers.requires_grad_(False)
    seen: list[bool] = []

    def step() -> None:
        model(x()).mean().backward()
        seen.append(any(parameter.grad is not None for parameter in model.layers.parameters()))
        model.zero_grad(set_to_none=True)

    timed_outside(model, step)
    assert not any(seen)


def test_the_first_layer_of_a_training_model_gets_a_gradient_through_the_blocks() -> None:
    model = Headed().train()
    gradients: list[float] = []

    def step() -> None:
        model(x()).square().mean().backward()
        gradients.append(model.embed.weight.grad.abs().sum().item())
        model.zero_grad(set_to_none=True)

    timed_outside(model, step)
    assert all(gradients)
