"""Which configuration should this model run in, and what does each change give?"""

from __future__ import annotations

from fp8doctor.checks.ladder.advice import microseconds
from fp8doctor.checks.ladder.naming import number_format
from fp8doctor.checks.ladder.winners import SIXTEEN_BIT
from fp8doctor.checks.model.trying import AS_IT_IS
from fp8doctor.model import Candidate, Exhibit
from fp8doctor.observed import Model, Trial
from fp8doctor.registry import candidates, exhibit

_CLASSES = {
    "torchao-fp8-rowwise": "granularity=q.PerRow()",
    "torchao-fp8-tensorwise": "granularity=q.PerTensor()",
}
_RECIPES = {"torchao-fp8train-tensorwise": "tensorwise", "torchao-fp8train-rowwise": "rowwise"}


@candidates
def configurations(model: Model) -> list[Candidate]:
    """Every configuration that was tried on the blocks and was right, as a whole step."""
    return [
        Candidate(
            task="step of this model",
            config=trial.config or "",
            label=trial.label or "",
            format=number_format(trial.config or ""),
            how=code(model, trial.config or ""),
            basis="estimated",
            call_us=microseconds(trial.step_ms),
            error=trial.relative_error,
            error_limit=trial.error_limit,
            requires=((trial.config or "").partition("-")[0],),
            baseline=number_format(trial.config or "") in SIXTEEN_BIT,
            workload=_short(model),
            when="one step",
        )
        for trial in model.trials or ()
        if trial.outcome == "ok" and trial.step_ms is not None and trial.config != AS_IT_IS
    ]


def _short(model: Model) -> str:
    return (model.class_name or "this model").rpartition(".")[2]


def code(model: Model, config: str) -> str:
    """Code to paste that puts the BF16 model into a configuration, block by block."""
    base, *modifiers = config.split("+")
    lists = [f"model.{blocks.name}" if blocks.name else "model" for blocks in model.blocks or ()]
    blocks = lists[0] if len(lists) == 1 else f"[{', '.join(f'*{one}' for one in lists)}]"
    lines = []
    if base in _CLASSES:
        lines += [
            "import torchao.quantization as q",
            "config = q.Float8DynamicActivationFloat8WeightConfig(",
            f"    {_CLASSES[base]}, set_inductor_config=False)",
        ]
    if base in _RECIPES:
        lines += [
            "from torchao.float8 import Float8LinearConfig, convert_to_float8_training",
            f'config = Float8LinearConfig.from_recipe_name("{_RECIPES[base]}")',
        ]
    body = []
    if base in _CLASSES:
        body.append("q.quantize_(block, config, filter_fn=wanted)")
    if base in _RECIPES:
        body.append("convert_to_float8_training(block, config=config, module_filter_fn=wanted)")
    if body:
        lines += [
            "def wanted(module, name):  # sizes that FP8 takes, and no modulation",
            "    return isinstance(module, torch.nn.Linear) and 'norm' not in name and not (",
            "        module.in_features % 16 or module.out_features % 16)",
        ]
    if "compile" in modifiers:
        body.append("block.compile()")
    if body:
        lines += [f"for block in {blocks}:", *(f"    {line}" for line in body)]
    return "\n".join(lines)


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
    how = "measured" if trial.config == AS_IT_IS else "by its blocks" if step else (trial.detail or trial.outcome or "")
    known = trial.relative_error is not None and trial.error_limit is not None
    error = f"{trial.relative_error:.3f} of {trial.error_limit:.2f}" if known else ""
    return {
        "configuration": trial.label or trial.config or "",
        "ms a step": f"{step.median:,.2f}" if step else "",
        "over as it is": over,
        "error": error,
        "how it is known": how if trial.outcome != "wrong" else "wrong",
    }
