"""Ctrl-C and a killed doctor: no child outlives it, and what was learnt is kept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

# What the command does, with two probes: one that has ended when the signal comes, and one that hangs.
SCRIPT = """
import importlib.util, json, sys
from fp8doctor import store
from fp8doctor.model import Request
from fp8doctor.probing.schedule import Plan, Schedule, child_environment
from fp8doctor.registry import Registry

spec = importlib.util.spec_from_file_location("trouble", sys.argv[1])
trouble = sys.modules["trouble"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trouble)
registry = Registry(plugin_paths={"trouble": sys.argv[1]})
registry.collect(trouble)

def observe(event):
    print(event.kind, event.key, flush=True)

request = Request(workload="a b hang")
plan = Plan(registry, request, sys.executable, 60, child_environment([], None)[0], store.decode_facts, observe)
schedule = Schedule(plan)
try:
    schedule.run()
except KeyboardInterrupt:
    learnt = {key: [run.outcome, run.detail, run.facts and vars(run.facts)] for key, run in schedule.runs.items()}
    print("learnt", json.dumps(learnt), flush=True)
    sys.exit(130)
"""


class Doctor:
    """The process under test, once one probe has ended and another one hangs."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", SCRIPT, str(Path(__file__).with_name("trouble.py"))]
        # Whoever runs the tests in the background of a shell has them ignore Ctrl-C, which is inherited.
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ended trouble"):
                break
        self.children: list[psutil.Process] = []
        until = time.monotonic() + 45  # a busy machine takes its time to start the child that hangs
        while not self.children and time.monotonic() < until:
            time.sleep(1.0)
            self.children = psutil.Process(self.process.pid).children(recursive=True)

    def learnt(self) -> dict[str, Any]:
        output, _ = self.process.communicate(timeout=20)
        _, _, text = output.partition("learnt ")
        found: dict[str, Any] = json.loads(text)
        return found


@pytest.fixture
def doctor() -> Iterator[Doctor]:
    doctor = Doctor()
    yield doctor
    doctor.process.kill()
    doctor.process.communicate()
    for child in doctor.children:
        if child.is_running():
            child.kill()


def test_ctrl_c_ends_the_children_and_keeps_what_was_learnt(doctor: Doctor) -> None:
    assert doctor.children
    started = time.monotonic()
    doctor.process.send_signal(signal.SIGINT)
    learnt = doctor.learnt()
    assert time.monotonic() - started < 15
    assert doctor.process.returncode == 130
    assert psutil.wait_procs(doctor.children, timeout=3)[1] == []
    assert learnt["trouble"][:2] == ["exception", "KeyError: 'a b hang'"]
    outcome, detail, growth = learnt["growth"]
    assert (outcome, detail) == ("skipped", "interrupted")
    assert growth["steps"] == ["a done", "b done"]
    assert learnt["samples"][:2] == ["skipped", "interrupted before it ran"]


def test_a_doctor_that_is_killed_leaves_no_child_behind(doctor: Doctor) -> None:
    assert doctor.children
    doctor.process.kill()
    assert psutil.wait_procs(doctor.children, timeout=5)[1] == []
