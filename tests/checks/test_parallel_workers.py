"""Workers of several GPUs, on CPUs with gloo: what they measure together, and what one that fails costs."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.parallel.facts import Parallel, ParallelStep
from fp8doctor.checks.parallel.plan import BF16, DATA, FP8, SHARDED, SINGLE, TENSOR, Case, Sizes, cases
from fp8doctor.checks.parallel.probe import Run, resumed
from fp8doctor.checks.parallel.starting import Crew, together
from fp8doctor.model import Request
from fp8doctor.plain import to_plain
from fp8doctor.variables import RUN_MARK

pytestmark = pytest.mark.torch
TINY = Sizes(
    width=64,
    hidden=128,
    heads=4,
    kv_heads=2,
    blocks=2,
    vocabulary=64,
    tokens=32,
    collective_bytes=(4096,),
    collective_samples=3,
    steps_s=0.01,
    fewest_steps=2,
    most_steps=3,
    compiled=False,
    backend="gloo",
)
ENOUGH_S = 100.0


def test_two_workers_from_their_start_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One start for all that two workers are asked: each imports torch."""
    monkeypatch.setenv(RUN_MARK, "this-run")
    crew = Crew(2, TINY)
    try:
        assert together(crew.start(ENOUGH_S)) == {"outcome": "ok"}
        however_a_step_is_spread_it_computes_what_one_process_computes(crew)
        collectives_are_timed_with_the_size_that_they_had(crew)
        a_case_that_is_refused_leaves_the_workers_able_to_meet_again(crew)
        a_worker_that_hangs_and_one_that_dies_cost_their_case_alone(crew)
    finally:
        processes = [worker.process for worker in crew._workers]
        crew.end()
    assert all(process.returncode is not None for process in processes)


def asked(crew: Crew, case: Case) -> dict[str, Any]:
    return together(crew.ask(case, ENOUGH_S))


def however_a_step_is_spread_it_computes_what_one_process_computes(crew: Crew) -> None:
    alone = asked(crew, Case("step", 1, SINGLE, BF16))
    assert alone["outcome"] == "ok", alone
    assert alone["step_ms"]["median"] > 0
    for parallelism in (DATA, SHARDED, TENSOR):
        spread = asked(crew, Case("step", 2, parallelism, BF16))
        assert spread["outcome"] == "ok", spread
        # BF16 itself rounds by 2**-9.
        assert spread["relative_error"] < 0.03, parallelism
        assert spread["loss"] == pytest.approx(alone["loss"], rel=0.01)
    again = asked(crew, Case("step", 1, SINGLE, BF16))
    assert again["loss"] == alone["loss"], "a group that was left is joined again"


def collectives_are_timed_with_the_size_that_they_had(crew: Crew) -> None:
    for name in ("all-reduce", "all-gather", "reduce-scatter"):
        taken = asked(crew, Case("collective", 2, collective=name, dtype="bf16", size_bytes=4096))
        assert (taken["outcome"], taken["elements"], taken["size_bytes"]) == ("ok", 2048, 4096)
        assert taken["time_us"]["median"] > 0


def a_case_that_is_refused_leaves_the_workers_able_to_meet_again(crew: Crew) -> None:
    refused = asked(crew, Case("collective", 2, collective="no-such-collective", dtype="bf16", size_bytes=64))
    assert refused["outcome"] == "error"
    assert "no-such-collective" in refused["error"]
    after = asked(crew, Case("collective", 2, collective="all-reduce", dtype="bf16", size_bytes=64))
    assert after["outcome"] == "ok", after


def a_worker_that_hangs_and_one_that_dies_cost_their_case_alone(crew: Crew) -> None:
    case = Case("collective", 2, collective="all-reduce", dtype="bf16", size_bytes=64)
    second = crew._workers[1].process
    environment = Path(f"/proc/{second.pid}/environ").read_bytes().split(b"\0")
    assert f"{RUN_MARK}=this-run".encode() in environment, "or the end of the run would not find it"
    second.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    answers = crew.ask(case, 2.0)
    assert time.monotonic() - began < 4.0
    assert together(answers)["outcome"] == "hung"
    second.kill()
    told = together(crew.ask(case, 4.0))
    assert told["outcome"] == "crashed"
    assert told["error"].startswith("GPU 1: signal 9")


def test_the_whole_measurement_ends_and_tells_what_it_left() -> None:
    sizes = Sizes(**{**to_plain(TINY), "collective_bytes": ()})
    request = Request(seconds_left=2.0, epoch_s=time.monotonic())
    records = list(Run(request, ("CPU", "CPU"), sizes).records())
    last = records[-1]
    assert last.attempting is None
    assert last.steps == ()
    assert f"{FP8} @ {TENSOR}, 2 GPUs: the time budget was spent" in (last.not_measured or ())


def test_a_child_that_ended_is_told_and_what_it_had_is_kept() -> None:
    began = Parallel(measurable=True, collectives=(), steps=(), attempting=f"{BF16} @ {DATA}, 2 GPUs")
    request = Request(so_far=to_plain(began), so_far_ended="signal 11 (SIGSEGV)")
    record = resumed(request, ("a", "b"), TINY)
    assert record.not_measured == (f"{BF16} @ {DATA}, 2 GPUs: the child ended by signal 11 (SIGSEGV)",)
    assert record.attempting is None


def test_after_a_worker_died_new_ones_go_on_with_the_rest() -> None:
    done = tuple(
        ParallelStep(case.parallelism, case.config, case.gpus, outcome="refused")
        for case in cases(2, TINY)
        if case.do == "step"
    )
    request = Request(
        seconds_left=ENOUGH_S, epoch_s=time.monotonic(), so_far=to_plain(Parallel(measurable=True, steps=done))
    )
    run = Run(request, ("CPU", "CPU"), TINY, most_s=ENOUGH_S)
    record = Parallel()
    for place, record in enumerate(run.records()):  # noqa: B007  (the last one is looked at)
        if place == 1:
            assert run.crew is not None
            run.crew._workers[0].process.kill()
    outcomes = [found.outcome for found in record.collectives or ()]
    assert outcomes == ["ok", "crashed", "ok", "ok"]
    assert run.starts == 2
    assert record.steps == done
    assert all((found.started_s or 0) < (found.ended_s or 0) for found in record.collectives or ())
