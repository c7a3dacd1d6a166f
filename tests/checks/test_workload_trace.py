"""What one step calls, traced without memory: counted by hand for models small enough to count in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.workload.catalogue import BUILT_IN, ModelPlan
from fp8doctor.checks.workload.config_file import read_plan
from fp8doctor.measuring.workloads import TRACED, AttentionUse, LinearUse, Step, built_in
from tests.refresh_workloads import traced
from tests.tiny_plans import (
    LLAMA_JSON,
    PIXART_JSON,
    SD3_JSON,
    TINY_FLUX,
    TINY_LM,
    TINY_QWEN,
    TINY_TRAIN,
    WAN_JSON,
    written,
)

pytestmark = pytest.mark.torch


def steps_of(plan: ModelPlan) -> dict[str, Step]:
    from fp8doctor.checks.workload.trace import trace

    return {step.name or "": step for step in trace(plan).steps or ()}


def layers(step: Step) -> dict[tuple[Any, Any, Any], Any]:
    """How often each shape (M, K, N) is called."""
    found = {(use.m, use.k, use.n): use.calls for use in step.linears or ()}
    assert len(found) == len(step.linears or ())
    return found


def calls(uses: tuple[LinearUse, ...] | tuple[AttentionUse, ...] | None) -> int:
    return sum(use.calls or 0 for use in uses or ())


# --- our own language model ------------------------------------------------------------------------------------------


def test_a_prefill_calls_every_layer_on_all_tokens_and_asks_for_the_last_ones_logits() -> None:
    step = steps_of(TINY_LM)["prefill"]
    assert layers(step) == {
        (32, 64, 64): 4 * 2,  # query and output of 4 blocks
        (32, 64, 32): 4 * 2,  # key and value: 2 heads of 16
        (32, 64, 128): 4 * 2,  # gate and up
        (32, 128, 64): 4,  # down
        (1, 64, 96): 1,  # logits
    }
    assert step.attentions == (AttentionUse(1, 4, 2, 32, 32, 16, True, 4),)
    assert (step.tokens, step.trains) == (32, False)


def test_a_decoded_token_looks_back_at_all_that_came_before_it() -> None:
    step = steps_of(TINY_LM)["decode"]
    assert {m for m, _, _ in layers(step)} == {16}
    assert step.attentions == (AttentionUse(16, 4, 2, 1, 16, 16, False, 4),)


def test_a_training_step_asks_for_every_tokens_logits() -> None:
    step = steps_of(TINY_TRAIN)["train"]
    assert layers(step) == {
        (32, 64, 192): 4,  # query, key and value in one
        (32, 64, 64): 4,
        (32, 64, 128): 4 * 2,
        (32, 128, 64): 4,
        (32, 64, 96): 1,
    }
    assert step.attentions == (AttentionUse(2, 4, 4, 16, 16, 16, True, 4),)
    assert step.trains


def test_each_shape_names_a_module_of_it() -> None:
    examples = {use.example for use in steps_of(TINY_LM)["prefill"].linears or ()}
    assert examples == {
        *("blocks.0.attention.q", "blocks.0.attention.k"),
        *("blocks.0.feed_forward.gate", "blocks.0.feed_forward.down", "output"),
    }


# --- models of diffusers ---------------------------------------------------------------------------------------------


def linear_modules(plan: ModelPlan) -> int:
    import torch

    from fp8doctor.checks.workload.build import build

    model = build(plan, "meta", torch.bfloat16).model
    return sum(isinstance(module, torch.nn.Linear) for module in model.modules())


def test_flux_has_two_kinds_of_blocks_and_one_attention_over_picture_and_text() -> None:
    pytest.importorskip("diffusers")
    step = steps_of(TINY_FLUX)["denoise"]
    assert calls(step.linears) == linear_modules(TINY_FLUX)
    assert step.attentions == (AttentionUse(1, 2, 2, 24, 24, 16, False, 3 + 5),)
    found = layers(step)
    assert found[16, 32, 128] == found[8, 32, 128] == 3  # double blocks: picture and text apart
    assert found[24, 32, 128] == found[24, 160, 32] == 5  # single blocks: both together
    assert found[24, 32, 32] == 5 * 3
    assert (step.tokens, step.trains) == (24, False)


def test_qwen_image_keeps_picture_and_text_apart_in_all_blocks() -> None:
    pytest.importorskip("diffusers")
    step = steps_of(TINY_QWEN)["denoise"]
    assert calls(step.linears) == linear_modules(TINY_QWEN)
    assert step.attentions == (AttentionUse(1, 2, 2, 24, 24, 16, False, 4),)
    assert layers(step)[16, 32, 32] == layers(step)[8, 32, 32] - 1 == 4 * 4  # the text has one more before the blocks


def test_stable_diffusion_3s_last_block_leaves_the_text_alone(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    plan = read_plan(written(tmp_path, SD3_JSON))
    step = steps_of(plan)["denoise"]
    assert calls(step.linears) == linear_modules(plan)
    assert step.attentions == (AttentionUse(1, 2, 2, 4352, 4352, 16, False, 4),)
    assert (layers(step)[4096, 32, 128], layers(step)[256, 32, 128]) == (4, 3)
    assert step.tokens == 4096 + 256


def test_pixart_looks_at_the_text_in_an_attention_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    plan = read_plan(written(tmp_path, PIXART_JSON))
    step = steps_of(plan)["denoise"]
    assert calls(step.linears) == linear_modules(plan)
    assert Counter((use.queries, use.keys, use.calls) for use in step.attentions or ()) == {
        (4096, 4096, 3): 1,
        (4096, 256, 3): 1,
    }


def test_wan_looks_at_the_text_in_an_attention_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    plan = read_plan(written(tmp_path, WAN_JSON))
    step = steps_of(plan)["denoise"]
    assert calls(step.linears) == linear_modules(plan)
    assert step.attentions == (
        AttentionUse(1, 2, 2, 4096, 4096, 12, False, 2),
        AttentionUse(1, 2, 2, 4096, 256, 12, False, 2),
    )


# --- a model of transformers -----------------------------------------------------------------------------------------


def test_a_llama_of_transformers_calls_what_our_own_of_its_sizes_calls(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    step = steps_of(read_plan(written(tmp_path, {**LLAMA_JSON, "max_position_embeddings": 32})))["prefill"]
    own = steps_of(TINY_LM)["prefill"]
    expected = {**layers(own), (32, 64, 96): 1}
    del expected[1, 64, 96]  # transformers gives the logits of all tokens
    assert layers(step) == expected
    assert step.attentions == own.attentions


# --- the built-in workloads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_what_is_written_down_of_a_built_in_workload_is_what_its_class_calls(name: str) -> None:
    if BUILT_IN[name].library != "fp8doctor":
        pytest.importorskip(BUILT_IN[name].library)
    assert (TRACED / f"{name}.json").read_text(encoding="utf-8") == traced(name)


def test_the_built_in_models_have_the_parameters_that_their_names_promise() -> None:
    billions = {name: round((built_in(name).parameters or 0) / 1e9, 3) for name in BUILT_IN}
    # They are published as models of 12, 20 and 8.03 billion.
    assert billions == {
        "flux": 11.901,
        "qwen-image": 20.43,
        "llama-8b": 8.03,
        "train-454m": 0.454,
        "train-8b": 1.923,
    }
