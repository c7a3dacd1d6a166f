"""A run keeps its budget whatever hangs, and what is waited for leaves time to what waits."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import pytest

from fp8doctor import store
from fp8doctor.model import Request
from fp8doctor.probing.deadlines import LEAST_S, OVERTIME_S, Deadlines, part_of
from fp8doctor.probing.schedule import Plan, Schedule, child_environment
from fp8doctor.registry import Registry
from fp8doctor.specs import Probe


@pytest.fixture
def probe(trouble: Registry) -> Probe:
    return replace(trouble.probes["trouble"], timeout_s=150)


def test_what_nobody_waits_for_may_overrun_and_the_run_still_ends_ten_seconds_after_its_budget(probe: Probe) -> None:
    clock = Deadlines(17)
    assert clock.together_s(probe, awaited=False, timing_follows=False) == pytest.approx(17 + OVERTIME_S, abs=0.1)
    assert clock.together_s(probe, awaited=True, timing_follows=False) == pytest.approx(17, abs=0.1)
    assert OVERTIME_S <= 10 - 3  # killing, reading on, judging and printing take the rest


def test_before_timing_the_first_phase_gets_its_part_only(probe: Probe) -> None:
    clock = Deadlines(57)
    assert clock.together_s(probe, awaited=True, timing_follows=True) == pytest.approx(0.6 * 57, abs=0.1)
    assert clock.together_s(probe, awaited=False, timing_follows=True) == pytest.approx(0.6 * 57 + OVERTIME_S, abs=0.1)


def test_no_probe_gets_more_than_its_own_limit(probe: Probe) -> None:
    clock = Deadlines(600)
    assert clock.together_s(probe, awaited=False, timing_follows=False) == 150
    assert clock.alone_s(probe, 1.0) == 150


def test_a_probe_that_starts_late_still_gets_time_to_look(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Deadlines(57)
    late = time.monotonic() + 50
    monkeypatch.setattr(time, "monotonic", lambda: late)
    assert clock.together_s(probe, awaited=True, timing_follows=True) == pytest.approx(LEAST_S, abs=0.1)


def test_timing_probes_share_what_is_left(probe: Probe) -> None:
    large, small = replace(probe, share=3.0), replace(probe, share=1.0)
    assert part_of(large, [small]) == 0.75
    assert part_of(replace(probe, share=0.0), []) == 1.0
    assert Deadlines(40).alone_s(large, 0.75) == pytest.approx(30 + OVERTIME_S, abs=0.1)


def test_a_run_in_which_everything_hangs_ends_within_ten_seconds_of_its_budget(trouble: Registry) -> None:
    hanging = {key: replace(one, timeout_s=150) for key, one in trouble.probes.items() if key in ("trouble", "growth")}
    registry = replace(trouble, probes=hanging)
    environment, _ = child_environment([], None)
    request = Request(workload="hangs_ignoring_signals")
    started = time.monotonic()
    runs = Schedule(Plan(registry, request, sys.executable, 1.0, environment, store.decode_facts)).run()
    assert time.monotonic() - started < 1.0 + 10
    assert runs["trouble"].outcome == "timeout"
