"""Step caches: forced to compute and to skip on a small model, refused where they cannot be, and reckoned with."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest

from fp8doctor.checks.ladder.advice import measured
from fp8doctor.checks.ladder.caching_exhibits import (
    HIT_RATES,
    REPORTED_CACHED_S,
    REPORTED_S,
    costs_more,
    step_caches,
    with_hit_rate,
    without_cache,
)
from fp8doctor.checks.ladder.facts import Ladder, Rung, SkippedStep
from fp8doctor.checks.ladder.slugs import CACHES, FORWARD, config_of
from fp8doctor.checks.workload.catalogue import FLUX, QWEN_IMAGE, ModelPlan, StepPlan
from fp8doctor.model import Estimate

DEPTH = 4
TINY_FLUX = replace(
    FLUX,
    config={
        **FLUX.config,
        "attention_head_dim": 16,
        "axes_dims_rope": (4, 6, 6),
        "joint_attention_dim": 32,
        "num_attention_heads": 2,
        "num_layers": DEPTH,
        "num_single_layers": DEPTH,
        "pooled_projection_dim": 32,
    },
    steps=(StepPlan("denoise", "a small step", batch=1, sequence=16, text=8),),
)
TINY_QWEN = replace(
    QWEN_IMAGE,
    config={
        **QWEN_IMAGE.config,
        "attention_head_dim": 16,
        "axes_dims_rope": (4, 6, 6),
        "joint_attention_dim": 32,
        "num_attention_heads": 2,
        "num_layers": DEPTH,
    },
    steps=TINY_FLUX.steps,
)
TINY_SD3 = ModelPlan(
    name="sd3",
    title="a model without caches",
    library="diffusers",
    class_name="SD3Transformer2DModel",
    config={
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": DEPTH,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 32,
        "out_channels": 4,
        "pos_embed_max_size": 16,
    },
    steps=TINY_FLUX.steps,
    depth_keys=("num_layers",),
)
TINY_WAN = ModelPlan(
    name="wan",
    title="a model whose attention has another name",
    library="diffusers",
    class_name="WanTransformer3DModel",
    config={
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 32,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": DEPTH,
        "rope_max_seq_len": 32,
    },
    steps=TINY_FLUX.steps,
    depth_keys=("num_layers",),
)


@pytest.fixture(scope="module")
def climbers() -> Any:
    """Makes a climber of a plan, with its reference; each once."""
    pytest.importorskip("diffusers")
    import torch

    from fp8doctor.checks.ladder.climbing import Climber
    from fp8doctor.measuring.stepping import Meter

    made: dict[str, Any] = {}

    def climber(plan: ModelPlan) -> Any:
        if plan.name not in made:
            here = Climber(plan, plan.steps[0], Meter(torch, torch.device("cpu")))
            made[plan.name] = (here, here.reference())
        return made[plan.name]

    return climber


def climbed(climbers: Any, plan: ModelPlan, slug: str) -> Rung:
    climber, reference = climbers(plan)
    found = climber.climb(slug, reference, 0.0)
    assert isinstance(found, Rung)
    return found


@pytest.mark.torch
@pytest.mark.parametrize("cache", CACHES)
def test_each_cache_is_made_to_compute_and_to_skip(climbers: Any, cache: str) -> None:
    rung = climbed(climbers, TINY_FLUX, f"torch-bf16+{cache}")
    assert (rung.outcome, rung.error) == ("ok", None)
    assert rung.relative_error == 0.0  # a computed step is the step
    assert rung.step_ms is None
    assert rung.skipping is not None
    assert rung.skipping.full_ms is not None
    assert rung.skipping.skipped_ms is not None
    assert rung.skipping.skipped_error is not None
    assert 0 < rung.skipping.skipped_error < 1


@pytest.mark.torch
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++ on a CPU")
@pytest.mark.timeout(300)
def test_compiled_blocks_stay_whole_inside_of_a_cache(climbers: Any) -> None:
    rung = climbed(climbers, TINY_FLUX, "torch-bf16+compile+cache-first-block")
    assert (rung.outcome, rung.error) == ("ok", None)
    assert rung.graph_breaks == 0
    assert rung.graphs is not None
    assert rung.graphs >= 2  # of two kinds of blocks
    assert rung.skipping is not None


@pytest.mark.torch
@pytest.mark.parametrize(
    ("plan", "cache", "why"),
    [
        (TINY_SD3, "cache-first-block", "no enable_cache"),
        (TINY_QWEN, "cache-faster", "twice a step"),
        (TINY_QWEN, "cache-pyramid", "twice a step"),
        (TINY_WAN, "cache-taylorseer", "skips nothing"),
    ],
)
def test_a_cache_that_a_model_cannot_have_says_why(climbers: Any, plan: ModelPlan, cache: str, why: str) -> None:
    rung = climbed(climbers, plan, f"torch-bf16+{cache}")
    assert rung.outcome == "refused"
    assert why in (rung.error or "")
    assert rung.skipping is None


@pytest.mark.torch
@pytest.mark.parametrize(("plan", "cache"), [(TINY_QWEN, "cache-first-block"), (TINY_WAN, "cache-taylorseer-lite")])
def test_what_keeps_a_state_a_pass_suits_models_with_two(climbers: Any, plan: ModelPlan, cache: str) -> None:
    assert climbed(climbers, plan, f"torch-bf16+{cache}").outcome == "ok"


@pytest.mark.torch
def test_separate_blocks_share_their_weights_and_nothing_else() -> None:
    pytest.importorskip("diffusers")
    import torch

    from fp8doctor.checks.workload.build import CannotBuildError, build, step_call

    def built() -> Any:
        return build(TINY_FLUX, "cpu", torch.bfloat16, blocks=2)

    shared, separate = built(), built()
    weights = sum(p.numel() for p in separate.model.parameters())
    shared.visit_true_depth()
    separate.visit_true_depth(separate=True)
    blocks = list(separate.model.transformer_blocks)
    assert len({id(block) for block in shared.model.transformer_blocks}) == 2
    assert len({id(block) for block in blocks}) == DEPTH
    assert blocks[0].attn.to_q is not blocks[2].attn.to_q
    assert blocks[0].attn.to_q.weight is blocks[2].attn.to_q.weight
    assert sum(p.numel() for p in separate.model.parameters()) == weights
    with torch.no_grad():
        step = TINY_FLUX.steps[0]
        assert torch.equal(step_call(shared, step)(), step_call(separate, step)())
    hooked = built()
    hooked.model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    with pytest.raises(CannotBuildError, match="hook cannot be copied"):
        hooked.visit_true_depth(separate=True)


@pytest.mark.torch
def test_a_last_block_unlike_the_others_stays_the_last() -> None:
    pytest.importorskip("diffusers")
    import torch

    from fp8doctor.checks.workload.build import build, step_call

    built = build(TINY_SD3, "cpu", torch.bfloat16, blocks=2)
    built.visit_true_depth()
    blocks = list(built.model.transformer_blocks)
    assert [block.context_pre_only for block in blocks] == [False] * (DEPTH - 1) + [True]
    with torch.no_grad():
        assert step_call(built, TINY_SD3.steps[0])().isfinite().all()


@pytest.mark.torch
def test_a_walk_begins_at_the_step_of_the_ladder_and_goes_straight_on() -> None:
    pytest.importorskip("diffusers")
    import torch

    from fp8doctor.checks.ladder.caching import CHANGE, Walk
    from fp8doctor.checks.workload.build import build, diffusion_arguments

    step = replace(TINY_FLUX.steps[0], sequence=1024)
    built = build(TINY_FLUX, "cpu", torch.float32, blocks=2)
    walk = Walk(built, step, "torch-bf16", ())
    begin, after, later = (walk.at(place)["hidden_states"] for place in range(3))
    assert torch.equal(begin, diffusion_arguments(built, step)["hidden_states"])
    assert torch.allclose(later - after, after - begin, atol=1e-6)
    assert ((after - begin).norm() / begin.norm()).item() == pytest.approx(CHANGE, rel=0.05)


def ms(value: float) -> Estimate:
    return Estimate(value, value, value, 20)


SKIPPING = SkippedStep(full_ms=ms(110.0), skipped_ms=ms(10.0), skipped_error=0.031)
PLAIN = Rung(config="torch-bf16", step="denoise", outcome="ok", step_ms=ms(100.0))
CACHED = Rung(config="torch-bf16+cache-first-block", step="denoise", outcome="ok", skipping=SKIPPING)
LADDER = Ladder(workload="flux", tokens={"denoise": 4608}, rungs=(PLAIN, CACHED))


def test_a_share_of_skipped_steps_speeds_up_by_amdahls_law() -> None:
    assert with_hit_rate(SKIPPING, 0.0) == 1.0
    assert with_hit_rate(SKIPPING, 1.0) == pytest.approx(11.0)
    assert with_hit_rate(SKIPPING, 0.5) == pytest.approx(110 / 60)
    assert with_hit_rate(SKIPPING, 0.5, plain_ms=100.0) == pytest.approx(100 / 60)
    assert with_hit_rate(replace(SKIPPING, skipped_ms=None), 0.5) is None
    with pytest.raises(ValueError, match="share of steps"):
        with_hit_rate(SKIPPING, 1.2)


def test_the_hit_rates_shown_are_those_behind_what_was_reported() -> None:
    free = SkippedStep(full_ms=ms(1.0), skipped_ms=ms(0.0))
    for rate, seconds in zip(HIT_RATES, REPORTED_CACHED_S, strict=True):
        assert with_hit_rate(free, rate) == pytest.approx(REPORTED_S / seconds)


def test_the_table_shows_what_a_cache_costs_and_gives() -> None:
    found = step_caches(replace(LADDER, hit_rate=0.5))
    assert found is not None
    (row,) = found.rows
    cells = row["cells"]
    assert cells["config"] == "torch-bf16+cache-first-block"
    assert (cells["full"], cells["skip"]) == ("110.0+", "10.0"), "computed, it costs more than without the cache"
    assert cells["error"] == "3.1%"
    assert cells["50%"] == "1.67x"
    assert {f"{rate:.0%}" for rate in HIT_RATES} < set(cells)
    assert step_caches(replace(LADDER, rungs=(PLAIN,))) is None


def test_a_computed_step_as_fast_as_without_the_cache_has_no_note() -> None:
    assert costs_more(ms(100.0), SKIPPING)
    assert not costs_more(ms(109.0), SKIPPING)
    assert not costs_more(None, SKIPPING)


def test_caches_are_on_the_ladder_and_never_what_to_use() -> None:
    for cache in CACHES:
        assert f"torch-bf16+{cache}" in FORWARD
    for slug in FORWARD:
        if config_of(slug).cache:
            assert without_cache(slug) in FORWARD[: FORWARD.index(slug)]
    assert [candidate.config for candidate in measured(LADDER)] == ["torch-bf16"]
