"""Does the advised configuration keep its promise in the whole model? Put there for a moment, and measured.

torch is imported inside: this runs where the model is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

from fp8doctor.checks.ladder.conversions import RefusedError, around
from fp8doctor.checks.ladder.slugs import config_of
from fp8doctor.checks.model.trying.attention import SDPA, with_sdpa
from fp8doctor.checks.model.trying.comparing import first_tensor
from fp8doctor.checks.model.trying.converting import most_common_type, with_code_of_its_own
from fp8doctor.checks.model.trying.placing import in_their_place
from fp8doctor.checks.model.trying.trials import Trier, ended
from fp8doctor.checks.torch_build.numerics import relative_error
from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.stepping import Meter
from fp8doctor.observed import Check, Trial

# Steps are timed for so long, the model as it is before and after, a third of it each.
TIMED_S = 1.5
FEWEST, MOST = 5, 60
WARM_STEPS = 3


def checked(trier: Trier, model: Any, step: Callable[[], Any], trial: Trial) -> Check:
    """Convert all blocks of the model, put them in its place, time the step, and put the model back as it was.

    The converted blocks lie beside the model's own meanwhile. Parameters that train stay the model's own where their
    type allows it, so that an optimizer has as much to do as before.

    Args:
        trier: what tried the configuration on some blocks.
        model: a torch.nn.Module.
        step: one step, warmed up.
        trial: the configuration.
    """
    config = config_of(trial.config or "")
    meter = trier.meter
    first_s: float | None = None
    now: list[float] = []
    try:
        _expect_type(trier, model)
        before = _output(step())
        now += _times(meter, step, TIMED_S / 3)
        replacements: dict[Any, Any] = {}
        own_ones = True
        for block in trier.blocks:
            copies, _, _ = trier.converted(block, config, block.alike)
            if config.compiled:
                with_code_of_its_own(copies)
            for member, copied in zip(block.alike, copies, strict=True):
                own_ones &= not model.training or _tied(copied, member)
                if config.compiled:
                    copied.compile()
                replacements[member] = copied
        with contextlib.ExitStack() as stack:
            if SDPA in config.modifiers:
                stack.enter_context(with_sdpa(model))
            stack.enter_context(in_their_place(model, replacements))
            stack.enter_context(around(config.base, config.modifiers, trier.a_copy(model)))  # type: ignore[arg-type]
            if trier.dtype is trier.torch.float32 and model.training:
                stack.enter_context(trier.torch.autocast(trier.device.type, dtype=trier.torch.bfloat16))
            first_s = meter.first(step)
            then = _times(meter, step, TIMED_S)
            after = _output(step())
        del replacements
        now += _times(meter, step, TIMED_S / 3)
    except Exception as error:
        return Check(trial.config, *ended(error), estimated_ms=trial.step_ms)
    finally:
        if meter.on_gpu:
            trier.torch.cuda.empty_cache()
    return Check(
        config=trial.config,
        outcome="ok",
        detail=None if own_ones else "its parameters are not the optimizer's, whose work is left out",
        step_ms=estimate(then),
        estimated_ms=trial.step_ms,
        as_it_is_ms=estimate(now),
        first_s=round(first_s, 1),
        relative_error=_off(before, after),
    )


def _expect_type(trier: Trier, model: Any) -> None:
    """That the layers between the blocks hand them what they are cast to.

    Raises:
        RefusedError: if they do not.
    """
    mostly = most_common_type(model)
    if mostly not in (None, trier.dtype) and not all(block.around for block in trier.blocks):
        kinds = [str(kind).removeprefix("torch.") for kind in (mostly, trier.dtype)]
        raise RefusedError(f"the model is in {kinds[0]}: its blocks alone cannot be in {kinds[1]}")


def _output(returned: Any) -> Any:
    """The first floating tensor that a step returns, on the host; None if it returns none."""
    try:
        return first_tensor(returned).detach().float().cpu()
    except RefusedError:
        return None


def _off(before: Any, after: Any) -> float | None:
    if before is None or after is None or before.shape != after.shape:
        return None
    error = relative_error(after, before)
    return round(error, 5) if math.isfinite(error) else None


def _times(meter: Meter, step: Callable[[], Any], seconds: float) -> list[float]:
    for _ in range(WARM_STEPS):
        again = meter.first(step)
    return meter.steps_ms(step, max(FEWEST, min(MOST, int(seconds / max(again, 1e-6)))))


def _tied(copied: Any, member: Any) -> bool:
    """Give a copy the parameters of what it was made of, where they are alike; whether all of them are."""
    import torch

    own = dict(member.named_parameters())
    every = True
    for name, parameter in list(copied.named_parameters()):
        before = own.get(name)
        alike = before is not None and before.dtype == parameter.dtype and before.shape == parameter.shape
        if alike and type(before) is torch.nn.Parameter and type(parameter) is torch.nn.Parameter:
            parent, _, last = name.rpartition(".")
            copied.get_submodule(parent)._parameters[last] = before
        else:
            every = False
    return every
