"""What a quick step of a workload leaves of its time serves the others: climbed in real children, on the CPU."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fp8doctor.checks.ladder.climbing import Climber
from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.ladder.probe import LIKE_THE_OTHERS, SPENT, Run
from fp8doctor.checks.ladder.slugs import FORWARD, config_of
from fp8doctor.measuring.stepping import Meter
from fp8doctor.model import Estimate, Request
from fp8doctor.plain import to_plain
from tests.checks.test_ladder_probe import by_config, climbed, record
from tests.ladder_climb import PLAN
from tests.tiny_plans import TINY_LM

BOTH = ("prefill", "decode")
SLUGS = ("torch-bf16", "torch-fp16")


@pytest.fixture(scope="module")
def ladder() -> Ladder:
    """Half of the time is too little for a rung of the first step; the second step needs next to nothing of its own."""
    return record(climbed(SLUGS, seconds_left=60, steps=BOTH, least_s=35.0))


@pytest.mark.torch
def test_a_step_whose_rungs_were_left_out_is_climbed_with_what_the_others_left(ladder: Ladder) -> None:
    for step in BOTH:
        assert {slug: rung.outcome for slug, rung in by_config(ladder, step).items()} == dict.fromkeys(SLUGS, "ok")
    first = [rung.step for rung in ladder.rungs or ()]
    assert first == ["decode", "decode", "prefill", "prefill"], "the one that had no time comes last"


@pytest.mark.torch
def test_what_was_measured_in_the_end_is_not_told_as_left_out(ladder: Ladder) -> None:
    assert ladder.not_measured is None
    assert ladder.attempting is None


@pytest.mark.torch
def test_each_step_is_compared_with_bf16_at_its_end_once(ladder: Ladder) -> None:
    assert sorted(rung.step or "" for rung in ladder.again or ()) == ["decode", "prefill"]


def test_bf16_is_measured_again_also_where_rungs_were_left_out() -> None:
    class Climb:
        """Climbs at once."""

        meter = SimpleNamespace(steps_s=0.0)

        def reference(self) -> None:
            return None

        def climb(self, slug: str, *_: object) -> Rung:
            return Rung(slug, "prefill", "ok")

    run = Run(Request(mode="bench", seconds_left=60.0, rungs=SLUGS), PLAN, None, None)
    run.until_s, run.step_began = 60.0, time.monotonic()
    run.need_s = lambda config: 1e3 if config.base == "torch-fp16" else 1.0  # type: ignore[method-assign]
    list(run._step(Climb(), PLAN.steps[0]))
    assert [rung.config for rung in run.record.rungs or ()] == ["torch-bf16"]
    assert any(SPENT in said for said in run.record.not_measured or ())
    assert [rung.config for rung in run.record.again or ()] == ["torch-bf16"]


@pytest.mark.torch
def test_the_reference_is_run_once() -> None:
    import torch

    climber = Climber(TINY_LM, TINY_LM.steps[0], Meter(torch, torch.device("cpu")))
    first = climber.reference()
    assert climber.reference() is first


# --- what is told, and when ------------------------------------------------------------------------------------------


def run_with(seconds_left: float, *words: str, ended: str | None = None) -> Run:
    """A run of a ladder of which this was told as not measured."""
    so_far = Ladder(
        workload="tiny",
        full=False,
        tokens={step.name: step.tokens for step in PLAN.steps},
        rungs=(Rung("torch-bf16", "prefill", "ok"),),
        not_measured=words or None,
    )
    going_on: dict[str, Any] = {"so_far": to_plain(so_far), "so_far_ended": ended} if ended else {}
    run = Run(Request(mode="bench", seconds_left=seconds_left, **going_on), PLAN, None, None)
    if not ended:
        run.record = replace(run.record, not_measured=words or None)
    return run


def told(run: Run) -> tuple[str, ...]:
    return run.record.not_measured or ()


LEFT = f"torch-fp16 @ prefill: {SPENT}; 1 more need about 25 s (--budget)"
OTHERS = f"torch-fp16 @ decode: {SPENT}; 1 more need about 25 s (--budget)"
FAILED = "torch-fp16 @ prefill: BF16 itself failed"
PREFILL, DECODE = PLAN.steps


def test_only_what_the_time_left_out_of_this_step_is_to_be_measured_yet() -> None:
    run = run_with(600.0, LEFT, OTHERS, FAILED)
    assert run._left(PREFILL)
    assert told(run) == (OTHERS, FAILED)
    assert not run._left(PREFILL), "told once, and once more only if it is left out again"
    assert run._left(DECODE)
    assert told(run) == (FAILED,)


def test_without_time_it_stays_told() -> None:
    run = run_with(10.0, LEFT)
    assert not run._left(PREFILL)
    assert told(run) == (LEFT,)


def test_where_nothing_was_left_out_nothing_changes() -> None:
    run = run_with(600.0)
    assert not run._left(PREFILL)
    assert told(run) == ()


def took(slug: str, seconds: float, first_call_s: float = 0.1, **more: Any) -> Rung:
    """A rung that ran in this time."""
    return Rung(slug, "prefill", "ok", started_s=5.0, ended_s=5.0 + seconds, first_call_s=first_call_s, **more)


def test_combinations_that_the_time_left_out_are_tried_too() -> None:
    times = {"torch-bf16": 3.0, "torch-fp16": 2.0}
    singles = [took(slug, 1.0, step_ms=Estimate(ms, ms, ms, 20)) for slug, ms in times.items()]
    others = [Rung(slug, "prefill", "refused", "not here") for slug in FORWARD if slug not in times]
    run = run_with(600.0)
    for tried, fits in (((), True), (("torch-fp16+cudagraph",), False)):
        more = [Rung(slug, "prefill", "refused", "CUDA graphs need a GPU") for slug in tried]
        left = f"torch-fp16+cudagraph @ prefill: {SPENT}; 1 more need about 25 s (--budget)"
        run.record = replace(run.record, rungs=(*singles, *others, *more), not_measured=(left,))
        assert run._left(PREFILL) is fits
        assert told(run) == (() if fits else (left,))


# --- whether a rung still fits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slug", "like"),
    [
        ("torchao-fp8-rowwise", 6.0),
        ("torchao-fp8-rowwise+compile", 40.0),
        ("torch-bf16+compile+cudagraph", 6.0),
        ("torch-bf16+compile-whole", 40.0),
        ("torchao-fp8-rowwise+compile+tuned", 40.0),
    ],
    ids=["eager", "compiled anew", "its code was made", "the whole model was not compiled", "nor with other settings"],
)
def test_a_rung_needs_what_its_like_took(slug: str, like: float) -> None:
    run = run_with(600.0)
    run.record = replace(
        run.record,
        rungs=(
            took("torch-bf16", 4.0),
            took("torch-fp16", 6.0),
            took("torch-bf16+compile", 40.0, first_call_s=12.0),
            Rung("torchao-int8-dynamic+compile", "prefill", "error", started_s=1.0, ended_s=300.0),
        ),
    )
    assert run.need_s(config_of(slug)) == pytest.approx(LIKE_THE_OTHERS * like)


@pytest.mark.parametrize(
    ("slug", "factor"), [("torchao-fp8-rowwise+compile", 0.9), ("torchao-fp8train-rowwise+compile", 1.3)]
)
def test_in_a_run_of_a_minute_fp8_needs_what_bf16_took_to_compile_as_far_as_was_seen(slug: str, factor: float) -> None:
    run = run_with(60.0)
    run.request = replace(run.request, mode="default")
    run.record = replace(
        run.record, rungs=(took("torch-bf16", 4.0), took("torch-bf16+compile", 20.0, first_call_s=12.0))
    )
    assert run.need_s(config_of(slug)) == pytest.approx(factor * 20.0)


def test_the_first_of_a_kind_needs_what_was_seen_elsewhere() -> None:
    run = run_with(600.0)
    run.record = replace(run.record, rungs=(took("torch-bf16", 4.0),))
    assert run.need_s(config_of("torch-bf16+compile")) == run.least_s
    run.record = replace(run.record, rungs=())
    assert run.need_s(config_of("torch-bf16")) == run.least_s


@pytest.mark.torch
def test_where_the_time_does_not_suffice_in_the_end_each_rung_is_told_once() -> None:
    left = record(climbed(SLUGS, seconds_left=12, steps=BOTH, least_s=9.5)).not_measured or ()
    assert [words.partition(":")[0] for words in left] == [f"{slug} @ {step}" for step in BOTH for slug in SLUGS]


def test_a_fresh_child_tries_what_the_time_left_out_and_does_not_tell_it_twice() -> None:
    run = run_with(600.0, LEFT, OTHERS, FAILED, ended="SIGSEGV")
    assert told(run) == (FAILED,)
    assert run.record.rungs == (Rung("torch-bf16", "prefill", "ok"),)
