"""What runs when: needs before dependents, timing alone, and no probe's fault is another's."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from fp8doctor import store
from fp8doctor.model import Facts, Mode, ProbeRun, Request
from fp8doctor.probing.children import MAX_RESTARTS
from fp8doctor.probing.deadlines import OVERTIME_S
from fp8doctor.probing.schedule import Event, Plan, Schedule, child_environment
from fp8doctor.registry import Registry
from tests.probing import family

Knowledge = Callable[[str], Registry]


def examined(
    registry: Registry, mode: Mode = "default", budget_s: float = 60, fail: str = "", observe: Any = lambda event: None
) -> dict[str, ProbeRun[Any]]:
    request = Request(mode=mode, workload=fail)
    environment, _ = child_environment([], None)
    return Schedule(Plan(registry, request, sys.executable, budget_s, environment, store.decode_facts, observe)).run()


@pytest.fixture(scope="module")
def whole_run(
    knowledge_in: Knowledge, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, ProbeRun[Any]], list[Event]]:
    """A run of the whole family, in which the left and the right branch go on when both are there."""
    events: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(family.MEETING, str(tmp_path_factory.mktemp("meeting")))
        return examined(knowledge_in("family"), observe=events.append), events


def facts(runs: dict[str, ProbeRun[Any]], key: str) -> Any:
    assert (runs[key].outcome, runs[key].detail) == ("ok", None)
    return runs[key].facts


def test_a_probe_runs_after_what_it_needs_and_is_given_it(whole_run: Any) -> None:
    runs, _ = whole_run
    root, left, right, leaf = (facts(runs, key) for key in ("root", "left", "right", "leaf"))
    assert root.ended < min(left.began, right.began)
    assert max(left.ended, right.ended) < leaf.began
    assert left.given == (f"root: {root.began}",)
    assert leaf.given == (f"left: {left.began}", f"right: {right.began}")
    assert facts(runs, "tolerant").given == ("left: True", "right: ok None")


def test_probes_that_do_not_disturb_one_another_run_side_by_side(whole_run: Any) -> None:
    runs, _ = whole_run
    left, right = facts(runs, "left"), facts(runs, "right")
    assert max(left.began, right.began) < min(left.ended, right.ended)


def test_what_times_the_gpu_runs_alone_in_its_order_and_needs_come_first(whole_run: Any) -> None:
    runs, _ = whole_run
    first, third, second = (facts(runs, key) for key in ("first", "third", "second"))
    others = [facts(runs, key) for key in ("root", "left", "right", "leaf", "tolerant")]
    assert max(other.ended for other in others) < first.began
    assert first.ended < third.began
    assert third.ended < second.began
    assert second.given == (f"third: {third.ended}",)


def test_a_watcher_runs_as_long_as_the_timing_does(whole_run: Any) -> None:
    runs, _ = whole_run
    sensor = facts(runs, "sensor")
    assert sensor.began < facts(runs, "third").ended
    assert sensor.ended > facts(runs, "second").began


def test_what_is_not_part_of_the_mode_is_skipped_and_said(whole_run: Any) -> None:
    runs, _ = whole_run
    assert (runs["thorough"].outcome, runs["thorough"].detail) == ("skipped", "not part of a default run")


def test_each_probe_that_ran_is_announced_when_it_starts_and_when_it_ends(whole_run: Any) -> None:
    runs, events = whole_run
    ran = {key for key, ended in runs.items() if ended.outcome != "skipped"}
    assert {e.key for e in events if e.kind == "started"} == ran
    assert {(e.key, e.outcome) for e in events if e.kind == "ended"} == {(key, "ok") for key in ran}
    assert {e.title for e in events} >= {"The root", "Timed first"}


def test_a_probe_whose_need_failed_is_skipped_with_the_reason_and_the_rest_goes_on(knowledge_in: Knowledge) -> None:
    runs = examined(knowledge_in("family"), fail="right third")
    assert runs["right"].outcome == "exception"
    assert (runs["leaf"].outcome, runs["leaf"].detail) == ("skipped", "it needs right, which ended as exception")
    assert (runs["second"].outcome, runs["second"].detail) == ("skipped", "it needs third, which ended as exception")
    assert facts(runs, "tolerant").given == ("left: True", "right: exception RuntimeError: as asked")
    assert facts(runs, "first")


def test_with_no_time_left_nothing_is_timed_and_it_says_so(knowledge_in: Knowledge) -> None:
    runs = examined(knowledge_in("family"), budget_s=0.1)
    for key in ("first", "second", "third"):
        assert (runs[key].outcome, runs[key].detail) == ("skipped", "the time budget was spent before it")
    assert 0.0 < facts(runs, "leaf").seconds_left <= OVERTIME_S  # what does not time the GPU still gets time to look


def test_probes_that_wait_for_one_another_do_not_hang_the_run(knowledge_in: Knowledge) -> None:
    started = time.monotonic()
    runs = examined(knowledge_in("circle"))
    assert time.monotonic() - started < 15
    assert facts(runs, "bystander").age == 1
    for key in ("hen", "egg", "omelette"):
        assert runs[key].outcome == "skipped"
        assert runs[key].detail == "probes that wait for one another: hen, egg, omelette"
    assert runs["narcissus"].detail == "it needs narcissus, which is not known"
    assert runs["timed_hen"].outcome == "skipped"
    assert runs["timed_egg"].outcome == "skipped"


def test_an_observer_that_fails_costs_no_report(knowledge_in: Knowledge) -> None:
    def observe(event: Event) -> None:
        if event.key == "right" and event.kind == "started":
            raise BrokenPipeError("the terminal is gone")

    runs = examined(knowledge_in("family"), observe=observe)
    assert runs["right"].outcome == "skipped"
    assert "BrokenPipeError" in (runs["right"].detail or "")
    assert facts(runs, "left")


def test_a_registry_without_probes_has_nothing_to_run() -> None:
    none: dict[str, ProbeRun[Facts]] = examined(Registry())
    assert none == {}


# --- shares, workloads, earlier runs ----------------------------------------------------------------------------------


def shared(
    registry: Registry, workload: str | None = None, budget_s: float = 40, **resume: dict[str, Any]
) -> dict[str, ProbeRun[Any]]:
    environment, _ = child_environment([], None)
    request = Request(workload=workload)
    plan = Plan(registry, request, sys.executable, budget_s, environment, store.decode_facts, resume=resume)
    return Schedule(plan).run()


def test_what_times_the_gpu_shares_the_time_that_is_left_with_those_after_it(knowledge_in: Knowledge) -> None:
    runs = shared(knowledge_in("shares"))
    small, large, last = (facts(runs, key).seconds_left for key in ("small", "large", "last"))
    # 40 s less what the children took so far; shares of 1, 2 and 1. What one does not use is the others'.
    assert 7.0 < small <= 40 / 4
    assert small * 2 < large <= 40 * 2 / 3
    assert large < last <= 40


def test_a_probe_is_told_no_more_time_than_it_may_take_at_all(knowledge_in: Knowledge) -> None:
    runs = shared(knowledge_in("shares"), budget_s=4000)
    assert facts(runs, "small").seconds_left == pytest.approx(20, abs=0.1)
    assert facts(runs, "large").seconds_left == pytest.approx(1000, abs=0.1)


def test_what_measures_a_workload_runs_only_where_one_was_named(knowledge_in: Knowledge) -> None:
    without, named = shared(knowledge_in("shares")), shared(knowledge_in("shares"), workload="4")
    assert (without["of_workload"].outcome, without["of_workload"].detail) == (
        "skipped",
        "no workload was named (--for)",
    )
    assert without["of_workload"].facts is None
    # Shares of 1, 6, 2 and 1: it counts where it runs, and takes no one's time where it does not.
    assert facts(named, "small").seconds_left <= 40 / 10
    assert facts(named, "of_workload").seconds_left > 4 * facts(named, "small").seconds_left


def test_a_probe_goes_on_from_the_record_of_an_earlier_run(knowledge_in: Knowledge) -> None:
    runs = shared(knowledge_in("shares"), growing={"counts": [0, 1, 2, 3], "ended": [None]})
    assert facts(runs, "growing").counts == (0, 1, 2, 3)
    fresh = shared(knowledge_in("shares"))["growing"]
    assert fresh.facts is not None
    assert (fresh.outcome, fresh.detail) == ("ok", "went on in a fresh child after: SIGKILL")
    assert fresh.facts.counts == (0, 1, 2, 3)
    assert fresh.facts.ended == (None, "SIGKILL")


def test_an_earlier_record_is_no_record_of_a_crash(knowledge_in: Knowledge) -> None:
    runs = shared(knowledge_in("shares"), workload="5", growing={"counts": [0, 1, 2, 3], "ended": ["SIGSEGV"]})
    assert facts(runs, "growing").ended == ("SIGSEGV", None)


def test_a_probe_that_ends_each_of_its_children_is_given_up_with_what_it_reached(knowledge_in: Knowledge) -> None:
    run = shared(knowledge_in("shares"), workload="1000")["growing"]
    assert run.outcome == "signal"
    assert run.facts is not None
    assert run.facts.counts == tuple(range(MAX_RESTARTS + 1))
