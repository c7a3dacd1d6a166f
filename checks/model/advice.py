"""Which configuration should this model run in, and in which steps does one get there?"""

from __future__ import annotations

from fp8doctor.checks.ladder.advice import microseconds
from fp8doctor.checks.ladder.winners import SIXTEEN_BIT
from fp8doctor.checks.model import plan
from fp8doctor.checks.model.code import code
from fp8doctor.measuring.statistics import interval_text, speedup
from fp8doctor.model import Candidate, Estimate, Exhibit
from fp8doctor.observed import AS_IT_IS, Check, Model, Trial
from fp8doctor.registry import candidates, exhibit

# An estimate of the step that is further off than this is said to be.
FAR_OFF = 0.10


@candidates
def configurations(model: Model) -> list[Candidate]:
    """The model as it is, and what was tried on its blocks and was right, as a whole step.

    Of a model in FP8 alone, with nothing in 16 bits beside it, nobody knows whether it gains.
    """
    trials = plan.competing(model)
    formats = {plan.format_of(model, trial) for trial in plan.right(model).values()}
    if [trial.config for trial in trials] == [AS_IT_IS] and not formats & set(SIXTEEN_BIT):
        return []
    return [_candidate(model, trial) for trial in trials]


def _candidate(model: Model, trial: Trial) -> Candidate:
    config = trial.config or ""
    as_it_is = config == AS_IT_IS
    format_ = plan.format_of(model, trial)
    return Candidate(
        task="step of this model",
        config=config,
        label="the model as it is" if as_it_is else trial.label or "",
        format=format_,
        how="" if as_it_is else code(model, trial),
        basis="measured" if as_it_is else "estimated",
        call_us=microseconds(trial.step_ms),
        # Where nobody could compare the model as it is, it competes all the same.
        error=0.0 if as_it_is and trial.error_limit is None else trial.relative_error,
        error_limit=trial.error_limit,
        requires=() if as_it_is else (config.partition("-")[0],),
        baseline=format_ in SIXTEEN_BIT,
        workload=_short(model),
        when="one step on this CPU" if model.on_cpu else "one step",
    )


def _short(model: Model) -> str:
    return (model.class_name or "this model").rpartition(".")[2]


@exhibit
def plan_bars(model: Model) -> Exhibit | None:
    """What a step takes after each change of the plan; beside where a step's time goes, hence the id's first word."""
    steps = plan.changes(model)
    if not steps or model.run is None or model.run.step_ms is None:
        return None
    rows: list[tuple[str, float, float | None]] = [("as it is", model.run.step_ms.median, None)]
    rows += [
        (f"{index}. {change.short}", change.step_ms.median, change.so_far.median)
        for index, change in enumerate(steps, 1)
    ]
    check = _check_of(model, steps)
    if check and check.step_ms and _was_measured(check):
        gain = _measured_gain(check)
        rows.append(("all of it, measured", check.step_ms.median, gain.median if gain else None))
    return Exhibit(
        id="step-plan",
        kind="bars",
        title="the plan, each change after the one before: ms a step, estimated by the model's blocks"
        + _not_measured(check),
        unit="ms",
        rows=tuple(
            {
                "label": label,
                "value": round(ms, 2),
                "start": 0,
                "ratio": None if ratio is None else round(ratio, 3),
                "low": None,
                "high": None,
            }
            for label, ms, ratio in rows
        ),
        answers_why=True,
    )


@exhibit
def plan_table(model: Model) -> Exhibit | None:
    """What to change, in this order, and what each change gives."""
    steps = plan.changes(model)
    if not steps:
        return None
    rows = [
        {
            "change": f"{index}. {change.text}",
            "ms a step": interval_text(change.step_ms),
            "gain": f"{change.gain.median:.2f}x",
            "so far": _over(change.so_far),
            "known by": "its blocks",
        }
        for index, change in enumerate(steps, 1)
    ]
    if (check := _check_of(model, steps)) is not None:
        rows.append(_checked(check))
    return Exhibit(
        id="model-plan",
        kind="table",
        title="the plan: what to change, one after the other (the code is above)",
        unit="ms",
        rows=tuple({"cells": row} for row in rows),
    )


def _check_of(model: Model, steps: list[plan.Change]) -> Check | None:
    """What the plan gave in the whole model; another configuration's time there is among what was tried."""
    return model.check if model.check is not None and model.check.config == steps[-1].config else None


def _not_measured(check: Check | None) -> str:
    """Why a plan that was to be measured in the whole model was not; nothing where it was, or nobody asked for it."""
    if check is None or _was_measured(check):
        return ""
    return f" (not measured in the whole model: {check.detail or check.outcome})"


def _was_measured(check: Check) -> bool:
    return check.outcome == "ok" and check.step_ms is not None and check.step_ms.low > 0


def _measured_gain(check: Check) -> Estimate | None:
    """Over the model as it is, measured directly before and after; None where a part of the step was left out."""
    if check.step_ms is None or check.as_it_is_ms is None or check.detail is not None:
        return None
    return speedup(check.as_it_is_ms, check.step_ms)


def _checked(check: Check) -> dict[str, str]:
    """The plan in the whole model, as it was measured."""
    measured = _was_measured(check)
    gain = _measured_gain(check) if measured else None
    return {
        "change": "all of it in the whole model",
        "ms a step": interval_text(check.step_ms) if measured else "",
        "gain": "",
        "so far": _over(gain) if gain else "",
        "known by": _how_measured(check) if measured else ": ".join(filter(None, (check.outcome, check.detail))),
    }


def _how_measured(check: Check) -> str:
    if check.detail is not None:
        return f"measured; {check.detail}"
    if check.step_ms is None or check.estimated_ms is None:
        return "measured"
    off = abs(check.estimated_ms.median / check.step_ms.median - 1)
    return f"measured; the estimate was {100 * off:.0f} % off" if off > FAR_OFF else "measured"


def _over(gain: Estimate) -> str:
    return f"{gain.median:.2f}x [{gain.low:.2f}, {gain.high:.2f}]"


@exhibit
def tried_table(model: Model) -> Exhibit | None:
    """What each configuration makes of the step."""
    trials = [trial for trial in model.trials or () if trial.config]
    if len(trials) < 2:
        return None
    first = next((t.step_ms.median for t in trials if t.config == AS_IT_IS and t.step_ms), None)
    return Exhibit(
        id="model-trials",
        kind="table",
        title="the step in other configurations, by its blocks (all else as it is)",
        unit="ms",
        rows=tuple({"cells": _cells(trial, first)} for trial in trials),
    )


def _cells(trial: Trial, first: float | None) -> dict[str, str]:
    step = trial.step_ms
    over = f"{first / step.median:.2f}x" if first and step else ""
    how = "by its blocks" if step else (trial.detail or trial.outcome or "")
    if trial.config == AS_IT_IS:
        how = "measured"
    known = trial.relative_error is not None and trial.error_limit is not None
    error = f"{trial.relative_error:.3f} of {trial.error_limit:.2f}" if known else ""
    return {
        "configuration": trial.label or trial.config or "",
        "ms a step": f"{step.median:,.2f}" if step else "",
        "over as it is": over,
        "error": error,
        "how it is known": how if trial.outcome != "wrong" else "wrong",
    }
