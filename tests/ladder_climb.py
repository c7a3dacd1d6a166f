"""A probe that climbs the ladder of a tiny plan on the CPU. Imported in children by its file, as a plug-in is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from fp8doctor.checks.ladder.facts import Ladder
from fp8doctor.checks.ladder.probe import Run
from fp8doctor.checks.workload.catalogue import LLAMA_8B, StepPlan
from fp8doctor.model import Request
from fp8doctor.registry import probe

PLAN = replace(
    LLAMA_8B,
    name="tiny",
    config={"width": 64, "layers": 4, "heads": 4, "kv_heads": 2, "hidden": 128, "vocabulary": 96},
    steps=(
        StepPlan("prefill", "a small prefill", batch=1, sequence=32),
        StepPlan("decode", "one token for each of 16 sequences", batch=16, sequence=1, context=15),
    ),
)


@probe(runs_in="target", timeout_s=60)
def climb(request: Request) -> Iterator[Ladder]:
    """Climbing a small ladder; the workload names its steps, and the seconds that a rung needs at least."""
    asked = json.loads(request.workload or "{}")
    steps = tuple(step for step in PLAN.steps if step.name in asked["steps"])
    run = Run(request, replace(PLAN, steps=steps), None, None)
    run.least_s = asked.get("least_s", 0.2)  # these models are called in milliseconds
    if "least_s" in asked:
        run.need_s = lambda config: run.least_s  # type: ignore[method-assign]
        run._kept_s = lambda step: 0.0  # type: ignore[method-assign]
    yield from run.records()
