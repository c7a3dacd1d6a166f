"""All that is tried on a model, one after the other, and the plan checked if that is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from fp8doctor.checks.ladder.naming import label
from fp8doctor.checks.ladder.outcomes import failure
from fp8doctor.checks.model import plan
from fp8doctor.checks.model.trying.applying import checked
from fp8doctor.checks.model.trying.blocks import kinds_of_blocks
from fp8doctor.checks.model.trying.trials import Trier
from fp8doctor.observed import AS_IT_IS, Check, Model

# A trial is begun if the longest so far fits this often into what is left.
ROOM = 1.5


def all_tried(
    found: Model,
    model: Any,
    step: Callable[[], Any],
    left_s: Callable[[], float],
    *,
    may_import: bool = False,
    check_plan: bool = False,
) -> Iterator[Model]:
    """The record with one trial more at a time; at last what the plan gave in the whole model.

    Args:
        found: what is known of the model, with its timed step.
        model: a torch.nn.Module.
        step: one step, warmed up.
        left_s: how many seconds are left.
        may_import: as for `Trier`.
        check_plan: whether the best configuration is put into the whole model for a moment and measured.
    """
    if found.compiled == "whole":
        yield replace(found, untried="the whole model is compiled at once, so that no block of it can be called alone")
        return
    if len({parameter.device for parameter in model.parameters() if not parameter.is_meta}) > 1:
        yield replace(found, untried="its parameters lie on several devices")
        return
    try:
        blocks = kinds_of_blocks(model, step)
    except Exception as error:
        yield replace(found, untried=str(failure(error)["error"]))
        return
    if not blocks:
        yield replace(found, untried="the step does not call the model's blocks by themselves")
        return
    trier = Trier(found, model, blocks, may_import=may_import)
    yield from tried(trier, model, step, left_s)
    if not check_plan:
        return
    best = plan.best(trier.found)
    if best is None:
        why = "nothing that was tried is faster than the model as it is"
        yield replace(trier.found, check=Check(outcome="refused", detail=why))
    elif left_s() <= 0:
        yield replace(trier.found, check=Check(best.config, "refused", "no time was left for it"))
    else:
        yield replace(trier.found, check=checked(trier, model, step, best))


def tried(trier: Trier, model: Any, step: Callable[[], Any], left_s: Callable[[], float]) -> Iterator[Model]:
    """The record with one trial more at a time.

    Args:
        trier: what tries, with what is known of the model and its timed step.
        model: a torch.nn.Module.
        step: one step, warmed up.
        left_s: how many seconds are left.
    """
    longest = 0.0
    trier.time_outside(model, step)
    configs = trier.configurations()
    for index, config in enumerate(configs):
        if left_s() < ROOM * longest:
            left = [label(one) for one in configs[index:] if one != AS_IT_IS]
            trier.found = replace(trier.found, untried=f"no time was left for {', '.join(left) or 'its blocks'}")
            yield trier.found
            return
        began = time.monotonic()
        if "-fp8" in config and trier.found.gains is None:
            trier.found = replace(trier.found, gains=trier.gains(left_s))
            yield trier.found
        trier.found = replace(trier.found, trials=(*(trier.found.trials or ()), trier.trial(config, step)))
        longest = max(longest, time.monotonic() - began)
        yield trier.found
