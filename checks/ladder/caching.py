"""Step caches of diffusers: what does a computed step cost with one, and what a skipped one?

Which steps a cache skips is up to its threshold, its interval or its timesteps, and to the picture. So each is made to
compute every step, and then to skip every step, by its own settings. Runs in the child; torch and diffusers are
imported inside.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fp8doctor.checks.ladder.conversions import RefusedError, around
from fp8doctor.checks.ladder.facts import Rung, SkippedStep
from fp8doctor.checks.torch_build.numerics import relative_error
from fp8doctor.checks.workload.build import Built, diffusion_arguments
from fp8doctor.checks.workload.catalogue import StepPlan
from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.stepping import Meter, how_many

# The steps of a picture (FluxPipeline.__call__'s default, diffusers/pipelines/flux/pipeline_flux.py).
STEPS = 28
# What one of them changes: with latents (1 - s) * picture + s * noise, both of unit variance, s goes down by 1/STEPS.
# Halfway, at s = 1/2, that changes the latents by sqrt(2)/STEPS, 2/STEPS of their norm, and s by 2/STEPS of itself.
CHANGE = 2 / STEPS
# More steps than are ever measured, for caches that count them.
EVER = 10_000
# The timesteps between which attention may be reused, one of them, and one that is outside.
RANGE, REUSED, COMPUTED = (-1, 999), 500, 1000
# Their pipelines call the model twice a step where there is guidance, `cache_context("cond")` and then "uncond"
# (diffusers/pipelines/{qwenimage,wan}); FasterCache and Pyramid Attention Broadcast keep one state for both calls
# (`self.state` in diffusers/hooks/{faster_cache,pyramid_attention_broadcast}.py, where others ask a StateManager).
TWO_PASSES = ("QwenImageTransformer2DModel", "WanTransformer3DModel")


@dataclass(frozen=True)
class StepCache:
    """A step cache: the class of its settings, those that make it skip or compute each step, and what it needs."""

    class_name: str
    settings: Callable[[bool, Callable[[], int]], dict[str, Any]]
    # Steps that must be computed before one can be skipped as it is meant to be.
    computed: int = 1
    # Its state belongs to a layer, whichever pass calls it.
    one_state: bool = False


def _first_block(skips: bool, timestep: Callable[[], int]) -> dict[str, Any]:
    # FBCHeadBlockHook computes where the first block's change is more than the threshold; no change is less than 0.
    return {"threshold": float("inf") if skips else -1.0}


def _mag(skips: bool, timestep: Callable[[], int]) -> dict[str, Any]:
    # MagCacheHeadHook skips while the ratios' distance from 1 adds up to less than the threshold: here it is nothing.
    # The first `retention_ratio` of the steps are computed. At the last step it forgets all.
    kept = 1 / EVER if skips else 1.0
    return {"mag_ratios": [1.0] * EVER, "num_inference_steps": EVER, "max_skip_steps": EVER, "retention_ratio": kept}


def _taylorseer(skips: bool, timestep: Callable[[], int]) -> dict[str, Any]:
    # TaylorSeerCacheHook computes the steps before the one given, and then one in each interval.
    return {"cache_interval": EVER if skips else 1, "disable_cache_before_step": 2}


def _taylorseer_lite(skips: bool, timestep: Callable[[], int]) -> dict[str, Any]:
    return {**_taylorseer(skips, timestep), "use_lite_mode": True}


def _faster(skips: bool, timestep: Callable[[], int]) -> dict[str, Any]:
    # The part that leaves out the unguided half of a batch takes pictures of 4 or 5 dimensions alone (its
    # `tensor_format`); for a model with distilled guidance there is no such half.
    return {**_attention(timestep), "is_guidance_distilled": True, "attention_weight_callback": _half}


def _pyramid(skips: bool, timestep: Callable[[], int]) -> dict[str, Any]:
    return _attention(timestep)


def _attention(timestep: Callable[[], int]) -> dict[str, Any]:
    return {
        "spatial_attention_block_skip_range": EVER,
        "spatial_attention_timestep_skip_range": RANGE,
        "current_timestep_callback": timestep,
    }


def _half(module: Any) -> float:
    """FasterCache's own default weight of the difference between the last two steps."""
    return 0.5


# Read in diffusers 0.40, hooks/{first_block_cache,mag_cache,taylorseer_cache,faster_cache,pyramid_attention_broadcast}.
# First-block and MagCache skip all blocks but the first; TaylorSeer, FasterCache and Pyramid Attention Broadcast skip
# attention alone; TaylorSeer's lite mode skips all blocks and predicts the last layer's output.
STEP_CACHES = {
    "cache-first-block": StepCache("FirstBlockCacheConfig", _first_block),
    "cache-mag": StepCache("MagCacheConfig", _mag),
    "cache-taylorseer": StepCache("TaylorSeerCacheConfig", _taylorseer, computed=2),
    "cache-taylorseer-lite": StepCache("TaylorSeerCacheConfig", _taylorseer_lite, computed=2),
    "cache-faster": StepCache("FasterCacheConfig", _faster, computed=2, one_state=True),
    "cache-pyramid": StepCache("PyramidAttentionBroadcastConfig", _pyramid, one_state=True),
}


def compile_inside(built: Built) -> None:
    """Compile each block's forward, so that a cache's hooks stay outside of what is compiled.

    Compiled around its hooks (`block.compile()`), the first block breaks at the question whether to skip, and all of
    MagCache's blocks stay as they are: their hooks forbid the compiler what they call.
    """
    import torch

    for block in built.blocks():
        block.forward = torch.compile(block.forward)


@dataclass
class Walk:
    """One forward of a model at neighbouring places of a denoising run."""

    built: Built
    step: StepPlan
    base: str
    modifiers: tuple[str, ...]

    def __post_init__(self) -> None:
        import torch

        self.arguments = diffusion_arguments(self.built, self.step)
        self.noise = torch.randn_like(self.arguments["hidden_states"])

    def at(self, place: int) -> dict[str, Any]:
        """The arguments of the step `place` steps further, the latents on a straight line."""
        moved = dict(self.arguments)
        moved["hidden_states"] = moved["hidden_states"] + place * CHANGE * self.noise
        moved["timestep"] = (moved["timestep"] * (1 - place * CHANGE)).to(moved["timestep"].dtype)
        return moved

    def call(self, place: int) -> Callable[[], Any]:
        """The step at a place, as a call that returns its output."""
        arguments = self.at(place)

        def run() -> Any:
            with around(self.base, self.modifiers, self.built):
                return self.built.model(**arguments)[0]

        return run

    def cached(self, place: int) -> Callable[[], Any]:
        """The same as a pipeline calls a model that has a cache."""
        run = self.call(place)

        def inside() -> Any:
            with self.built.model.cache_context("cond"):
                return run()

        return inside


def measure(
    rung: Rung,
    cache: str,
    walk: Walk,
    meter: Meter,
    compare: Callable[[Callable[[], Any]], dict[str, Any]],
    until: float,
) -> Rung:
    """Measure a computed and a skipped step.

    The error of a skipped step is the one between what the cache gives and what is computed, on the inputs of the step
    after the last computed one: the latents moved by `CHANGE` of their norm on a straight line. With random weights it
    tells caches apart; what a picture loses only a true model shows.

    Args:
        rung: what is known of it so far.
        cache: a key of `STEP_CACHES`.
        walk: the steps; each block a module of its own, and no cache on it yet.
        meter: the clock.
        compare: gives errors and outcome of a call, against BF16.
        until: `time.monotonic()` at which it should have ended.

    Returns the rung with `skipping`; the meter has the peak memory of the skipped steps.

    Raises:
        RefusedError: if the model has no caches, or this one does nothing to it.
    """
    model, made = walk.built.model, STEP_CACHES[cache]
    _refuse(walk.built, made)
    rung = replace(rung, first_call_s=round(meter.first(walk.call(0)), 3))
    place = made.computed
    exact = walk.call(place)()
    timestep = [COMPUTED]
    switch = _Switch(model, made, lambda: timestep[0])

    switch.turn(skips=False)
    rung = replace(rung, **compare(walk.cached(0)))
    computed_error = relative_error(walk.cached(place)(), exact)
    full_ms = _timed(meter, walk.cached(0), (until - time.monotonic()) / 2)

    switch.turn(skips=True)
    for before in range(place):
        walk.cached(before)()
    timestep[0] = REUSED
    skipped_error = relative_error(walk.cached(place)(), exact)
    if skipped_error <= computed_error:
        raise RefusedError("it skips nothing: no layer of this model has a name that it looks for")
    if skipped_error == float("inf"):
        return replace(rung, outcome="wrong", error="a skipped step holds values that are not finite")
    meter.forget_peak()
    skipped_ms = _timed(meter, walk.cached(place), until - time.monotonic())
    skipping = SkippedStep(estimate(full_ms), estimate(skipped_ms), round(skipped_error, 5))
    return replace(rung, skipping=skipping)


def _timed(meter: Meter, call: Callable[[], Any], left_s: float) -> list[float]:
    step_s = min(meter.first(call) for _ in range(2))
    return meter.steps_ms(call, how_many(step_s, left_s))


def _refuse(built: Built, cache: StepCache) -> None:
    name = type(built.model).__name__
    if not hasattr(built.model, "enable_cache"):
        raise RefusedError(f"{name} has no enable_cache: diffusers' pipelines do not tell it which pass a call is")
    if cache.one_state and built.plan.class_name in TWO_PASSES:
        raise RefusedError("its pipeline calls the model twice a step, and this cache would mix the two passes")


class _Switch:
    """Puts a cache on a model with other settings; what it kept is forgotten."""

    def __init__(self, model: Any, cache: StepCache, timestep: Callable[[], int]) -> None:
        self.model, self.cache, self.timestep = model, cache, timestep
        self.settings: Any = getattr(importlib.import_module("diffusers"), cache.class_name, None)
        if self.settings is None:
            raise RefusedError(f"this diffusers has no {cache.class_name}")

    def turn(self, *, skips: bool) -> None:
        if self.model.is_cache_enabled:
            self.model.disable_cache()
        self.model.enable_cache(self.settings(**self.cache.settings(skips, self.timestep)))
