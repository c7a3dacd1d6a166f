"""Look for Transformer Engine, import it, ask it for its recipes and call each that it allows."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import time
import traceback
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from fp8doctor.checks.libraries.probe import loaded_libraries
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS, FORMAT_ERRORS, relative_error
from fp8doctor.checks.transformer_engine.facts import IMPORTING, IMPORTING_TORCH, Recipe, TransformerEngine
from fp8doctor.model import Request
from fp8doctor.plain import from_plain
from fp8doctor.raised import in_words
from fp8doctor.registry import probe

DISTRIBUTIONS = ("transformer-engine", "transformer-engine-cu12", "transformer-engine-cu13", "transformer-engine-torch")
# Legal for every recipe: block scaling wants both dimensions of an operand in multiples of 128, MXFP8 of 32, per-tensor
# scaling rows in multiples of 8 and columns of 16 (docs/features/low_precision_training, pytorch/utils.py).
TOKENS, IN_FEATURES, OUT_FEATURES = 256, 512, 256
# DelayedScaling takes its scales from earlier calls.
CALLS = 3


@dataclass(frozen=True)
class _Known:
    """A recipe: its class, the name under which Transformer Engine is asked for it, the format of its forward."""

    name: str
    asked_as: str
    format: str


# HYBRID, the default of the per-tensor recipes, is e4m3 in the forward. Which check goes with which recipe:
# check_recipe_support in transformer_engine/pytorch/quantization.py (fp8.py up to 2.8).
RECIPES = (
    _Known("DelayedScaling", "fp8", "e4m3"),
    _Known("Float8CurrentScaling", "fp8", "e4m3"),
    _Known("Float8BlockScaling", "fp8_block_scaling", "e4m3"),
    _Known("MXFP8BlockScaling", "mxfp8", "mxfp8"),
    _Known("NVFP4BlockScaling", "nvfp4", "nvfp4"),
)


@probe(runs_in="target", timeout_s=90)
def gather(request: Request) -> Iterator[TransformerEngine]:
    """Importing Transformer Engine and calling each of its FP8 recipes."""
    if request.so_far is None:
        seen = _installed()
    else:
        seen = _after_crash(from_plain(TransformerEngine, request.so_far), request.so_far_ended)
    yield seen
    if not seen.installed or seen.torch_error or seen.import_error:
        return
    seen = yield from _import(seen)
    if not seen.import_ok:
        return
    import torch

    if not torch.cuda.is_available():
        return
    torch.cuda.set_device(request.gpu)
    if seen.recipes is None:
        seen = replace(seen, recipes=tuple(_ask(known) for known in RECIPES if _exists(known)))
        yield seen
    if request.mode != "quick":
        yield from _try_recipes(seen)


def _installed() -> TransformerEngine:
    packages = {}
    for name in DISTRIBUTIONS:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    spec = importlib.util.find_spec("transformer_engine")
    # A folder without code, which an uninstallation leaves behind, is no package.
    present = bool(packages) or (spec is not None and spec.origin is not None)
    version = packages.get("transformer-engine") or next(iter(packages.values()), None)
    return TransformerEngine(installed=present, version=version, packages=packages)


def _after_crash(seen: TransformerEngine, ended: str | None) -> TransformerEngine:
    """Put down what ended the child before this one, so that it is not tried again."""
    said = f"the process ended: {ended}"
    if seen.attempting == IMPORTING_TORCH:
        return replace(seen, attempting=None, torch_error=said)
    if seen.attempting == IMPORTING:
        return replace(seen, attempting=None, import_ok=False, import_error=said)
    recipes = tuple(
        replace(recipe, forward_ok=False, error=said) if recipe.name == seen.attempting else recipe
        for recipe in seen.recipes or ()
    )
    return replace(seen, attempting=None, recipes=recipes if seen.recipes is not None else None)


def _import(seen: TransformerEngine) -> Generator[TransformerEngine, None, TransformerEngine]:
    if seen.import_ok:  # by an earlier child: it can be imported here, too
        importlib.import_module("transformer_engine.pytorch")
        return seen
    seen = replace(seen, attempting=IMPORTING_TORCH)
    yield seen
    try:
        importlib.import_module("torch")
    except BaseException as error:
        seen = replace(seen, attempting=None, torch_error=in_words(error))
        yield seen
        return seen
    seen = replace(seen, attempting=IMPORTING)
    yield seen
    started = time.monotonic()
    try:
        # The top-level package swallows an ImportError of this module, so it is asked for by name.
        importlib.import_module("transformer_engine.pytorch")
    except BaseException as error:  # SystemExit and a bare StopIteration have been seen
        traceback.print_exc()
        seen = replace(seen, attempting=None, import_ok=False, import_error=in_words(error))
    else:
        seen = replace(seen, attempting=None, import_ok=True, import_s=round(time.monotonic() - started, 2), **_cudnn())
    yield seen
    return seen


def _cudnn() -> dict[str, Any]:
    """Which cuDNN this process has now, and which of them torch calls."""
    import torch

    parts = tuple(library for library in loaded_libraries() if (library.name or "").startswith("libcudnn"))
    version = None
    if parts:  # asking loads the parts that are missing, so never before the import
        with contextlib.suppress(Exception):
            version = ".".join(map(str, torch._C._cudnn.getRuntimeVersion()))
    return {"cudnn": parts, "cudnn_version": version}


def _exists(known: _Known) -> bool:
    return hasattr(importlib.import_module("transformer_engine.common.recipe"), known.name)


def _ask(known: _Known) -> Recipe:
    recipe = Recipe(
        name=known.name,
        relative_error_expected=FORMAT_ERRORS[known.format],
        relative_error_limit=ERROR_LIMITS[known.format],
    )
    try:
        answer = _answer(known.asked_as)
    except Exception as error:
        return replace(recipe, error=f"asking for it: {in_words(error)}")
    # A bool, or (bool, reason): a tuple is always true, so it must not be asked as one.
    available, reason = answer if isinstance(answer, tuple) else (answer, None)
    return replace(recipe, available=bool(available), reason=str(reason) if reason else None)


def _answer(asked_as: str) -> Any:
    public = getattr(importlib.import_module("transformer_engine.pytorch"), f"is_{asked_as}_available", None)
    if public is not None:
        return public(return_reason=True)
    # Before 2.9 there was no public question.
    return getattr(importlib.import_module("transformer_engine.pytorch.fp8"), f"check_{asked_as}_support")()


def _try_recipes(seen: TransformerEngine) -> Iterator[TransformerEngine]:
    import torch

    for place, recipe in enumerate(seen.recipes or ()):
        if not recipe.available or recipe.forward_ok is not None:
            continue
        yield replace(seen, attempting=recipe.name)
        tried = _try(recipe)
        recipes = seen.recipes or ()
        seen = replace(seen, recipes=(*recipes[:place], tried, *recipes[place + 1 :]))
        yield seen
        # Raises if a kernel has poisoned the CUDA context; a fresh child then goes on with the rest.
        torch.cuda.synchronize()


def _try(recipe: Recipe) -> Recipe:
    import torch

    try:
        result, reference = _forward(str(recipe.name))
        wrong_by = relative_error(result, reference)
        finite = bool(torch.isfinite(result).all())
    except Exception as error:
        traceback.print_exc()
        return replace(recipe, forward_ok=False, error=in_words(error))
    return replace(recipe, forward_ok=True, finite=finite, relative_error=round(wrong_by, 5) if finite else None)


def _forward(name: str) -> tuple[Any, Any]:
    """The output of one linear layer under the recipe `name`, and the exact product of the same operands."""
    import torch
    import transformer_engine.pytorch as te
    from transformer_engine.common import recipe as recipes

    recipe = getattr(recipes, name)()
    generator = torch.Generator(device="cuda").manual_seed(0)
    random = {"device": "cuda", "dtype": torch.bfloat16, "generator": generator}
    linear = te.Linear(IN_FEATURES, OUT_FEATURES, bias=False, params_dtype=torch.bfloat16, device="cuda")
    with torch.no_grad():
        linear.weight.copy_(torch.randn(OUT_FEATURES, IN_FEATURES, **random) / IN_FEATURES**0.5)
    x = torch.randn(TOKENS, IN_FEATURES, **random)
    # With gradients enabled: without them autocast does not update the scales of DelayedScaling when it ends.
    for _ in range(CALLS):
        context = (
            te.autocast(enabled=True, recipe=recipe)
            if hasattr(te, "autocast")
            else te.fp8_autocast(enabled=True, fp8_recipe=recipe)
        )
        with context:
            result = linear(x)
    return result.detach(), x.double() @ linear.weight.detach().double().T
