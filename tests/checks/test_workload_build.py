"""A few blocks stand for a model's depth: the step does all its work, and what is not there is counted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.workload.build import (
    CannotBuildError,
    blocks_in_fp32,
    build,
    diffusion_arguments,
    shortened,
    step_call,
    to_dtype,
    weight_bytes,
    with_steps,
)
from fp8doctor.checks.workload.catalogue import FLUX, LLAMA_8B, ModelPlan
from fp8doctor.checks.workload.config_file import read_plan
from fp8doctor.checks.workload.inputs import DIFFUSERS
from tests.tiny_plans import (
    DECODE,
    LLAMA_JSON,
    LM_SIZES,
    PIXART_JSON,
    PREFILL,
    SD3_JSON,
    TINY_FLUX,
    TINY_LM,
    TINY_QWEN,
    TINY_TRAIN,
    WAN_JSON,
    small_step,
    written,
)

# --- the configuration, without a torch ------------------------------------------------------------------------------


def test_a_shortened_configuration_has_few_blocks_and_is_a_copy() -> None:
    assert shortened(LLAMA_8B, 2) == {**LLAMA_8B.config, "layers": 2}
    assert shortened(LLAMA_8B, None) == LLAMA_8B.config
    assert LLAMA_8B.config["layers"] == 32
    short = shortened(FLUX, 20)
    assert (short["num_layers"], short["num_single_layers"]) == (19, 20)


def test_lists_with_one_entry_a_block_are_cut_and_others_are_not() -> None:
    config = {"n_layer": 4, "layer_types": ["full", "sliding", "full", "sliding"], "sides": [1, 2]}
    plan = ModelPlan("m", "m", "transformers", "M", config, (PREFILL,), ("n_layer",))
    assert shortened(plan, 2) == {"n_layer": 2, "layer_types": ["full", "sliding"], "sides": [1, 2]}


def test_steps_can_be_chosen_by_name() -> None:
    assert with_steps(TINY_LM, ("decode",)).steps == (DECODE,)


# --- building --------------------------------------------------------------------------------------------------------


def built(plan: ModelPlan, blocks: int | None = 2, dtype: str = "bfloat16", **more: Any) -> Any:
    import torch

    if plan.library != "fp8doctor":
        pytest.importorskip(plan.library)
    return build(plan, "cpu", getattr(torch, dtype), blocks=blocks, **more)


def output(made: Any, step: Any = None) -> Any:
    import torch

    with torch.no_grad():
        return step_call(made, step or made.plan.steps[0])()


def weights(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.torch
def test_equal_seeds_give_equal_weights_and_others_do_not() -> None:
    import torch

    one, same, other = built(TINY_LM), built(TINY_LM), built(TINY_LM, seed=1)
    pairs = zip(one.model.parameters(), same.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.model.output.weight, other.model.output.weight)
    assert torch.equal(output(one), output(same))


@pytest.mark.torch
def test_a_model_that_is_asked_needs_no_gradients_and_one_that_trains_does() -> None:
    asked, trained = built(TINY_LM), built(TINY_TRAIN)
    assert not asked.model.training
    assert not any(p.requires_grad for p in asked.model.parameters())
    assert trained.model.training
    assert all(p.requires_grad for p in trained.model.parameters())


@pytest.mark.torch
@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (replace(TINY_LM, config={**LM_SIZES, "depth": 3}), r"LanguageModel: TypeError: .*'depth'"),
        (replace(TINY_FLUX, class_name="Flux9Transformer2DModel"), "Flux9Transformer2DModel: AttributeError: "),
        (replace(TINY_LM, library="tensorflow"), "tensorflow.LanguageModel: KeyError"),
    ],
)
def test_what_cannot_be_built_says_why_and_changes_nothing(plan: ModelPlan, why: str) -> None:
    import torch

    if plan.library == "diffusers":
        pytest.importorskip("diffusers")
    with pytest.raises(CannotBuildError, match=why):
        build(plan, "cpu", torch.bfloat16)
    assert torch.get_default_dtype() is torch.float32


# --- the true depth --------------------------------------------------------------------------------------------------


def visits(made: Any) -> list[int]:
    """How often each distinct block is called in one step."""
    counts = dict.fromkeys(map(id, made.blocks()), 0)
    for block in made.blocks():
        block.register_forward_hook(lambda module, *_: counts.__setitem__(id(module), counts[id(module)] + 1))
    output(made)
    return list(counts.values())


@pytest.mark.torch
@pytest.mark.parametrize(
    ("plan", "depth", "visited"),
    [
        (TINY_LM, {"blocks": 4}, [2, 2]),
        (replace(TINY_LM, config={**LM_SIZES, "layers": 5}), {"blocks": 5}, [3, 2]),
        (TINY_FLUX, {"transformer_blocks": 3, "single_transformer_blocks": 5}, [2, 1, 3, 2]),
        (TINY_QWEN, {"transformer_blocks": 4}, [2, 2]),
    ],
)
def test_a_step_visits_the_few_blocks_as_often_as_the_true_model_has_blocks(
    plan: ModelPlan, depth: dict[str, int], visited: list[int]
) -> None:
    made = built(plan)
    assert made.depth == depth
    before = weights(made.model)
    shallow = output(made)
    made.visit_true_depth()
    assert weights(made.model) == before
    assert visits(made) == visited
    deep = output(made)
    assert deep.shape == shallow.shape
    assert not deep.equal(shallow)


@pytest.mark.torch
def test_a_llama_of_transformers_visits_its_true_depth_too(tmp_path: Path) -> None:
    plan = small_step(read_plan(written(tmp_path, LLAMA_JSON)))
    made = built(plan)
    shallow = output(made)
    made.visit_true_depth()
    assert made.depth == {"model.layers": 4}
    assert visits(made) == [2, 2]
    assert not output(made).equal(shallow)


@pytest.mark.torch
def test_a_kind_of_blocks_with_no_more_than_are_built_does_not_hide_the_depth_of_another() -> None:
    made = built(replace(TINY_FLUX, config={**TINY_FLUX.config, "num_layers": 1}))
    assert made.depth == {"transformer_blocks": 1, "single_transformer_blocks": 5}
    made.visit_true_depth()
    assert visits(made) == [1, 3, 2]


@pytest.mark.torch
def test_a_model_with_no_more_blocks_than_are_built_is_whole_and_its_blocks_are_known() -> None:
    made = built(replace(TINY_LM, config={**LM_SIZES, "layers": 2}))
    assert made.depth == {"blocks": 2}
    assert len(made.blocks()) == 2
    made.visit_true_depth()
    assert (visits(made), made.absent_bytes()) == ([1, 1], 0)


@pytest.mark.torch
def test_blocks_that_were_left_out_and_cannot_be_found_again_are_no_model(tmp_path: Path) -> None:
    # RecurrentGemma-like trouble, in a class that is small: GPT-2's blocks are "n_layer"; "num_layers" is nobody's.
    plan = read_plan(written(tmp_path, {**LLAMA_JSON, "num_layers": 9}))
    assert set(plan.depth_keys) == {"num_hidden_layers", "num_layers"}
    with pytest.raises(CannotBuildError, match="num_layers"):
        built(plan)
    assert len(built(plan, blocks=None).blocks()) == 4


# --- what is not there is counted ------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("plan", [TINY_LM, TINY_FLUX, TINY_QWEN])
def test_absent_bytes_are_those_that_the_whole_model_has_more(plan: ModelPlan) -> None:
    short, whole = built(plan), built(plan, blocks=None)
    missing = weight_bytes(whole.model) - weight_bytes(short.model)
    assert missing > 0
    assert short.absent_bytes() == missing
    short.visit_true_depth()
    assert short.absent_bytes() == missing
    assert whole.absent_bytes() == 0


@pytest.mark.torch
def test_weights_take_two_bytes_each_and_tied_ones_are_counted_once() -> None:
    made = built(TINY_TRAIN, blocks=None)
    assert weight_bytes(made.model) == 2 * weights(made.model)


@pytest.mark.torch
def test_weights_in_fp8_are_counted_as_the_bytes_that_they_take() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    made = built(TINY_LM)
    before = weight_bytes(made.model)
    layers = [made.model.get_submodule(f"blocks.{i}.feed_forward.{n}") for i in (0, 1) for n in ("gate", "up", "down")]
    elements = sum(layer.weight.numel() for layer in layers)
    quantization.quantize_(
        made.model, quantization.Float8WeightOnlyConfig(), filter_fn=lambda module, name: module in layers
    )
    scales = sum(4 * layer.weight.shape[0] for layer in layers)  # one FP32 a row
    assert before - weight_bytes(made.model) == elements - scales


# --- what it is called with ------------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("json", [None, SD3_JSON, PIXART_JSON, WAN_JSON])
def test_every_class_is_called_with_the_same_numbers_in_every_dtype(json: Any, tmp_path: Path) -> None:
    import torch
    from torch.utils import _pytree

    plan = TINY_FLUX if json is None else small_step(read_plan(written(tmp_path, json)))
    assert plan.class_name in DIFFUSERS
    made = built(plan)
    step = plan.steps[0]
    in_bf16 = diffusion_arguments(made, step)
    to_dtype(made, torch.float32)
    in_fp32 = diffusion_arguments(made, step)
    pairs = list(zip(_pytree.tree_leaves(in_bf16), _pytree.tree_leaves(in_fp32), strict=True))
    tensors = [(a, b) for a, b in pairs if isinstance(a, torch.Tensor)]
    assert any(a.dtype is torch.bfloat16 and b.dtype is torch.float32 for a, b in tensors)
    assert all(torch.equal(a.double(), b.double()) for a, b in tensors)
    assert output(made).isfinite().all()


@pytest.mark.torch
@pytest.mark.parametrize("step", TINY_LM.steps)
def test_a_language_model_is_asked_the_same_in_every_dtype(step: Any) -> None:
    import torch

    made = built(TINY_LM)
    in_bf16 = output(made, step)
    to_dtype(made, torch.float32)
    in_fp32 = output(made, step)
    assert in_fp32.dtype is torch.float32
    error = (in_bf16.float() - in_fp32).norm() / in_fp32.norm()
    assert 0 < error < 0.02, "the same tokens, cache and weights, but for BF16's rounding"


@pytest.mark.torch
def test_a_step_gives_the_same_each_time_it_is_called() -> None:
    import torch

    for step in TINY_LM.steps:
        call = step_call(built(TINY_LM), step)
        with torch.no_grad():
            assert torch.equal(call(), call())


# --- BF16's own rounding ---------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_blocks_compute_in_fp32_between_the_same_bf16() -> None:
    import torch

    made = built(TINY_LM)
    plain = output(made)
    blocks_in_fp32(made)
    assert {p.dtype for block in made.blocks() for p in block.parameters()} == {torch.float32}
    assert {made.model.embedding.weight.dtype, made.model.output.weight.dtype} == {torch.bfloat16}
    exact = output(made)
    assert exact.dtype is torch.bfloat16
    error = ((plain.float() - exact.float()).norm() / exact.float().norm()).item()
    assert 1e-4 < error < 0.02
    made.visit_true_depth()
    assert output(made).isfinite().all()


@pytest.mark.torch
def test_a_model_without_known_blocks_computes_in_fp32_as_a_whole() -> None:
    import torch

    made = built(replace(TINY_LM, depth_keys=()))
    assert (made.depth, made.blocks(), made.absent_bytes()) == ({}, [], 0)
    blocks_in_fp32(made)
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    assert output(made).dtype is torch.float32
    assert math.isfinite(output(made).norm().item())
