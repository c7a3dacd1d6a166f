"""Rungs climbed in earnest on the CPU: small models of the workloads' classes, converted, compared and timed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from fp8doctor.checks.ladder.climbing import (
    BLOCKS,
    L2_TIMES,
    Climber,
    convert,
    enough_blocks,
    layers_to_convert,
)
from fp8doctor.checks.ladder.comparing import Reference
from fp8doctor.checks.ladder.conversions import RefusedError, around
from fp8doctor.checks.ladder.facts import MemoryPoint, Rung
from fp8doctor.checks.ladder.slugs import config_of
from fp8doctor.checks.ladder.stepping import MEMORY_POINTS, MemoryWatch
from fp8doctor.checks.torch_build.numerics import FORMAT_ERRORS
from fp8doctor.checks.workload.build import build, step_call, weight_bytes
from fp8doctor.checks.workload.catalogue import ModelPlan
from fp8doctor.measuring.stepping import FEWEST_STEPS, FOR_A_P99, MOST_STEPS, Meter, how_many, summary_of
from tests.tiny_plans import DECODE, TINY_FLUX, TINY_LM, TINY_TRAIN

Climb = Callable[..., Rung]


@pytest.fixture(scope="module")
def climbers() -> Iterator[Callable[[ModelPlan], Any]]:
    """Makes a climber of a plan's first step, with its reference; each once."""
    import torch

    made: dict[str, Any] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def climber(plan: ModelPlan) -> Any:
        if plan.library == "diffusers":
            pytest.importorskip("diffusers")
        if plan.name not in made:
            here = Climber(plan, plan.steps[0], Meter(torch, torch.device("cpu")))
            made[plan.name] = (here, here.reference())
        return made[plan.name]

    yield climber
    torch.set_num_threads(threads)


@pytest.fixture
def climb(climbers: Callable[[ModelPlan], Any]) -> Climb:
    def climbed(slug: str, plan: ModelPlan = TINY_LM, **reference: Any) -> Rung:
        config = config_of(slug)
        if config.library is not None:
            pytest.importorskip(config.library)
        climber, own = climbers(plan)
        rung: Rung = climber.climb(slug, replace(own, **reference), 0.0)
        assert (rung.config, rung.step) == (slug, plan.steps[0].name)
        return rung

    return climbed


@pytest.mark.torch
def test_bf16_is_timed_step_by_step_and_is_itself(climb: Climb) -> None:
    rung = climb("torch-bf16")
    assert (rung.outcome, rung.error, rung.relative_error) == ("ok", None, 0.0)
    assert rung.step_ms is not None
    assert rung.step_ms.n == FEWEST_STEPS
    assert rung.least_ms is not None
    assert rung.p90_ms is not None
    assert 0 < rung.least_ms <= rung.step_ms.low <= rung.step_ms.median <= rung.step_ms.high
    assert rung.step_ms.median <= rung.p90_ms
    assert rung.host_ms is not None
    assert rung.first_call_s is not None
    assert (rung.converted, rung.linears, rung.blocks_built) == (None, 14, 2)
    assert (rung.graphs, rung.skipping, rung.gradient_error) == (None, None, None)
    assert rung.started_s is not None
    assert rung.ended_s is not None
    assert rung.started_s < rung.ended_s


@pytest.mark.torch
@pytest.mark.parametrize(
    ("slug", "plan", "converted"),
    [
        ("torch-fp16", TINY_LM, None),
        ("torchao-fp8-weightonly", TINY_LM, 14),
        ("torchao-int8-dynamic", TINY_LM, 14),
        ("torch-bf16+attention-math", TINY_LM, None),
        ("diffusers-fp8-storage", TINY_FLUX, 40),
    ],
)
def test_a_configuration_that_runs_is_near_bf16_and_not_bf16(
    climb: Climb, slug: str, plan: ModelPlan, converted: int | None
) -> None:
    rung = climb(slug, plan)
    assert (rung.outcome, rung.error, rung.converted) == ("ok", None, converted)
    assert rung.relative_error is not None
    assert rung.relative_error_limit is not None
    assert 0 < rung.relative_error <= rung.relative_error_limit


@pytest.mark.torch
@pytest.mark.parametrize(
    ("slug", "plan", "outcome", "why"),
    [
        ("torch-bf16+cudagraph", TINY_LM, "refused", "CUDA graphs need a GPU"),
        ("torchao-fp8-rowwise", TINY_LM, "refused", "requires CUDA compute capability"),
        ("torch-bf16+attention-cudnn", TINY_LM, "error", "No viable backend"),
        ("torch-bf16+compile-whole", TINY_LM, "refused", "compiling each block did not run"),
        ("torch-bf16+attention-fa3", TINY_FLUX, "error", "Flash Attention 3"),
    ],
)
def test_what_this_machine_or_model_does_not_do_says_why(
    climb: Climb, slug: str, plan: ModelPlan, outcome: str, why: str
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("says what a machine without a GPU is told")
    rung = climb(slug, plan)
    assert rung.outcome == outcome
    assert why in (rung.error or "")
    assert rung.step_ms is None
    assert rung.ended_s is not None
    assert climb("torch-bf16", plan).outcome == "ok", "the rungs after it go on"


@pytest.mark.torch
def test_only_diffusers_models_have_diffusers_ways() -> None:
    import torch

    for slug, why in (("diffusers-fp8-storage", "enable_layerwise_casting"), ("torch-bf16+attention-fa2", "no switch")):
        with pytest.raises(RefusedError, match=why):
            convert(build(TINY_LM, "cpu", torch.bfloat16, blocks=2), config_of(slug), ())


@pytest.mark.torch
def test_a_result_beyond_its_format_is_wrong_and_keeps_its_time(climb: Climb, climbers: Any) -> None:
    _, own = climbers(TINY_LM)
    rung = climb("torch-fp16", output=1.1 * own.output)
    assert rung.outcome == "wrong"
    assert rung.relative_error == pytest.approx(0.1 / 1.1, rel=0.1)
    assert rung.step_ms is not None


@pytest.mark.torch
def test_a_distance_that_is_no_number_is_wrong(climb: Climb, climbers: Any) -> None:
    _, own = climbers(TINY_LM)
    rung = climb("torch-bf16", output=own.output / 0.0)
    assert (rung.outcome, rung.error) == ("wrong", "the result holds values that are not finite")
    assert rung.relative_error is None


@pytest.mark.torch
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++ on a CPU")
@pytest.mark.timeout(300)
def test_compiled_blocks_are_one_graph_whose_first_call_takes_long(climb: Climb) -> None:
    rung = climb("torch-bf16+compile")
    assert (rung.outcome, rung.error) == ("ok", None)
    assert (rung.graphs, rung.graph_breaks) == (1, 0), "two blocks of one kind share their code"
    assert rung.step_ms is not None
    assert rung.first_call_s is not None
    assert 1e3 * rung.first_call_s > 20 * rung.step_ms.median
    assert rung.relative_error is not None
    assert rung.relative_error <= (rung.relative_error_limit or 0.0)


# --- LoRA -------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_a_lora_fused_gives_what_it_gives_unfused(climb: Climb) -> None:
    loose, fused = climb("torch-bf16+lora"), climb("torch-bf16+lora-fused")
    assert (loose.outcome, fused.outcome) == ("ok", "ok")
    assert loose.relative_error == fused.relative_error == 0.0, "a LoRA begins as nothing"


@pytest.mark.torch
def test_fusing_leaves_no_layer_beside_and_not_fusing_two_beside_each() -> None:
    peft = pytest.importorskip("peft")
    import torch

    def made(slug: str) -> Any:
        built = build(TINY_LM, "cpu", torch.bfloat16, blocks=2)
        names = tuple(n for n, m in built.model.named_modules() if type(m) is torch.nn.Linear and "blocks" in n)
        convert(built, config_of(slug), names)
        linears = [m for m in built.model.modules() if type(m) is torch.nn.Linear]
        return built, names, linears

    plain, names, before = made("torch-bf16")
    loose, _, beside = made("torch-bf16+lora")
    fused, _, after = made("torch-bf16+lora-fused")
    assert len(names) == 14
    assert len(before) == len(after)
    assert len(beside) == len(before) + 2 * len(names)
    layers = [m for m in loose.model.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
    torch.manual_seed(3)
    for layer in layers:
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    with torch.no_grad():
        unfused = step_call(loose, TINY_LM.steps[0])().float()
        for layer in layers:
            layer.merge()
        merged = step_call(loose, TINY_LM.steps[0])().float()
        base = step_call(plain, TINY_LM.steps[0])().float()
        assert torch.equal(step_call(fused, TINY_LM.steps[0])().float(), base)
    error = ((merged - unfused).norm() / unfused.norm()).item()
    assert error < 0.05 < ((unfused - base).norm() / base.norm()).item()


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("slug", ["torchao-fp8train-tensorwise", "torchao-fp8train-rowwise"])
def test_training_in_fp8_is_compared_by_its_output_and_its_gradients(climb: Climb, slug: str) -> None:
    bf16, fp8 = climb("torch-bf16", TINY_TRAIN), climb(slug, TINY_TRAIN)
    assert (bf16.outcome, bf16.relative_error, bf16.gradient_error) == ("ok", 0.0, 0.0)
    assert (fp8.outcome, fp8.error, fp8.converted, fp8.linears) == ("ok", None, 20, 20)
    assert fp8.gradient_error is not None
    assert FORMAT_ERRORS["e4m3"] < fp8.gradient_error < 0.3
    assert fp8.blocks_built is None, "each block has gradients and an optimizer state of its own"


@pytest.mark.torch
def test_a_training_step_learns_from_the_gradients_of_that_step_alone() -> None:
    import torch

    from fp8doctor.checks.ladder.training import TrainingStep

    built = build(TINY_TRAIN, "cpu", torch.float32)
    step = TrainingStep(built, TINY_TRAIN.steps[0])
    before = built.model.blocks[0].attention.qkv.weight.detach().clone()

    def loss() -> float:
        with torch.no_grad():
            return float(step.head(built.model(step.tokens)))

    first = loss()
    step()
    gradient = step.gradient
    assert gradient.abs().sum() > 0
    for _ in range(20):
        step()
    assert loss() < first
    assert torch.equal(step.gradient, gradient), "that of the first step is kept"
    assert not torch.equal(built.model.blocks[0].attention.qkv.weight, before)
    alone = step.first_gradient()
    step()
    assert torch.equal(step.joined([weight.grad for weight in step.watched]), alone)


# --- which layers, how many steps, how much memory --------------------------------------------------------------------


def test_layers_with_few_rows_stay_in_bf16_unless_all_have_few() -> None:
    rows = {"qkv": 4096, "time": 1, "up": 16}
    assert layers_to_convert(config_of("torchao-fp8-rowwise"), rows) == ("qkv", "up")
    assert layers_to_convert(config_of("torchao-fp8-weightonly"), rows) == ("qkv", "time", "up")
    assert layers_to_convert(config_of("torchao-fp8-rowwise"), {"qkv": 8, "up": 8}) == ("qkv", "up")


@pytest.mark.torch
def test_the_rows_of_each_layer_are_those_of_the_step(climbers: Any) -> None:
    _, prefill = climbers(TINY_LM)
    _, decode = climbers(replace(TINY_LM, name="decode", steps=(DECODE,)))
    assert (set(prefill.rows.values()), set(decode.rows.values())) == ({32}, {16})
    assert all(name.startswith("blocks.") for name in prefill.rows), "the output layer is nobody's to convert"


def test_the_error_that_is_allowed_grows_as_bf16s_own_does() -> None:
    steady, growing = Reference(bf16_error=0.001), Reference(bf16_error=3 * FORMAT_ERRORS["bf16"])
    assert steady.limit("e4m3") == 2 * FORMAT_ERRORS["e4m3"]
    assert growing.limit("e4m3") == pytest.approx(6 * FORMAT_ERRORS["e4m3"])


def test_steps_are_as_many_as_fit_and_enough_for_a_quantile() -> None:
    assert how_many(0.05, 10.0) == 40  # of two seconds
    assert how_many(0.05, 1.0) == 20
    assert how_many(1.0, 100.0) == FEWEST_STEPS
    assert how_many(0.05, -3.0) == FEWEST_STEPS
    assert how_many(0.0, 100.0) == MOST_STEPS


@pytest.mark.torch
def test_memory_is_looked_at_in_every_phase(climb: Climb) -> None:
    points = climb("torch-bf16").memory
    assert points
    assert points[0].phase == "build"


def test_of_many_points_of_memory_those_are_kept_at_which_it_changed() -> None:
    def watched(values: list[float]) -> tuple[MemoryPoint, ...]:
        watch = MemoryWatch(Meter(None, None))
        watch.points = [MemoryPoint("steps", place / 100, gb) for place, gb in enumerate(values)]
        return watch.kept()

    assert [p.allocated_gb for p in watched([0, 0, 1, 1, 1, 3, 3, 2])] == [0, 1, 3, 2]
    assert watched([]) == ()
    many = watched([float(place) for place in range(1000)])
    assert len(many) <= MEMORY_POINTS + 1
    assert many[-1].allocated_gb == 999


@pytest.mark.torch
def test_a_forced_attention_stands_round_the_call_and_not_longer() -> None:
    import torch

    built = build(TINY_LM, "cpu", torch.bfloat16, blocks=2)
    assert torch.backends.cuda.flash_sdp_enabled()
    with around("torch-bf16", ("attention-math",), built):
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert torch.backends.cuda.math_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.torch
def test_more_blocks_stand_for_the_depth_where_two_would_stay_in_the_cache() -> None:
    torch = pytest.importorskip("torch")
    assert enough_blocks(TINY_LM, 0) == BLOCKS == 2
    two = build(TINY_LM, torch.device("meta"), torch.bfloat16, blocks=2)
    bytes_of_two = sum(map(weight_bytes, two.blocks()))
    assert enough_blocks(TINY_LM, bytes_of_two // L2_TIMES) == 2
    assert enough_blocks(TINY_LM, bytes_of_two) == 2 * L2_TIMES


@pytest.mark.torch
def test_a_lora_is_fused_before_the_weights_are_quantised(climb: Climb) -> None:
    fused = climb("torchao-fp8-weightonly+lora-fused")
    plain = climb("torchao-fp8-weightonly")
    assert (fused.outcome, plain.outcome) == ("ok", "ok"), (fused.error, plain.error)
    assert fused.converted == plain.converted


def test_a_p99_needs_more_steps_than_the_slowest_of_a_few() -> None:
    assert summary_of([float(ms) for ms in range(1, FOR_A_P99)])["p99_ms"] is None
    assert summary_of([float(ms) for ms in range(1, 101)])["p99_ms"] == pytest.approx(99, abs=0.1)
