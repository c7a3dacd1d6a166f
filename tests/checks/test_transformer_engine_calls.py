"""te.Linear: what is planned to be timed, what it is called in words and in code, and what each call really does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.transformer_engine import configurations, timing_probe
from fp8doctor.checks.transformer_engine.calls import LayerCalls
from fp8doctor.checks.transformer_engine.configurations import Configuration, how, in_order, label, plan
from fp8doctor.checks.transformer_engine.times import FORWARD, TRAINING
from fp8doctor.checks.transformer_engine.timing import cost_s, outcome_of
from fp8doctor.measuring.timer import Pace
from fp8doctor.measuring.workloads import built_in
from fp8doctor.model import Request, Shape
from tests import fake_transformer_engine as fake

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch
CURRENT, DELAYED = "te-fp8-current", "te-fp8-delayed"
RECIPES = ("Float8CurrentScaling", "DelayedScaling")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """The small Transformer Engine, and its switches."""
    with fake.imported(tmp_path) as found:
        yield found


# --- what is planned -------------------------------------------------------------------------------------------------


def test_the_most_telling_comes_first_and_bf16_beside_it() -> None:
    ways = [str(way) for way in plan(in_order(RECIPES, "DelayedScaling"), first=True, everything=False)]
    assert ways[:3] == [
        "torch-bf16 forward+backward",
        "te-fp8-current forward+backward",
        "te-bf16 forward+backward",
    ]
    assert len(ways) == len(set(ways))


def test_a_default_that_keeps_no_state_leads() -> None:
    recipes = ("DelayedScaling", "Float8CurrentScaling", "MXFP8BlockScaling")
    assert [s.config for s in in_order(recipes, "MXFP8BlockScaling")] == ["te-mxfp8", CURRENT, DELAYED]
    assert [s.config for s in in_order(recipes, "DelayedScaling")] == [CURRENT, "te-mxfp8", DELAYED]


def test_the_first_shape_is_measured_in_every_way_the_others_in_what_competes() -> None:
    scalings = in_order((*RECIPES, "Float8BlockScaling"), "DelayedScaling")
    first, later = (set(plan(scalings, first=yes, everything=False)) for yes in (True, False))
    assert later < first
    assert {way.base for way in first} - {way.base for way in later} == {"te-fp8-block"}
    assert not [way for way in later if way.with_cached_weight or way.with_stored_weight]
    everywhere = set(plan(scalings, first=False, everything=True))
    assert first < everywhere
    assert Configuration("te-fp8-block+cachedweight", TRAINING) in everywhere


def test_without_a_recipe_nothing_is_planned() -> None:
    assert plan([], first=True, everything=True) == []


def test_a_weight_is_not_stored_where_it_has_no_scale_yet() -> None:
    ways = plan(in_order(RECIPES, None), first=True, everything=True)
    assert {way.base for way in ways if way.with_stored_weight} == {CURRENT}


def test_a_persons_shapes_come_before_the_workloads_and_those_before_our_own() -> None:
    flux, own = built_in("flux"), (Shape(12, 48, 64),)
    uses = {Shape(use.m or 0, use.k or 0, use.n or 0) for step in flux.steps or () for use in step.linears or ()}
    assert timing_probe.shapes_of(Request(shapes=own), flux) == own
    chosen = timing_probe.shapes_of(Request(), flux)
    assert len(chosen) == timing_probe.LAYERS_OF_A_WORKLOAD
    assert set(chosen) < uses
    assert set(timing_probe.shapes_of(Request(mode="thorough"), flux)) == uses
    assert timing_probe.shapes_of(Request(), None) == timing_probe.SHAPES


def every_way() -> list[Configuration]:
    everything = plan(configurations.SCALINGS, first=True, everything=True)
    return [*everything, Configuration("te-bf16+cudagraph", FORWARD)]


@pytest.mark.parametrize("way", every_way(), ids=str)
def test_how_to_get_a_configuration_is_python_and_says_what_it_is(way: Configuration) -> None:
    code = how(way.config, way.passes)
    ast.parse(code)
    assert ("is_first_microbatch=False" in code) == way.with_cached_weight
    assert ("quantized_model_init" in code) == way.with_stored_weight
    assert ("graph" in code.lower()) == way.graphed
    assert ("backward" in code) == (way.passes == TRAINING)
    scaling = configurations.scaling_of(way.config)
    assert ("with gradients" in code) == (way.base == DELAYED and way.passes == FORWARD)
    assert scaling is None or f"{scaling.recipe}()" in code


def test_labels_are_words_and_tell_configurations_apart() -> None:
    labels = [label(way.config, way.passes) for way in every_way()]
    assert len(set(labels)) == len(labels)
    assert not [words for words in labels if "te-" in words]
    assert label("te-fp8-current+cudagraph") == "Transformer Engine FP8, current scaling + CUDA graph"


def test_timing_costs_more_where_a_call_takes_longer() -> None:
    short, asking, working = (cost_s(pace, 3) for pace in (Pace(50, 50), Pace(50, 2000), Pace(20_000, 50)))
    assert short < asking < working
    assert cost_s(Pace(50, 50), 6) == pytest.approx(2 * short)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("FP8 execution requires the product of all dimensions except the last to be"), "refused"),
        (RuntimeError("Device compute capability 10.0 or higher required for MXFP8 execution."), "refused"),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nmore"), "error"),
        (RuntimeError(), "error"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. It is not supported"), "out-of-memory"),
    ],
)
def test_what_an_exception_means(error: Exception, outcome: str) -> None:
    found, said = outcome_of(torch, error)
    assert found == outcome
    assert said.startswith(type(error).__name__)
    assert "\n" not in said


# --- how it is called ------------------------------------------------------------------------------------------------


def calls_of(engine: Any) -> LayerCalls:
    x = torch.randn(32, 64).bfloat16().requires_grad_(True)
    return LayerCalls(
        fake.stub_torch(torch, 300.0), engine, x, torch.randn(48, 64).bfloat16() / 8, torch.randn(32, 48).bfloat16()
    )


def casts(engine: tuple[Any, Any], way: Configuration) -> dict[str, int]:
    """How often one call of a configuration casts each tensor."""
    with torch.set_grad_enabled(way.passes == TRAINING):
        call = calls_of(engine[0]).build(way).call
        engine[1].counted.clear()
        call()
    return {name.removeprefix("cast "): times for name, times in engine[1].counted.items()}


@pytest.mark.parametrize(
    ("suffix", "passes", "cast"),
    [
        ("", FORWARD, {"x": 1, "weight": 1}),
        ("", TRAINING, {"x": 1, "weight": 1, "grad": 1}),
        ("+cachedweight", FORWARD, {"x": 1}),
        ("+cachedweight", TRAINING, {"x": 1, "grad": 1}),
        ("+fp8weight", FORWARD, {"x": 1}),
        ("+cudagraph", TRAINING, {"x": 1, "weight": 1, "grad": 1}),
        ("+cudagraph", FORWARD, {}),  # the stub's replay runs nothing
    ],
)
def test_each_way_casts_what_it_says(engine: tuple[Any, Any], suffix: str, passes: str, cast: dict[str, int]) -> None:
    assert casts(engine, Configuration(f"{CURRENT}{suffix}", passes)) == cast


@pytest.mark.parametrize("config", ["torch-bf16", "te-bf16", "te-bf16+cudagraph"])
def test_bf16_casts_nothing(engine: tuple[Any, Any], config: str) -> None:
    assert casts(engine, Configuration(config, TRAINING)) == {}


def test_gradients_are_written_and_not_added_up(engine: tuple[Any, Any]) -> None:
    built = calls_of(engine[0]).build(Configuration(CURRENT, TRAINING))
    built.call()
    once = [leaf.grad.clone() for leaf in built.leaves]
    built.call()
    assert all(torch.equal(leaf.grad, first) for leaf, first in zip(built.leaves, once, strict=True))


def test_delayed_scaling_has_its_scales_before_it_is_called_without_gradients(engine: tuple[Any, Any]) -> None:
    seen: list[dict[str, float]] = []
    calls = calls_of(engine[0])
    with torch.no_grad():
        call = calls.build(Configuration(DELAYED, FORWARD)).call
        engine[1].at_call = lambda layer, recipe: seen.append(dict(layer.scales))
        call()
    assert set(seen[0]) == {"x", "weight"}
