"""Which configurations compete for training a linear layer, and the table of them."""

from __future__ import annotations

from fp8doctor.checks.linear.cases import waits_for_host
from fp8doctor.checks.linear.facts import Case
from fp8doctor.checks.training.cases import Trained
from fp8doctor.checks.training.facts import Training, TrainingCase
from fp8doctor.checks.training.recipes import named
from fp8doctor.measuring.statistics import interval_text, speedup
from fp8doctor.model import Candidate, Exhibit
from fp8doctor.registry import candidates, exhibit

TASK = "linear-training"
_NAMES = {
    "torch-bf16": "BF16 training",
    "torchao-fp8train-tensorwise": "torchao float8 training, tensor-wise",
    "torchao-fp8train-rowwise": "torchao float8 training, row-wise",
    "torchao-fp8train-rowwise-gw-hp": "torchao float8 training, row-wise with the weight's gradient in 16 bits",
}
_CONVERT = """from torchao.float8 import Float8LinearConfig, convert_to_float8_training
config = Float8LinearConfig.from_recipe_name("{recipe}")
convert_to_float8_training(model, config=config)"""


def label(config: str) -> str:
    """A configuration's slug in words."""
    base, _, compiled = config.partition("+")
    return _NAMES.get(base, base) + (" + torch.compile" if compiled else "")


def how(config: str) -> str:
    """The code that gets a configuration."""
    recipe = named(config)
    lines = [_CONVERT.format(recipe=recipe.torchao) if recipe and recipe.torchao else "model.to(torch.bfloat16)"]
    return "\n".join(lines + (["model = torch.compile(model)"] if config.endswith("+compile") else []))


@candidates
def trained(training: Training) -> list[Candidate]:
    """Every timed training step."""
    timed = [c for c in training.cases or () if c.outcome == "ok" and c.device_us and c.m and c.k and c.n]
    return [_candidate(case) for case in timed]


def _candidate(case: TrainingCase) -> Candidate:
    """A timed case as a candidate; a compiled model pays the host's time once, so there the device's time counts."""
    config = case.config or ""
    error, limit = _worst(case)
    clocks = Case(device_us=case.device_us, call_us=case.call_us, host_us=case.host_us)
    return Candidate(
        task=TASK,
        config=config,
        label=label(config),
        format="fp8" if "fp8" in config else "bf16",
        how=how(config),
        shape={"k": case.k or 0, "n": case.n or 0},
        sweep=case.m,
        device_us=case.device_us,
        call_us=case.call_us,
        waits_for_host=waits_for_host(clocks) and "+" not in config,
        error=error,
        error_limit=limit,
        requires=(config.partition("-")[0],),
        baseline=config.startswith("torch-bf16"),
        doing="training",
    )


def _worst(case: TrainingCase) -> tuple[float | None, float | None]:
    """Of the three results the one that is most wrong for its format: its error, and the most that is explained.

    None for the error if one of them is not finite.
    """
    if case.error is not None:
        return None, None
    parts = (
        (case.output_error, case.output_limit),
        (case.input_grad_error, case.input_grad_limit),
        (case.weight_grad_error, case.weight_grad_limit),
    )
    judged = [(error, limit) for error, limit in parts if error is not None and limit]
    return max(judged, key=lambda pair: pair[0] / pair[1], default=(case.output_error, None))


@exhibit
def every_step(training: Training) -> Exhibit | None:
    """Every timed training step: its times, its factor over the best BF16, its errors, its products."""
    found = Trained(training)
    rows = []
    for case in training.cases or ():
        if not (case.config and case.m and case.k and case.n and case.device_us):
            continue
        bf16 = found.bf16((case.m, case.k, case.n))
        factor = f"{speedup(bf16[1], case.device_us).median:.2f}x" if bf16 else ""
        rows.append(
            {
                "cells": {
                    "forward and backward": case.config,
                    "M x K x N": f"{case.m}x{case.k}x{case.n}",
                    "device us": interval_text(case.device_us),
                    "of best BF16": factor,
                    "call us": interval_text(case.call_us),
                    "errors (output, input, weight)": ", ".join(
                        "?" if error is None else f"{error:.4f}"
                        for error in (case.output_error, case.input_grad_error, case.weight_grad_error)
                    ),
                    "products": ", ".join(f"{count} {kind}" for kind, count in sorted((case.products or {}).items())),
                }
            }
        )
    title = "training one linear layer: median [95 % interval]"
    return Exhibit("training-cases", "table", title, "us", tuple(rows)) if rows else None
