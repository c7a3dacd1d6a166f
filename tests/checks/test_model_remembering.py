"""A block that changes what it is called with finds it as it was at each call."""

from __future__ import annotations

from typing import Any

import pytest

from fp8doctor.checks.model.trying.block_times import caller
from fp8doctor.checks.model.trying.blocks import kinds_of_blocks
from fp8doctor.checks.model.trying.comparing import output_of

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def x() -> Any:
    return torch.randn(4, 64, generator=torch.Generator().manual_seed(1))


class Growing:
    """A cache that each block writes to, as language models hand it from block to block."""

    def __init__(self) -> None:
        self.layers: list[Any] = []
        self.length = torch.zeros(1, dtype=torch.int64)
        self.kept: dict[str, Any] = {}


class Caching(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(64, 64)

    def forward(self, x: Any, cache: Growing) -> Any:
        y = self.up(x) + len(cache.layers) + cache.length + cache.kept.get("last", 0)
        cache.layers.append(y)
        cache.length.add_(1)
        cache.kept["last"] = 1
        return y


def test_each_call_of_a_block_finds_the_cache_as_it_was() -> None:
    model, caches = torch.nn.ModuleList([Caching(), Caching()]).eval(), []

    def step() -> None:
        caches.append(Growing())
        with torch.no_grad():
            y = x()
            for layer in model:
                y = layer(y, caches[-1])

    holder = torch.nn.ModuleDict({"layers": model})
    (block,) = kinds_of_blocks(holder, step)
    assert len(caches[-1].layers) == 2  # the model's own grows as it does
    assert all(torch.equal(output_of(block, model[0]), block.output) for _ in range(3))
    assert len(caches[-1].layers) == 2
    # So does one that is called with another type.
    cast = block.cast(torch.float32, torch.float64)
    first = output_of(cast, model.double()[0])
    assert first.dtype == torch.float64
    assert torch.equal(output_of(cast, model[0]), first)
    model.float()
    assert torch.equal(output_of(block, model[0]), block.output)


@pytest.mark.parametrize("trains", [False, True])
def test_each_call_of_a_block_that_overwrites_its_input_finds_it_as_it_was(trains: bool) -> None:
    class Adding(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.up = torch.nn.Linear(64, 64)

        def forward(self, x: Any) -> Any:
            return x.mul_(2) + self.up.weight.sum()

    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Sequential(Adding(), Adding())).train(trains)

    def step() -> None:
        with torch.set_grad_enabled(trains):
            y = model(x())
        if trains:
            y.sum().backward()

    (block,) = kinds_of_blocks(model, step)
    assert block.name == "1"
    assert all(torch.equal(output_of(block, block.module), block.output) for _ in range(3))
    if trains:
        caller(block, block.module)()
        with torch.enable_grad():
            assert block.call(block.module).requires_grad


def test_what_cannot_be_copied_is_called_with_as_it_is() -> None:
    class Locked:
        def __init__(self) -> None:
            self.lock, self.count = (one for one in "no copy"), 0

    class Counting(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.up = torch.nn.Linear(64, 64)

        def forward(self, x: Any, locked: Locked) -> Any:
            locked.count += 1
            return self.up(x) * locked.count

    layers, locked = torch.nn.ModuleList([Counting(), Counting()]).eval(), Locked()
    holder = torch.nn.ModuleDict({"layers": layers})
    (block,) = kinds_of_blocks(holder, lambda: layers[0](x(), locked))
    first = output_of(block, layers[0])
    assert torch.equal(output_of(block, layers[0]), first)


def test_a_language_model_with_its_cache_is_tried_on_its_blocks() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=128,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    tokens = torch.arange(32).reshape(1, 32)
    (block,) = kinds_of_blocks(model, lambda: model(tokens, use_cache=True))
    assert block.keywords["past_key_values"] is not None
    for one in (model.model.layers[0], model.model.layers[2], model.model.layers[0]):
        assert output_of(block, one).shape == (1, 32, 64)
    assert torch.allclose(output_of(block, model.model.layers[0]), block.output)
    # Of a step that adds a token to a cache that is kept, nothing is added to that.
    kept = model(tokens, use_cache=True).past_key_values
    (block,) = kinds_of_blocks(model, lambda: model(tokens[:, :1], past_key_values=kept))
    assert kept.get_seq_length() == 33
    assert all(torch.allclose(output_of(block, model.model.layers[0]), block.output) for _ in range(3))
    assert kept.get_seq_length() == 33
