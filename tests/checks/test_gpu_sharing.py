"""Somebody else on the GPU: rules on records, and the watcher beside real processes and a stub of NVML."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fp8doctor.checks.gpu import Gpu, GpuProcess, Gpus, clocks
from fp8doctor.checks.gpu import sharing_rules as sharing
from fp8doctor.checks.gpu.clocks import Clocks
from fp8doctor.checks.gpu.neighbours import Neighbour
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.model import Finding, ProbeRun, Request, RuleResult, Severity, Unknown
from fp8doctor.probing.children import importable_here, run_probe
from fp8doctor.store import decode_facts
from fp8doctor.variables import RUN_MARK
from tests import stub_nvml

H200 = Gpu(
    index=0, name="NVIDIA H200", memory_total_mib=143771.0, memory_used_mib=600.0, processes=(), utilization_percent=0
)
WORKER = Neighbour(first_t_s=31.0, last_t_s=55.0, looks=20, sm_percent=45)


def box(**changes: object) -> Gpus:
    return Gpus(gpus=(replace(H200, **changes),), doctor_idle=False)  # type: ignore[arg-type]


def watched(*neighbours: Neighbour) -> Clocks:
    return Clocks(gpu_index=0, interval_s=0.1, samples=(), neighbours=neighbours)


def fired(result: RuleResult) -> list[Finding]:
    return [item for item in (result if isinstance(result, list) else [result]) if isinstance(item, Finding)]


def test_one_that_came_while_the_gpu_was_timed_is_told() -> None:
    (finding,) = fired(sharing.shared_or_mig(box(), watched(WORKER)))
    assert finding.severity is None
    assert [one.text for one in finding.evidence] == [
        "while the GPU was timed another process was on it from second 31 to 55 of this run, and took up to 45 % of the"
        " time of the SMs"
    ]


def test_one_that_came_and_waited_is_told_without_a_warning() -> None:
    (finding,) = fired(sharing.shared_or_mig(box(), watched(replace(WORKER, sm_percent=1))))
    assert finding.severity is Severity.INFO


def test_of_one_whose_work_is_not_told_nobody_says_that_it_computed() -> None:
    (finding,) = fired(sharing.shared_or_mig(box(), watched(replace(WORKER, sm_percent=None))))
    assert finding.severity is Severity.INFO


def test_a_small_card_that_nobody_else_holds_is_not_full() -> None:
    assert sharing.memory_full(box(memory_total_mib=1024.0, memory_used_mib=500.0)) == [None]


@pytest.mark.parametrize(
    "seen",
    [
        watched(),
        watched(replace(WORKER, looks=1)),
        replace(watched(WORKER), gpu_index=1),
        replace(watched(WORKER), neighbours=None),
    ],
)
def test_a_glimpse_or_another_gpu_is_no_neighbour(seen: Clocks) -> None:
    assert sharing.shared_or_mig(box(), seen) == [None]


def test_who_waited_from_the_start_is_told_once() -> None:
    waiting = box(processes=(GpuProcess(4242, 20480.0),), memory_used_mib=21000.0)
    (finding,) = fired(sharing.shared_or_mig(waiting, watched(replace(WORKER, sm_percent=0))))
    assert [one.text for one in finding.evidence] == ["1 other process holds 20.0 GiB"]


def test_a_gpu_without_room_is_an_error_with_who_holds_it() -> None:
    full = box(memory_used_mib=143470.0, processes=(GpuProcess(4242, 142868.0),))
    (finding,) = fired(sharing.memory_full(full))
    assert finding.title == "The memory of NVIDIA H200 is taken: 301 MiB of 140 GiB are free"
    assert finding.evidence[1].text == "1 other process holds 139.5 GiB"


def test_a_gpu_with_room_or_one_whose_memory_the_system_manages_is_not_full() -> None:
    assert sharing.memory_full(box(memory_used_mib=135000.0)) == [None]
    assert sharing.memory_full(box(name="NVIDIA GB10", memory_used_mib=143470.0)) == [None]
    (unknown,) = sharing.memory_full(box(memory_used_mib=None))  # type: ignore[misc]
    assert isinstance(unknown, Unknown)


@pytest.fixture
def two() -> Iterator[tuple[int, int]]:
    """A process of this run and one of somebody else."""
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    started = [subprocess.Popen(sleep, env={RUN_MARK: mark}) for mark in ("ours", "theirs")]
    yield started[0].pid, started[1].pid
    for one in started:
        one.kill()
        one.wait()


def watch(folder: Path, processes: str, work: str) -> Clocks:
    stop = threading.Event()
    threading.Timer(4.0, stop.set).start()
    script = {**stub_nvml.H200, "processes": processes, "work": work}
    ended = run_probe(
        clocks.watch.__fp8doctor__,  # type: ignore[attr-defined]
        Request(epoch_s=time.monotonic()),
        interpreter=sys.executable,
        importable=importable_here({}),
        runs={"torch_build": ProbeRun("ok", TorchBuild(installed=True, accelerator="cpu"))},
        environment={**stub_nvml.environment(folder, script), RUN_MARK: "ours"},
        deadline_s=30,
        decode=decode_facts,
        cancel=threading.Event(),
        stop=stop,
    )
    assert isinstance(ended.facts, Clocks), ended
    return ended.facts


def test_the_watcher_tells_this_runs_processes_from_those_of_others(tmp_path: Path, two: tuple[int, int]) -> None:
    ours, theirs = two
    seen = watch(stub_nvml.build(tmp_path), f"{ours}:1000000,{theirs}:1000000", f"{ours}:50,{theirs}:45")
    assert seen.neighbours is not None
    (neighbour,) = seen.neighbours
    assert (neighbour.sm_percent, (neighbour.looks or 0) >= 2) == (45, True)


def test_where_our_own_processes_are_not_listed_nobody_is_told_apart(tmp_path: Path, two: tuple[int, int]) -> None:
    _, theirs = two
    assert watch(stub_nvml.build(tmp_path), f"{theirs}:1000000", f"{theirs}:45").neighbours is None
