"""By which routes is attention timed here? Only by those that ran on a small call, and were right."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.checks.attention.facts import Attention
from fp8doctor.checks.flash_attention.facts import FlashAttention, Generation
from fp8doctor.checks.transformer_engine.facts import Recipe, TransformerEngine

# Recipes of Transformer Engine that take fp8_dpa=True, with their slug. Float8BlockScaling asserts that it is off, and
# NVFP4 attention does not exist: transformer_engine/common/recipe/__init__.py and the table of recipes in
# get_attention_backend (pytorch/attention/dot_product_attention/utils.py), 2.20.2.
RECIPES = {
    "DelayedScaling": "te-fp8-delayed-attention",
    "Float8CurrentScaling": "te-fp8-current-attention",
    "MXFP8BlockScaling": "te-mxfp8-attention",
}
# FlashAttention 4 imports for seconds and compiles on its first call at each shape; a default run does not wait for it.
SLOW_TO_START = ("flash-attn-4", "flash-attn-4-fp8", "torch-sdpa-fa4")


@dataclass(frozen=True)
class Route:
    """One way to compute attention; `library` says who is called, the rest with what."""

    slug: str
    library: str  # "torch" | "flash" | "te"
    fp8: bool = False
    # False: forward only.
    trains: bool = True
    # torch: the backend that is forced, as `attention.probe.BACKENDS` names it; None for torch's own choice.
    backend: str | None = None
    # torch: the FlashAttention package that its switch puts in the place of the flash backend.
    switch: str | None = None
    # flash: where flash_attn_func is imported from.
    module: str | None = None
    # te: the recipe, None for BF16.
    recipe: str | None = None


@dataclass(frozen=True)
class Closed:
    """A way to FP8 attention that earlier probes saw fail: its slug, how it ended and what it said."""

    slug: str
    outcome: str
    why: str


def routes(
    attention: Attention | None, flash: FlashAttention | None, te: TransformerEngine | None, *, patient: bool
) -> tuple[Route, ...]:
    """The routes to time, torch's own choice first.

    Args:
        attention: what torch's backends did on a small call.
        flash: what the FlashAttention packages did.
        te: what Transformer Engine did; its attention itself was not called before.
        patient: whether to wait for what compiles first.
    """
    found = [Route("torch-sdpa", "torch")]
    for item in (attention.backends if attention else None) or ():
        if item.outcome == "ok":
            name = str(item.backend)
            # Its scores are kept for the backward, and it is no competitor.
            found.append(Route(f"torch-sdpa-{name}", "torch", backend=name, trains=name != "math"))
    for generation in (flash.generations if flash else None) or ():
        found += _of_package(generation)
    for switch in (attention.switches if attention else None) or ():
        if switch.outcome == "ok":
            name = str(switch.implementation)
            found.append(Route(f"torch-sdpa-{name.lower()}", "torch", backend="flash", switch=name))
    if te is not None and te.import_ok:
        found.append(Route("te-attention", "te"))
        found += [
            Route(RECIPES[str(recipe.name)], "te", fp8=True, recipe=recipe.name)
            for recipe in te.recipes or ()
            if recipe.name in RECIPES and _closed_recipe(recipe) is None
        ]
    return tuple(route for route in found if patient or route.slug not in SLOW_TO_START)


def _of_package(item: Generation) -> list[Route]:
    slug = f"flash-attn-{item.generation}"
    found = []
    if item.outcome == "ok":
        found.append(Route(slug, "flash", module=item.module))
    if item.fp8_outcome == "ok":
        # Forward only: mha_bwd in hopper/flash_api.cpp takes fp16 and bf16; flash_attn/cute/interface.py says
        # "FA4 CuTe FP8 backward is not supported yet (forward-only)."
        found.append(Route(f"{slug}-fp8", "flash", fp8=True, trains=False, module=item.module))
    return found


def closed(flash: FlashAttention | None, te: TransformerEngine | None) -> tuple[Closed, ...]:
    """The ways to FP8 attention that are installed and known not to work, with their reasons."""
    found = [
        Closed(f"flash-attn-{item.generation}-fp8", item.fp8_outcome, item.fp8_error or "")
        for item in (flash.generations if flash else None) or ()
        if item.fp8_outcome not in (None, "ok")
    ]
    if te is not None and te.import_ok:
        for recipe in te.recipes or ():
            if recipe.name in RECIPES and (shut := _closed_recipe(recipe)) is not None:
                found.append(Closed(RECIPES[recipe.name], *shut))
    return tuple(found)


def _closed_recipe(recipe: Recipe) -> tuple[str, str] | None:
    """How the recipe is known to fail, and why; None if it may be tried."""
    if recipe.available is False:
        return "unavailable", recipe.reason or "Transformer Engine says that it is not available here"
    if recipe.available is None or recipe.forward_ok is False:
        return "error", recipe.error or "Transformer Engine was not asked for it"
    return None
