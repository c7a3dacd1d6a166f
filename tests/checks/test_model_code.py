"""The code of the advice does to a model what was tried on its blocks: pasted and run on small real models."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor import api
from fp8doctor.checks.model.code import code, list_of, within
from fp8doctor.checks.model.plan import best
from fp8doctor.observed import Blocks, Layer, Model, Trial
from fp8doctor.observing import looking
from tests import fake_transformer_engine
from tests.checks.test_model_plan import EAGER_ATTENTION, ENGINE, PLAIN, STORED, TENSOR, TORCHAO, model, ok
from tests.observing.models import blocks

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

TRAINED = "torchao-fp8train-tensorwise"


def seen(built: Any, **more: Any) -> Model:
    return replace(looking.look(built, api.knowledge().describers), **more)


def pasted(text: str, built: Any) -> Any:
    """The model after the code was run where a person would paste it."""
    names = {"model": built}
    exec(compile(text, "pasted", "exec"), names)  # noqa: S102
    return names["model"]


def converted(built: Any) -> set[str]:
    """The linear layers that the code converted to torchao's float8 training."""
    return {name for name, part in built.named_modules() if type(part).__name__ == "Float8Linear"}


def linears(built: Any) -> set[str]:
    return {name for name, part in built.named_modules() if isinstance(part, torch.nn.Linear)}


@contextmanager
def stub(name: str, **members: Any) -> Iterator[None]:
    """A package with these members, for a call that only a GPU answers."""
    with pytest.MonkeyPatch.context() as patch:
        module = types.ModuleType(name)
        vars(module).update(members)
        patch.setitem(sys.modules, name, module)
        if name.count("."):
            parent, _, last = name.rpartition(".")
            patch.setattr(sys.modules[parent], last, module, raising=False)
        yield


def test_names_within_blocks_and_lists() -> None:
    names = ("blocks.*.attn.to_q", "stages.0.blocks.*.up", "*.up", "head")
    assert [(list_of(name), within(name)) for name in names] == [
        ("blocks", "attn.to_q"), ("stages.0.blocks", "up"), ("", "up"), (None, "head"),
    ]  # fmt: skip


def test_of_a_small_flux_all_layers_of_the_blocks_are_converted_but_those_that_stay() -> None:
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("torchao.float8")
    built = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    built.to(torch.bfloat16)
    kept = {
        "transformer_blocks.*.norm1.linear": "rows",
        "transformer_blocks.*.norm1_context.linear": "rows",
        "transformer_blocks.*.ff_context.net.2": "inexact",
        "single_transformer_blocks.*.norm.linear": "rows",
    }
    text = code(seen(built), Trial(f"{TRAINED}+compile", kept=kept))
    assert "for block in [*model.transformer_blocks, *model.single_transformer_blocks]:" in text
    inside = {name for name in linears(built) if "transformer_blocks" in name}
    pasted(text, built)
    left = inside - converted(built)
    assert left == {
        name
        for name in inside
        if name.endswith(("norm1.linear", "norm1_context.linear", "ff_context.net.2", "norm.linear"))
    }
    assert converted(built) < inside
    lists = (built.transformer_blocks, built.single_transformer_blocks)
    assert all(block._compiled_call_impl is not None for one in lists for block in one)


class TwoLists(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Two lists of blocks whose layers have the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.ModuleList(blocks(2))
        self.stages = torch.nn.ModuleList([torch.nn.ModuleDict({"blocks": torch.nn.ModuleList(blocks(2))})])


def test_of_two_lists_each_keeps_its_own_layers_of_one_name() -> None:
    pytest.importorskip("torchao.float8")
    built = TwoLists().to(torch.bfloat16)
    kept = {"first.*.up": "slower", "stages.0.blocks.*.down": "inexact"}
    text = code(seen(built, autocast="off"), Trial(TRAINED, kept=kept))
    pasted(text, built)
    assert converted(built) == {"first.0.down", "first.1.down", "stages.0.blocks.0.up", "stages.0.blocks.1.up"}
    only_first = TwoLists().to(torch.bfloat16)
    pasted(code(seen(only_first), Trial(TRAINED, kept={"first.*.up": "slower"})), only_first)
    assert linears(only_first) - converted(only_first) == {"first.0.up", "first.1.up"}


def test_names_that_no_other_list_has_stand_in_one_set() -> None:
    lists = (Blocks("first", "A", 8, 1, 0), Blocks("second", "B", 8, 1, 0))
    layers = (replace(PLAIN, name="first.*.up"), replace(PLAIN, name="second.*.down"))
    found = model(layers, 20, ok("te-fp8-current", 10, kept={"first.*.up": "rows"}), blocks=lists)
    trial = best(found)
    assert trial is not None
    assert "for blocks, kept in" not in code(found, trial)
    clash = replace(found, layers=(*layers, replace(PLAIN, name="second.*.up")))
    assert "for blocks, kept in" in code(clash, trial)


@pytest.mark.parametrize("granularity", ["PerRow", "PerTensor"])
def test_for_inference_torchao_is_handed_each_block_its_filter_and_the_scaling(granularity: str) -> None:
    # torchao refuses FP8 without a GPU, and does what its filter says to each layer by itself.
    handed: list[str] = []

    def quantize_(block: Any, config: Any, filter_fn: Any) -> None:
        assert config == {"granularity": granularity, "set_inductor_config": False}
        handed.extend(f"{id(block)}.{name}" for name, part in block.named_modules() if filter_fn(part, name))

    members = {name: (lambda name=name: name) for name in ("PerRow", "PerTensor")}
    config = {"PerRow": "torchao-fp8-rowwise", "PerTensor": "torchao-fp8-tensorwise"}[granularity]
    built = blocks(2).to(torch.bfloat16)
    text = code(seen(built), Trial(f"{config}+compile", kept={"*.up": "slower"}))
    pytest.importorskip("torchao")
    with stub("torchao.quantization", quantize_=quantize_, Float8DynamicActivationFloat8WeightConfig=dict, **members):
        pasted(text, built)
    assert handed == [f"{id(block)}.down" for block in built]


def test_a_model_that_repeats_nothing_is_converted_as_one_block() -> None:
    pytest.importorskip("torchao.float8")
    built = blocks(1)[0].to(torch.bfloat16)
    pasted(code(seen(built), Trial(f"{TRAINED}+compile", kept={"up": "rows"})), built)
    assert converted(built) == {"down"}
    assert built._compiled_call_impl is not None


def test_a_model_in_fp32_runs_in_bf16_afterwards_and_keeps_its_weights_where_it_trains() -> None:
    for training, dtype in ((False, torch.bfloat16), (True, torch.float32)):
        built = blocks(2).train(training)
        text = code(seen(built, autocast="off"), Trial("torch-bf16"))
        run = text.replace("model(...)", "y = model[0].up(torch.ones(4, 64))").replace('"cuda"', '"cpu"')
        names: dict[str, Any] = {"model": built}
        exec(compile(run, "pasted", "exec"), names)  # noqa: S102
        assert {parameter.dtype for parameter in built.parameters()} == {dtype}
        assert ("y" in names and names["y"].dtype is torch.bfloat16) is training


def test_one_layer_in_fp32_among_many_casts_nothing() -> None:
    found = model((PLAIN, replace(PLAIN, name="head", count=1, dtype="float32", multiplies="32-bit")), 20)
    assert "model.to" not in code(found, Trial("torch-bf16+compile"))


@pytest.mark.parametrize("training", [False, True])
def test_transformer_engines_layers_have_the_same_weights_in_fp8_alone_where_nothing_trains(
    tmp_path: Path, training: bool
) -> None:
    built = blocks(2).to(torch.bfloat16).train(training)
    built[1].down.weight.requires_grad_(False)
    before = {name: parameter.clone() for name, parameter in built.named_parameters()}
    text = code(seen(built), Trial("te-fp8-current", kept={"*.up": "rows"}))
    assert ("# make the optimizer after this" in text) is training
    with fake_transformer_engine.imported(tmp_path) as (_, switches):
        pasted(text.replace("model(...)", "model(torch.ones(8, 64, dtype=torch.bfloat16))"), built)
        assert switches.counted["cast x"] == 2
    assert [type(block.down).__module__ for block in built] == ["transformer_engine.pytorch"] * 2
    assert [type(block.up) for block in built] == [torch.nn.Linear] * 2
    assert [block.down.training for block in built] == [training] * 2
    kept = [block.down.weight.dtype for block in built]
    if not training:
        assert kept == [torch.float8_e4m3fn] * 2
        assert torch.allclose(built[0].down.kept.bfloat16(), before["0.down.weight"], rtol=0.1, atol=0.01)
        return
    assert kept == [torch.bfloat16] * 2
    assert [block.down.weight.requires_grad for block in built] == [True, False]
    assert all(torch.equal(parameter, before[name]) for name, parameter in built.named_parameters())


@pytest.mark.parametrize("base", ["te-fp8-delayed", "te-nvfp4"])
def test_weights_do_not_lie_in_fp8_where_the_recipe_does_not_allow_it(base: str) -> None:
    assert "model_init" not in code(model((PLAIN,), 20), Trial(base))
    assert "# te.quantized_model_init is of 2.9; before: te.fp8_model_init" in code(
        model((PLAIN,), 20), Trial("te-fp8-block")
    )


FLOAT8_TRAINING = replace(PLAIN, library="torchao", multiplies="fp8", scaling="tensorwise")


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (TORCHAO, "# build the model without quantize_ (its weights in BF16)"),
        (replace(TORCHAO, scaling="block"), "# build the model without quantize_ (its weights in BF16)"),
        (FLOAT8_TRAINING, "# build the model without convert_to_float8_training"),
        (ENGINE, "# build the model with nn.Linear in place of te.Linear"),
    ],
)
def test_a_conversion_that_another_takes_the_place_of_is_left_out(layer: Layer, said: str) -> None:
    found = model((layer,), 20)
    loop = "for block in model.blocks:\n    block.compile()"
    assert code(found, Trial("torch-bf16+compile")) == f"{said}\n{loop}"
    assert code(found, Trial("torch-bf16")) == said
    assert code(found, Trial(f"{TENSOR}+compile")).startswith(f"{said}\nimport torch\n")
    assert "# build" not in code(model((PLAIN,), 20), Trial("torch-bf16+compile"))


def test_a_conversion_that_stays_is_only_compiled() -> None:
    found = model((FLOAT8_TRAINING, replace(FLOAT8_TRAINING, name="blocks.*.down", multiplies="16-bit")), 20)
    loop = "# the conversion that the model has stays\nfor block in model.blocks:\n    block.compile()"
    assert code(found, Trial(f"{TRAINED}+compile", kept={"blocks.*.down": "rows"})) == loop
    # Of other layers it is made anew, from the model without it.
    for kept in ({}, {"blocks.*.up": "slower", "blocks.*.down": "rows"}):
        anew = code(found, Trial(f"{TRAINED}+compile", kept=kept))
        assert anew.startswith("# build the model without convert_to_float8_training\nimport torch\n")
        assert "    convert_to_float8_training(block" in anew


@pytest.mark.parametrize("base", ["te-fp8-delayed", "te-fp8-block", "te-mxfp8", "te-nvfp4"])
def test_every_recipe_of_transformer_engine_has_code(base: str) -> None:
    compile(code(model((PLAIN,), 20), Trial(base, kept={"blocks.*.up": "rows"})), "pasted", "exec")


def adapted(built: Any) -> tuple[Any, Any]:
    """The model with a LoRA that does something, and what it gives."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["up"], init_lora_weights=False)
    found = peft.inject_adapter_in_model(config, built) if isinstance(built, torch.nn.Sequential) else built
    return found, found(torch.ones(4, 64))


def test_a_lora_is_merged_and_its_layers_are_plain_again() -> None:
    built, before = adapted(blocks(2).eval())
    found = seen(built)
    after = pasted(code(found, Trial("torch-bf16")).replace("model.to(torch.bfloat16)", ""), built)
    assert torch.allclose(after(torch.ones(4, 64)), before, atol=1e-5)
    assert {type(part) for part in after[0].children()} == {torch.nn.Linear}


def test_the_blocks_of_pefts_own_model_are_named_as_they_are_after_merging() -> None:
    peft = pytest.importorskip("peft")
    pytest.importorskip("torchao.float8")

    class Mine(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.config = {"model_type": "mine"}
            self.layers = torch.nn.ModuleList(blocks(2))

        def forward(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x)
            return x

    config = peft.LoraConfig(r=4, target_modules=["up"], init_lora_weights=False)
    wrapped = peft.get_peft_model(Mine(), config).eval()
    found = seen(wrapped)
    assert [one.name for one in found.blocks or ()] == ["base_model.model.layers"]
    text = code(found, Trial(TRAINED, kept={"base_model.model.layers.*.up": "rows"}))
    after = pasted(text.replace("model.to(torch.bfloat16)", ""), wrapped)
    assert converted(after) == {"layers.0.down", "layers.1.down"}


def test_a_lora_of_diffusers_is_merged_and_taken_off() -> None:
    diffusers, peft = pytest.importorskip("diffusers"), pytest.importorskip("peft")
    pytest.importorskip("torchao.float8")
    built = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    ).eval()  # fmt: skip
    weight = built.transformer_blocks[0].attn.to_q.weight.clone()
    built.add_adapter(peft.LoraConfig(r=4, target_modules=["to_q"], init_lora_weights=False))
    delta = built.transformer_blocks[0].attn.to_q.get_delta_weight("default")
    text = code(seen(built), Trial(TRAINED, kept={"transformer_blocks.*.attn.to_q": "rows"}))
    pasted(text.replace("model.to(torch.bfloat16)", ""), built)
    query = built.transformer_blocks[0].attn.to_q
    assert type(query) is torch.nn.Linear
    assert torch.allclose(query.weight, weight + delta, atol=1e-6)
    assert "transformer_blocks.0.attn.to_k" in converted(built)


def test_attention_by_hand_is_switched_by_the_librarys_own_call() -> None:
    found = model((PLAIN, EAGER_ATTENTION), 20, class_name="transformers.models.llama.LlamaForCausalLM")
    assert code(found, Trial("torch-bf16+attention-sdpa")) == 'model.set_attn_implementation("sdpa")'
    diffusers = replace(found, class_name="diffusers.models.X")
    assert code(diffusers, Trial("torch-bf16+attention-sdpa")) == 'model.set_attention_backend("native")'


def test_fp8_storage_is_undone_where_it_is_loaded() -> None:
    cast = replace(STORED, cast_by="diffusers-layerwise")
    assert "enable_layerwise_casting" in code(model((cast,), 20), Trial("torch-bf16"))
    assert "load the BF16 weights" in code(model((STORED,), 20), Trial("torch-bf16"))
