"""Ladders built by hand with the times of FLUX on an H200 (tests/boxes/h200-bench-flux.json), and changes to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import fp8doctor.checks.ladder
from fp8doctor.checks.attention_times import AttentionTimes
from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.linear.facts import Case, Linear
from fp8doctor.checks.training.facts import Training, TrainingCase
from fp8doctor.checks.workload import WorkloadSeen
from fp8doctor.judging.advice import advise
from fp8doctor.judging.report import Use
from fp8doctor.measuring.workloads import LinearUse, Step, Workload
from fp8doctor.model import Candidate, Estimate, Exhibit, Facts, Finding, RuleResult
from fp8doctor.registry import Registry

STEP = "denoise"
# Milliseconds of a step, of the host asking for it, seconds of the first call, peak GB.
_FLUX: dict[str, tuple[float, float, float, float]] = {
    "torch-bf16": (174.54, 107.19, 0.172, 24.333),
    "torch-bf16+compile": (134.09, 30.0, 12.35, 24.16),
    "torchao-fp8-rowwise+compile": (101.92, 38.29, 8.748, 15.489),
    "torchao-fp8-tensorwise+compile": (103.73, 46.4, 9.223, 15.481),
    "torchao-fp8-rowwise": (219.39, 202.7, 0.254, 16.536),
    "torchao-fp8-weightonly": (273.59, 212.4, 0.284, 12.865),
    "diffusers-fp8-storage": (205.54, 153.67, 0.205, 15.687),
    "torch-bf16+cudagraph": (171.03, 0.643, 0.171, 23.911),
    "torchao-fp8-rowwise+compile+cudagraph": (101.17, 0.719, 1.378, 15.382),
    "torch-bf16+attention-cudnn": (175.2, 108.19, 0.172, 24.54),
    "torch-bf16+attention-flash": (195.77, 117.74, 0.196, 24.54),
    "torch-bf16+attention-math": (776.42, 534.16, 0.786, 29.155),
    "torch-bf16+lora": (200.77, 151.71, 0.212, 24.671),
    "torch-bf16+lora-fused": (174.32, 107.89, 0.17, 24.536),
}


def ms(median: float, spread: float = 0.01) -> Estimate:
    """A time whose interval is `spread` to each side."""
    return Estimate(median, median * (1 - spread), median * (1 + spread), 20, spread * median)


def rung(config: str, step_ms: float | None, host_ms: float | None = None, **more: Any) -> Rung:
    """A rung that ran and was right; of a compiled one three graphs were made."""
    fp8 = "fp8" in config
    fields: dict[str, Any] = {
        "config": config,
        "step": STEP,
        "outcome": "ok",
        "step_ms": None if step_ms is None else ms(step_ms),
        "host_ms": None if host_ms is None else ms(host_ms),
        "graphs": 3 if "+compile" in config else None,
        "graph_breaks": 0 if "+compile" in config else None,
        "relative_error": 0.034 if fp8 else 0.0,
        "relative_error_limit": 0.57 if fp8 else 0.0436,
    }
    return Rung(**{**fields, **more})


def failed(config: str, outcome: str, why: str, step: str = STEP) -> Rung:
    """A rung that came to nothing."""
    return Rung(config=config, step=step, outcome=outcome, error=why)


FLUX = Ladder(
    workload="flux",
    title="FLUX.1-dev",
    model_class="diffusers.FluxTransformer2DModel",
    tokens={STEP: 4608},
    measurable=True,
    device_name="NVIDIA H200",
    full=False,
    rungs=tuple(
        rung(config, step, host, first_call_s=first, peak_gb=peak)
        for config, (step, host, first, peak) in _FLUX.items()
    ),
)
NO_GPU = Ladder(workload="flux", measurable=False, why_not="torch sees no GPU")


def only(*configs: str, ladder: Ladder = FLUX) -> Ladder:
    """The ladder with these rungs alone."""
    return replace(ladder, rungs=tuple(r for r in ladder.rungs or () if r.config in configs))


def without(*configs: str, ladder: Ladder = FLUX) -> Ladder:
    """The ladder without these rungs."""
    return replace(ladder, rungs=tuple(r for r in ladder.rungs or () if r.config not in configs))


def changed(config: str, step_ms: float | None = None, ladder: Ladder = FLUX, **fields: Any) -> Ladder:
    """The ladder with another time, or other fields, in one rung."""
    if step_ms is not None:
        fields["step_ms"] = ms(step_ms)
    hits = [r for r in ladder.rungs or () if r.config == config]
    assert hits, config
    return replace(ladder, rungs=tuple(replace(r, **fields) if r in hits else r for r in ladder.rungs or ()))


def more(*rungs: Rung, ladder: Ladder = FLUX) -> Ladder:
    """The ladder with these rungs besides."""
    return replace(ladder, rungs=(*(ladder.rungs or ()), *rungs))


# --- a step whose parts were timed ------------------------------------------------------------------------------------

# One shape, called 100 times a step.
USE = LinearUse(4096, 3072, 3072, 100)
SEEN = WorkloadSeen(
    "flux", Workload("flux", "FLUX.1-dev", steps=(Step(STEP, "a step", trains=False, tokens=4608, linears=(USE,)),))
)


def linear(**us: float) -> Linear:
    """The layer's device times in microseconds, by configuration (`torch__bf16_C`: "torch-bf16+compile")."""
    cases = tuple(
        Case(config=_slug(name), kind="layer", m=USE.m, k=USE.k, n=USE.n, outcome="ok", device_us=ms(value))
        for name, value in us.items()
    )
    return Linear(measurable=True, cases=cases)


def training(**us: float) -> Training:
    """The same of the layer with its backward."""
    cases = tuple(
        TrainingCase(config=_slug(name), m=USE.m, k=USE.k, n=USE.n, outcome="ok", device_us=ms(value))
        for name, value in us.items()
    )
    return Training(measurable=True, cases=cases)


def _slug(name: str) -> str:
    return name.replace("_C", "+compile").replace("__", "-")


# --- what is said of them ---------------------------------------------------------------------------------------------

REGISTRY = Registry()
REGISTRY.collect(fp8doctor.checks.ladder)


def given(names: dict[str, Any], ladder: Ladder, facts: tuple[Facts, ...]) -> dict[str, Facts | None]:
    """The parameters that a rule or maker asks for."""
    have: dict[str, Facts | None] = {AttentionTimes.key: None, Linear.key: None, Training.key: None}
    have |= {WorkloadSeen.key: SEEN, Ladder.key: ladder, **{one.key: one for one in facts}}
    return {name: have[need.key] for name, need in names.items()}


def verdict(rule: str, ladder: Ladder, *facts: Facts) -> RuleResult:
    """What the rule with this id says of these facts."""
    spec = REGISTRY.rules[rule]
    return spec.function(**given(spec.needs, ladder, facts))


def findings(rule: str, ladder: Ladder, *facts: Facts) -> list[Finding]:
    """The findings of the rule with this id."""
    result = verdict(rule, ladder, *facts)
    return [item for item in (result if isinstance(result, list) else [result]) if isinstance(item, Finding)]


def finding(rule: str, ladder: Ladder, *facts: Facts) -> Finding:
    """The finding of the rule with this id; it must have one."""
    (found,) = findings(rule, ladder, *facts)
    return found


def candidates(ladder: Ladder, *facts: Facts) -> list[Candidate]:
    """All that competes."""
    made = [m.function(**given(m.needs, ladder, facts)) for m in REGISTRY.makers if m.makes == "candidates"]
    return [one for some in made for one in some]


def use(ladder: Ladder, *facts: Facts) -> tuple[Use, ...]:
    """What is advised."""
    return advise(candidates(ladder, *facts))


def exhibits(ladder: Ladder, *facts: Facts) -> dict[str, Exhibit]:
    """All that there is to look at, by id."""
    made = [m.function(**given(m.needs, ladder, facts)) for m in REGISTRY.makers if m.makes == "exhibit"]
    return {shown.id: shown for shown in made if shown is not None}
