"""What is a step made of, and what would it take in a configuration that was not run? Pure functions of facts.

Amdahl's law with measured parts: a step takes its linear layers, its attention and a rest. The rest is what remains of
the measured BF16 step, and stays as it is when the layers change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fp8doctor.checks.attention_times import AttentionTimes
from fp8doctor.checks.attention_times.lookup import DEFAULT
from fp8doctor.checks.attention_times.lookup import device_us as attention_device_us
from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.ladder.winners import ok
from fp8doctor.checks.linear.cases import cases_of
from fp8doctor.checks.linear.facts import Linear
from fp8doctor.checks.training import Training
from fp8doctor.measuring.workloads import LinearUse, Step

# Shapes that were timed must hold this part of the linear layers' multiply-adds, or nothing is estimated.
LEAST_COVERED = 0.9
# An estimate from parts may be off by this much either way: what it was off at most of its measured twins on an H200
# (benchmarks/RESULTS.md).
OFF_BY = 0.10
# With fewer rows a layer stays in BF16 (checks/ladder/climbing.py), unless all have few.
LEAST_ROWS = 16

# Microseconds of a layer in a configuration, None if that was not timed.
LayerTime = Callable[[str, LinearUse], "float | None"]


@dataclass(frozen=True)
class Parts:
    """One step in BF16, taken apart; milliseconds."""

    config: str
    step_ms: float
    linear_ms: float
    # None: not every call of the step was timed, and the rest holds it.
    attention_ms: float | None
    # The part of the linear layers' multiply-adds whose shapes were timed.
    covered: float

    @property
    def rest_ms(self) -> float:
        """Norms, activations, rotations, casts, gaps; what fusing saves may make it less than nothing."""
        return self.step_ms - self.linear_ms - (self.attention_ms or 0.0)

    def most(self) -> float:
        """The speed-up if the linear layers took no time at all."""
        return self.step_ms / max(self.step_ms - self.linear_ms, 1e-9)


def layer_times(step: Step, linear: Linear | None, training: Training | None) -> LayerTime:
    """How long a layer takes, by the probe that timed this kind of step's layers."""
    if step.trains:
        found = {(c.config, c.m, c.k, c.n): c.device_us for c in (training.cases if training else None) or ()}

        def trained(config: str, use: LinearUse) -> float | None:
            value = found.get((config, use.m, use.k, use.n))
            return value.median if value else None

        return trained
    cases = cases_of(linear) if linear else None

    def forward(config: str, use: LinearUse) -> float | None:
        if cases is None or use.m is None or use.k is None or use.n is None:
            return None
        value = cases.device_us(config, use.m, (use.k, use.n))
        return value.median if value else None

    return forward


def converted(step: Step) -> tuple[LinearUse, ...]:
    """The uses that a configuration converts: those with enough rows, or all where none has."""
    uses = step.linears or ()
    wide = tuple(use for use in uses if (use.m or 0) >= LEAST_ROWS)
    return wide or uses


def total_ms(config: str, uses: Iterable[LinearUse], time: LayerTime) -> tuple[float, float]:
    """Milliseconds of all calls that were timed, and the part of the multiply-adds that these are."""
    spent = work = covered = 0.0
    for use in uses:
        amount = float(use.m or 0) * (use.k or 0) * (use.n or 0) * (use.calls or 0)
        work += amount
        us = time(config, use)
        if us is not None:
            covered += amount
            spent += us * (use.calls or 0) / 1e3
    return spent, covered / work if work else 0.0


def attention_ms(step: Step, times: AttentionTimes | None) -> float | None:
    """Milliseconds of all attention calls as torch picks them, None if not all of them were timed."""
    found = 0.0
    for use in step.attentions or ():
        value = attention_device_us(times, DEFAULT, use, trains=bool(step.trains)) if times else None
        if value is None:
            return None
        found += value.median * (use.calls or 0) / 1e3
    return None if step.attentions is None else found


def take_apart(rung: Rung, step: Step, time: LayerTime, times: AttentionTimes | None) -> Parts | None:
    """A measured BF16 step's parts; None if too few of its layers were timed."""
    if rung.step_ms is None or rung.config is None:
        return None
    linear, covered = total_ms(_layer_config(rung.config, time, step), step.linears or (), time)
    if covered < LEAST_COVERED:
        return None
    return Parts(rung.config, rung.step_ms.median, linear, attention_ms(step, times), covered)


def _layer_config(config: str, time: LayerTime, step: Step) -> str:
    """The timed layer that stands for a rung's: its own modifiers where those were timed, else BF16's own."""
    plain = "+".join(part for part in config.split("+") if part in ("torch-bf16", "compile"))
    return plain if total_ms(plain, step.linears or (), time)[1] >= LEAST_COVERED else "torch-bf16"


def estimated_ms(parts: Parts, base: str, step: Step, time: LayerTime) -> float | None:
    """What the step would take with its layers in `base` (a layer's configuration), None if that was not timed.

    Only the difference counts: each converted layer's time against that of its BF16 twin. Layers whose shape was not
    timed in both stay as they are.
    """
    own = _layer_config(parts.config, time, step)
    saved = work = covered = 0.0
    for use in converted(step):
        amount = float(use.m or 0) * (use.k or 0) * (use.n or 0) * (use.calls or 0)
        work += amount
        before, after = time(own, use), time(base, use)
        if before is None or after is None:
            continue
        covered += amount
        saved += (before - after) * (use.calls or 0) / 1e3
    if not work or covered / work < LEAST_COVERED:
        return None
    return max(parts.step_ms - saved, 0.0) or None


def bf16_rungs(ladder: Ladder, step: str) -> dict[str, Rung]:
    """The measured BF16 steps that others are estimated from, by configuration."""
    return {r.config or "": r for r in ok(ladder, step) if (r.config or "").startswith("torch-bf16")}
