"""What is worth looking at: what FP8 gains by the number of GPUs, and what collectives take."""

from __future__ import annotations

from typing import Any

from fp8doctor.checks.parallel.cases import WORDS, Measured, exposed_share
from fp8doctor.checks.parallel.facts import Collective, Parallel, ParallelStep
from fp8doctor.checks.parallel.plan import DATA, SHARDED, SINGLE, TENSOR
from fp8doctor.measuring.statistics import interval_text
from fp8doctor.model import Exhibit
from fp8doctor.registry import exhibit


@exhibit
def gain_by_gpus(parallel: Parallel) -> Exhibit | None:
    """FP8's factor over BF16 by the number of GPUs, a line for each way to spread the step."""
    measured = Measured(parallel)
    rows: list[dict[str, Any]] = []
    alone = measured.single()
    for spread in (DATA, SHARDED, TENSOR):
        found = [gain for n in measured.numbers(spread) if (gain := measured.gain(spread, n)) is not None]
        if alone is not None and found:
            found.insert(0, alone)
        for gain in found:
            factor = gain.factor
            rows.append(
                {"series": WORDS[spread], "x": gain.gpus, "y": factor.median, "low": factor.low, "high": factor.high}
            )
    if not rows:
        return None
    title = "what FP8 keeps of its gain on several GPUs, forward and backward, over BF16 spread alike"
    return Exhibit("parallel-gain", "lines", title, "x", tuple(rows), x_title="GPUs", x_is_log=True)


@exhibit
def steps(parallel: Parallel) -> Exhibit | None:
    """Every step that was tried on several GPUs."""
    found = parallel.steps or ()
    if not any(step.parallelism != SINGLE for step in found):
        return None
    rows = tuple({"cells": _step_cells(step)} for step in found)
    return Exhibit("parallel-steps", "table", "training steps on several GPUs", "", rows)


def _step_cells(step: ParallelStep) -> dict[str, str]:
    share = exposed_share(step)
    return {
        "spread": WORDS.get(step.parallelism or "", step.parallelism or ""),
        "configuration": step.config or "",
        "GPUs": str(step.gpus),
        "step, ms": interval_text(step.step_ms) or (step.outcome or ""),
        "communication alone": "" if share is None else f"{share:.0%}",
        "error": "" if step.relative_error is None else f"{step.relative_error:.3f}",
    }


@exhibit
def collectives(parallel: Parallel) -> Exhibit | None:
    """What collectives take, and the bandwidths that follow."""
    found = parallel.collectives or ()
    if not found:
        return None
    rows = tuple({"cells": _collective_cells(one)} for one in found)
    return Exhibit("parallel-collectives", "table", "collectives, call after call", "", rows)


def _collective_cells(one: Collective) -> dict[str, str]:
    rate = one.algorithm_gb_s is not None and one.bus_gb_s is not None
    return {
        "operation": one.name or "",
        "GPUs": str(one.gpus),
        "sent as": one.dtype or "",
        "size": f"{(one.size_bytes or 0) / (1 << 20):,.4g} MiB",
        "time, us": interval_text(one.time_us) or (one.outcome or ""),
        "algorithm, GB/s": f"{one.algorithm_gb_s:,.1f}" if rate else "",
        "bus, GB/s": f"{one.bus_gb_s:,.1f}" if rate else "",
    }
