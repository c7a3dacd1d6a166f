"""Nothing that a run started outlives it: not a daemon that hid itself, and not when the doctor is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil

from fp8doctor import store
from fp8doctor.model import Request
from fp8doctor.probing.family import Family
from fp8doctor.probing.guard import end_marked
from fp8doctor.probing.schedule import Plan, Schedule, child_environment
from fp8doctor.registry import Registry
from fp8doctor.variables import RUN_MARK

# A doctor that has a family, one member of which hid itself, and that is then waiting for ever.
DOCTOR = """
import os, subprocess, sys, time
from fp8doctor.probing.family import Family
with Family() as family:
    hidden = "import os, time\\nif os.fork() == 0:\\n os.setsid()\\n print(os.getpid(), flush=True)\\n time.sleep(300)"
    subprocess.run([sys.executable, "-c", hidden], env={**os.environ, **family.environment})
    time.sleep(300)
"""


def gone(pid: int, within_s: float = 10) -> bool:
    until = time.monotonic() + within_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > until:
            psutil.Process(pid).kill()
            return False
        time.sleep(0.05)
    return True


def test_a_daemon_that_left_its_parent_and_its_session_ends_with_the_run(trouble: Registry) -> None:
    registry = replace(trouble, probes={"trouble": trouble.probes["trouble"]})
    request = Request(workload="leaves_one_that_nobody_can_find")
    environment, _ = child_environment([], None)
    runs = Schedule(Plan(registry, request, sys.executable, 30, environment, store.decode_facts)).run()
    assert gone(int(vars(runs["trouble"].facts)["number"]))


def test_a_doctor_that_is_killed_takes_its_family_along() -> None:
    doctor = subprocess.Popen([sys.executable, "-c", DOCTOR], stdout=subprocess.PIPE, text=True)
    assert doctor.stdout is not None
    hidden = int(doctor.stdout.readline())
    assert psutil.pid_exists(hidden)
    doctor.send_signal(signal.SIGKILL)
    doctor.wait()
    doctor.stdout.close()
    assert gone(hidden)


def test_processes_of_others_are_left_alone() -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
    ours = subprocess.Popen(sleep, env={RUN_MARK: "one"})
    theirs = subprocess.Popen(sleep, env={RUN_MARK: "another", "NOTE": f"{RUN_MARK}=one"})
    try:
        end_marked(f"{RUN_MARK}=one")
        assert ours.wait(timeout=10) == -signal.SIGKILL
        assert theirs.poll() is None
    finally:
        for process in (ours, theirs):
            process.kill()
            process.wait()


def test_a_family_is_ended_without_a_guard_as_well() -> None:
    family = Family()
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], env=family.environment)
    family.__exit__()
    assert sleeper.wait(timeout=10) == -signal.SIGKILL
