"""What a model is made of is told by looking alone: class, format, sizes, who converted it, what is compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from fp8doctor import api
from fp8doctor.observed import Layer, Model
from fp8doctor.observing.looking import alike, look
from tests.observing.models import blocks

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def looked(model: Any) -> Model:
    return look(model, api.knowledge().describers)


def linears(model: Any) -> list[Layer]:
    return [layer for layer in looked(model).layers or () if layer.kind == "linear"]


def test_layers_that_differ_in_their_number_alone_are_one_entry() -> None:
    (up, down) = linears(blocks(3))
    assert (up.name, up.count, up.examples) == ("*.up", 3, ("0.up", "1.up", "2.up"))
    assert (up.k, up.n, up.dtype, up.keeps, up.multiplies) == (64, 128, "float32", "32-bit", "32-bit")
    assert (down.k, down.n) == (128, 64)
    assert alike("blocks.3.attn2.to_q") == "blocks.*.attn2.to_q"


def test_plain_float8_weights_are_kept_in_fp8_and_multiplied_in_16_bits() -> None:
    model = blocks(2).to(torch.bfloat16)
    for block in model:
        block.up.weight.data = block.up.weight.data.to(torch.float8_e4m3fn)
    up, down = linears(model)
    assert (up.keeps, up.multiplies, up.library) == ("fp8", "16-bit", None)
    assert (down.keeps, down.multiplies) == ("16-bit", "16-bit")


def _layerwise(model: Any) -> None:
    hooks = pytest.importorskip("diffusers.hooks")
    hooks.apply_layerwise_casting(model, torch.float8_e4m3fn, torch.bfloat16, skip_modules_pattern=())


def _weight_only(model: Any) -> None:
    q = pytest.importorskip("torchao.quantization")
    q.quantize_(model, q.Float8WeightOnlyConfig())


def _int8(model: Any) -> None:
    q = pytest.importorskip("torchao.quantization")
    q.quantize_(model, q.Int8DynamicActivationInt8WeightConfig())


def _training(model: Any) -> None:
    pytest.importorskip("torchao.float8").convert_to_float8_training(model)


@pytest.mark.parametrize(
    ("convert", "library", "keeps", "multiplies", "scaling", "cast_by"),
    [
        (_layerwise, None, "fp8", "16-bit", None, "diffusers-layerwise"),
        (_weight_only, "torchao", "fp8", "16-bit", "rowwise", None),
        (_int8, "torchao", "int8", "int8", "rowwise", None),
        (_training, "torchao", "16-bit", "fp8", "tensorwise", None),
    ],
)
def test_who_converted_a_layer_and_to_what_is_told(
    convert: Callable[[Any], None], library: str, keeps: str, multiplies: str, scaling: str, cast_by: str
) -> None:
    model = blocks(2).to(torch.bfloat16)
    convert(model)
    for layer in linears(model):
        assert (layer.library, layer.keeps, layer.multiplies) == (library, keeps, multiplies)
        assert (layer.scaling, layer.cast_by) == (scaling, cast_by)


def test_an_adapter_is_part_of_its_layer_until_it_is_merged() -> None:
    peft = pytest.importorskip("peft")
    model = blocks(2)
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=["up"]), model)
    up, down = linears(model)
    assert (up.adapter_rank, up.k, up.n, up.multiplies, up.count) == (4, 64, 128, "32-bit", 2)
    assert down.adapter_rank is None
    for block in model:
        block.up.merge()
    assert all(layer.adapter_rank is None for layer in linears(model))


def test_offloaded_weights_are_told_with_who_brings_them() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = blocks(2)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert {layer.offloaded_by for layer in linears(model)} == {"accelerate"}


def test_what_is_compiled_is_told_for_the_whole_and_for_parts() -> None:
    model = blocks(3)
    assert looked(model).compiled == "none"
    model[0].compile()
    found = looked(model)
    assert found.compiled == "parts"
    assert [b.compiled for b in found.blocks or ()] == [1]
    assert {(layer.compiled, layer.count) for layer in linears(model)} == {(True, 1), (False, 2)}
    whole = looked(torch.compile(blocks(2)))
    assert whole.compiled == "whole"
    assert all(layer.compiled for layer in whole.layers or ())
    assert (whole.layers or ())[0].name == "*.up"


def test_what_a_model_repeats_is_its_outermost_list_of_alike_blocks() -> None:
    found = looked(blocks(3))
    assert [(b.count, b.parameters) for b in found.blocks or ()] == [(3, found.parameters)]


def test_a_weight_that_begins_between_addresses_is_told() -> None:
    model = blocks(1).to(torch.bfloat16)
    room = torch.zeros(64 * 128 + 3, dtype=torch.bfloat16)
    model[0].up.weight.data = room[3:].view(128, 64)
    assert [layer.misaligned for layer in linears(model)] == [True, False]


def test_a_model_partly_on_meta_is_looked_at_all_the_same() -> None:
    model = blocks(2)
    model[1].to("meta")
    found = looked(model)
    assert found.parameters_by_device == {"cpu": 64 * 128 * 2, "meta": 64 * 128 * 2}


def test_a_thousand_layers_are_looked_at_in_a_second() -> None:
    model = blocks(500)
    began = time.perf_counter()
    assert sum(layer.count or 0 for layer in linears(model)) == 1000
    assert time.perf_counter() - began < 1.0


def test_a_library_that_keeps_its_things_elsewhere_costs_nothing() -> None:
    def broken(module: Any) -> None:
        raise AttributeError("block_size")

    found = look(blocks(1), [broken])
    assert len(found.layers or ()) == 2
