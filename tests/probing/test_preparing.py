"""Children that start early and import while they wait: whatever goes wrong there, the probe has its turn."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from fp8doctor.model import ProbeRun
from fp8doctor.probing.children import importable_here, start_child
from fp8doctor.probing.process import Child
from fp8doctor.probing.schedule import child_environment
from fp8doctor.registry import Registry

Run = Callable[..., ProbeRun[Any]]
Start = Callable[..., Child]


@pytest.fixture
def start(trouble: Registry) -> Start:
    """Start a child that prepares, and wait until it is ready or gone."""

    def started(fault: str = "", wait_s: float = 10.0) -> Child:
        environment = {**child_environment([], None)[0], "WHILE_PREPARING": fault}
        importable = importable_here(trouble.plugin_paths)
        child = start_child(trouble.probes["ready"], sys.executable, importable, environment, prepare=True)
        until = time.monotonic() + wait_s
        while child.is_alive() and b"ready" not in child.said.output and time.monotonic() < until:
            time.sleep(0.02)
        return child

    return started


def test_the_child_that_prepared_runs_the_probe(run: Run, start: Start) -> None:
    child = start()
    ended = run("", key="ready", prepared=child)
    assert (ended.outcome, ended.stderr_tail) == ("ok", "ready")
    assert ended.facts is not None
    assert not psutil.pid_exists(ended.facts.pid)


@pytest.mark.parametrize("fault", ["raises", "exits", "closes_its_output", "raises_something_unprintable"])
def test_what_is_raised_while_preparing_is_forgotten(run: Run, start: Start, fault: str) -> None:
    assert run("", key="ready", prepared=start(fault, wait_s=1.0)).outcome == "ok"


@pytest.mark.parametrize("fault", ["aborts", "segfaults", "exits_at_once", "is_killed"])
def test_a_child_that_did_not_live_through_it_is_replaced(run: Run, start: Start, fault: str) -> None:
    child = start(fault)
    assert not child.is_alive()
    ended = run("", key="ready", prepared=child)
    assert (ended.outcome, ended.stderr_tail) == ("ok", None)


def test_a_child_that_never_gets_ready_is_ended_at_the_deadline(run: Run, start: Start) -> None:
    ended = run("", key="ready", prepared=start("hangs", wait_s=0.5), deadline_s=1)
    assert (ended.outcome, ended.detail) == ("timeout", "no end after 1 s")


def test_what_reads_while_preparing_reads_nothing_and_takes_nothing_away(run: Run, start: Start) -> None:
    child = start("reads")
    assert b"ready" in child.said.output
    assert run("", key="ready", prepared=child).outcome == "ok"


def test_a_child_whose_turn_never_comes_can_be_ended(start: Start) -> None:
    child = start()
    assert child.is_alive()
    child.end()
    assert not child.is_alive()
