"""What would the configurations take that were not run as a whole step? Estimated from parts, and said so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fp8doctor.checks.attention_times import AttentionTimes
from fp8doctor.checks.ladder.advice import step_title
from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.ladder.naming import how, label, number_format
from fp8doctor.checks.ladder.parts import (
    OFF_BY,
    LayerTime,
    Parts,
    bf16_rungs,
    estimated_ms,
    layer_times,
    take_apart,
)
from fp8doctor.checks.ladder.winners import gains, waits_for_host
from fp8doctor.checks.linear.facts import Linear
from fp8doctor.checks.training import Training
from fp8doctor.checks.workload import WorkloadSeen
from fp8doctor.measuring.workloads import Step
from fp8doctor.model import Action, Candidate, Estimate, Evidence, Exhibit, Finding, NotApplicable, Severity, Unknown
from fp8doctor.registry import candidates, exhibit, rule

FORWARD = ("torchao-fp8-rowwise", "torchao-fp8-tensorwise", "torchao-fp8-weightonly", "torchao-int8-dynamic")
TRAINING = ("torchao-fp8train-tensorwise", "torchao-fp8train-rowwise", "torchao-fp8train-rowwise-gw-hp")
# The forms that a step is measured in, in BF16: an estimate stands beside its own twin.
FORMS = ("", "+compile", "+compile+cudagraph")


@dataclass(frozen=True)
class Estimated:
    """A configuration of a whole step, estimated from its BF16 twin and the layers' times."""

    config: str
    twin: Rung
    ms: float


def apart(
    ladder: Ladder,
    seen: WorkloadSeen,
    linear: Linear | None,
    attention: AttentionTimes | None,
    training: Training | None,
) -> Iterator[tuple[Step, Parts, LayerTime]]:
    """Each step's best BF16 form, taken apart."""
    for step in (seen.workload.steps if seen.workload else None) or ():
        time = layer_times(step, linear, training)
        best: Rung | None = None
        for form in FORMS:
            rung = bf16_rungs(ladder, step.name or "").get(f"torch-bf16{form}")
            if rung is not None and (best is None or gains(best, rung)):
                best = rung
        parts = take_apart(best, step, time, attention) if best else None
        if parts is not None:
            yield step, parts, time


def estimates(ladder: Ladder, step: Step, time: LayerTime) -> list[Estimated]:
    """All configurations whose layers were timed, in each form whose BF16 twin was measured as a whole step.

    None from a twin that waits for the host: shorter kernels do not make it shorter.
    """
    found = []
    rungs = bf16_rungs(ladder, step.name or "")
    for base in TRAINING if step.trains else FORWARD:
        for form in FORMS:
            twin = rungs.get(f"torch-bf16{form}")
            parts = take_apart(twin, step, time, None) if twin else None
            if twin is None or parts is None or waits_for_host(twin):
                continue
            ms = estimated_ms(parts, f"{base}+compile" if form else base, step, time)
            if ms is not None:
                found.append(Estimated(f"{base}{form}", twin, ms))
    return found


@candidates
def unmeasured(
    ladder: Ladder, workload: WorkloadSeen, linear: Linear | None, training: Training | None
) -> list[Candidate]:
    """Configurations that were not run as a whole step, estimated from their layers."""
    found = []
    for step in (workload.workload.steps if workload.workload else None) or ():
        tried = {rung.config for rung in ladder.rungs or () if rung.step == step.name}
        for item in estimates(ladder, step, layer_times(step, linear, training)):
            if item.config not in tried:
                found.append(_candidate(ladder, step, item))
    return found


def _candidate(ladder: Ladder, step: Step, item: Estimated) -> Candidate:
    us = 1e3 * item.ms
    return Candidate(
        task=f"{ladder.workload} {step.name}",
        config=item.config,
        label=label(item.config),
        format=number_format(item.config),
        how=how(item.config, ladder.model_class, trains=bool(step.trains)),
        basis="estimated",
        call_us=Estimate(round(us, 1), round((1 - OFF_BY) * us, 1), round((1 + OFF_BY) * us, 1), 1),
        # Its layers' results were compared when they were timed; one that is wrong is no candidate there.
        error=0.0,
        requires=(item.config.partition("-")[0],),
        workload=ladder.workload,
        when=step_title(ladder.workload, step.name),
    )


@exhibit
def where_it_goes(
    ladder: Ladder,
    workload: WorkloadSeen,
    linear: Linear | None,
    attention: AttentionTimes | None,
    training: Training | None,
) -> Exhibit | None:
    """Each step in BF16, taken apart, and what its configurations are estimated to take."""
    rows: list[dict[str, Any]] = []
    for step, parts, time in apart(ladder, workload, linear, attention, training):
        measured = {r.config: r.step_ms.median for r in ladder.rungs or () if r.step == step.name and r.step_ms}
        rows.append(_row(step, parts.config, parts.step_ms, None, _shares(parts)))
        rows += [
            _row(step, item.config, measured.get(item.config), item.ms, f"from {item.twin.config}")
            for item in estimates(ladder, step, time)
        ]
    title = "where a step goes, and what it is estimated to take"
    return Exhibit("ladder-parts", "table", title, "ms", tuple({"cells": row} for row in rows)) if rows else None


def _shares(parts: Parts) -> str:
    shares = {"linear layers": parts.linear_ms, "attention": parts.attention_ms}
    words = [f"{name} {ms / parts.step_ms:.0%}" for name, ms in shares.items() if ms is not None]
    rest = "rest" if parts.attention_ms is not None else "attention (not timed) and rest"
    return ", ".join([*words, f"{rest} {parts.rest_ms / parts.step_ms:.0%}"])


def _row(step: Step, config: str, measured: float | None, estimated: float | None, words: str) -> dict[str, Any]:
    return {
        "step": step.name,
        "config": config,
        "measured ms": None if measured is None else round(measured, 2),
        "estimated ms": None if estimated is None else round(estimated, 2),
        "how": words,
    }


@rule("LAD001", "linear-share-of-step", Severity.INFO, scope="usage")
def linear_share(
    ladder: Ladder,
    workload: WorkloadSeen,
    linear: Linear | None,
    attention: AttentionTimes | None,
    training: Training | None,
) -> list[Finding] | Unknown | NotApplicable | None:
    """How much of a step is linear layers bounds what FP8 can give.

    What it means: FP8 makes the linear layers faster, and leaves attention, norms, activations and gaps as they are.
    A step whose linear layers take 60 % of the time runs at most 2.5 times as fast, were they free.

    Why it costs time: it does not; it says how far FP8 in linear layers can go here.

    What to do: compare the gain that was reached with this bound. Where attention or the rest holds the time, look
    there: a faster attention backend, compiling, a CUDA graph.

    Sources: Amdahl, "Validity of the single processor approach" (AFIPS 1967), with parts measured on this box: the
    step as a whole, its linear layers and attention by themselves at the same shapes.
    """
    if ladder.measurable is False:
        return NotApplicable(ladder.why_not or "no step was measured")
    found = [
        Finding(
            title=f"{ladder.workload}, {step.name}: linear layers are {parts.linear_ms / parts.step_ms:.0%} of the best"
            f" BF16 step, so FP8 in them gives less than {parts.most():.1f}x",
            evidence=(
                Evidence(f"{parts.config}: {parts.step_ms:.2f} ms a step", parts.step_ms, "ms", "ladder.rungs"),
                Evidence(f"linear layers by themselves: {parts.linear_ms:.2f} ms", parts.linear_ms, "ms"),
                *_beside(parts),
            ),
            actions=(Action("Compare what FP8 reached with this bound before tuning it further"),),
            about=f"step:{step.name}",
        )
        for step, parts, _ in apart(ladder, workload, linear, attention, training)
    ]
    return found or Unknown("the layers of the step were not timed by themselves")


def _beside(parts: Parts) -> tuple[Evidence, ...]:
    """What a step holds beside its linear layers; what was not timed is no zero."""
    rest = parts.rest_ms
    if parts.attention_ms is None:
        return (Evidence(f"attention, which was not timed, and the rest: {rest:.2f} ms", rest, "ms"),)
    attention = Evidence(f"attention by itself: {parts.attention_ms:.2f} ms", parts.attention_ms, "ms")
    return attention, Evidence(f"the rest: {rest:.2f} ms", rest, "ms")
