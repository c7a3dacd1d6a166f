"""Why was a configuration not measured, or not to its end?"""

from __future__ import annotations

import signal
from importlib.util import find_spec
from typing import Any

from fp8doctor.checks.ladder.conversions import RefusedError
from fp8doctor.checks.ladder.slugs import Config
from fp8doctor.checks.linear.timing import outcome_of
from fp8doctor.checks.transformer_engine.facts import TransformerEngine
from fp8doctor.checks.workload.build import CannotBuildError

# Modules that diffusers' attention backends import (diffusers/models/attention_dispatch.py).
_ATTENTION = {"attention-fa2": "flash_attn", "attention-fa3": "flash_attn_interface"}
# Of an exception's text, what a report shows.
LONGEST_TEXT = 300


def not_here(config: Config, te: TransformerEngine | None) -> str | None:
    """Why a configuration need not be tried: its library is not there, or says that this GPU does not do its recipe."""
    packages = [_ATTENTION[modifier] for modifier in config.modifiers if modifier in _ATTENTION]
    for package in (*([config.library] if config.library else []), *packages):
        if find_spec(package) is None:
            return f"{package} is not installed"
    for recipe in (te.recipes if te else None) or ():
        if recipe.name == config.recipe and recipe.available is False:
            return recipe.reason or "Transformer Engine does not offer this recipe here"
    return None


def failure(error: Exception) -> dict[str, Any]:
    """The `outcome` and the `error` of a configuration in which something was raised."""
    if isinstance(error, (RefusedError, CannotBuildError)):
        return {"outcome": "refused", "error": str(error)[:LONGEST_TEXT]}
    if isinstance(error, ImportError):
        return {"outcome": "refused", "error": f"{type(error).__name__}: {error}"[:LONGEST_TEXT]}
    import torch

    outcome, text = outcome_of(torch, error)
    return {"outcome": outcome, "error": text}


def ended(how: str | None) -> dict[str, Any]:
    """The same of one that ended its process: by `alarm`, or by a signal or an exit of its own."""
    if how == "SIGALRM":
        return {"outcome": "too-long", "error": "it took longer than its share of the budget"}
    return {"outcome": "crashed", "error": f"it ended the process: {how or 'nobody saw how'}"}


def alarm(seconds: float) -> None:
    """End this process in `seconds` (0: never): a compiler inside C++ hears no Python exception."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
