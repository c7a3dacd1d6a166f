"""The rules on what holds a GPU back, and on a driver that does not answer, on facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fp8doctor.checks.driver import Driver
from fp8doctor.checks.gpu import nvml_rules
from fp8doctor.checks.gpu import sharing_rules as sharing
from fp8doctor.checks.gpu import state_rules as state
from fp8doctor.checks.gpu.facts import Gpu, GpuProcess, Gpus
from fp8doctor.model import NotApplicable, ProbeOutcome, ProbeRun, RuleResult, Severity
from tests.checks.test_gpu import EMPTY, H200, IDLE, box, fired, load, unknown


def test_power_cap() -> None:
    (finding,) = fired(state.power_cap(box(power_limit_w=500.0)))
    assert "500 W" in finding.title
    assert "700 W" in finding.title
    assert not finding.actions[0].safe
    assert not fired(state.power_cap(box(power_limit_w=695.0)))
    assert unknown(state.power_cap(box(power_limit_default_w=None)))


@pytest.mark.parametrize(
    "changes",
    [
        {"mig_enabled": True},
        {"mps_active": True},
        {
            "processes": (GpuProcess(4242, 20480.0),),
            "memory_used_mib": 20490.0,
            "utilization_percent": 97,
        },
        {"memory_used_mib": 60000.0, "utilization_percent": 97},
        {"utilization_percent": 97},
    ],
)
def test_shared_or_mig(changes: dict[str, object]) -> None:
    (finding,) = fired(sharing.shared_or_mig(box(**changes), None))
    assert finding.severity is None


@pytest.mark.parametrize(
    "changes",
    [
        {"processes": (GpuProcess(4242, 20480.0),), "memory_used_mib": 20490.0},
        {"memory_used_mib": 60000.0},
        {"memory_used_mib": 60000.0, "graphics_memory_mib": 1500.0},
        {"memory_used_mib": 60000.0, "utilization_percent": None},
    ],
)
def test_memory_that_is_held_and_nobody_works_is_only_told(changes: dict[str, object]) -> None:
    (finding,) = fired(sharing.shared_or_mig(box(**changes), None))
    assert finding.severity is Severity.INFO
    assert finding.title == "Others hold memory of NVIDIA H200"


@pytest.mark.parametrize(
    "changes",
    [
        {"processes": (GpuProcess(4242, 30.0),)},  # an MPS server or a desktop
        {
            "processes": (GpuProcess(None, 600.0),),
            "memory_used_mib": 604.0,
        },  # a probe of our own, seen from a container
        {"memory_used_mib": 3500.0, "graphics_memory_mib": 3000.0},  # a browser
        {"utilization_percent": 3},
        {"processes": None},
    ],
)
def test_alone_enough(changes: dict[str, object]) -> None:
    assert sharing.shared_or_mig(box(**changes), None) == [None]


def test_probes_that_run_beside_are_not_taken_for_strangers() -> None:
    beside = replace(box(memory_used_mib=5000.0, utilization_percent=90), doctor_idle=False)
    assert not fired(sharing.shared_or_mig(beside, None))


def test_memory_that_the_system_manages_is_nobodys() -> None:
    assert sharing.shared_or_mig(box(name="NVIDIA GH200 480GB", memory_used_mib=60000.0), None) == [None]


def test_who_else_is_there_was_not_observed() -> None:
    assert unknown(sharing.shared_or_mig(Gpus(gpus=(Gpu(index=0, name="NVIDIA H200"),)), None))


@pytest.mark.parametrize("reason", list(state.BRAKES))
def test_power_throttle_now(reason: str) -> None:
    (finding,) = fired(state.braked(box(clock_event_reasons=("HwSlowdown", reason)), None))
    assert any(state.BRAKES[reason] in e.text for e in finding.evidence)


def test_power_throttle_under_load() -> None:
    assert fired(state.braked(IDLE, load("SwThermalSlowdown")))
    assert not fired(state.braked(IDLE, load("SwPowerCap")))
    assert not fired(state.braked(IDLE, replace(load("HwSlowdown"), gpu_index=1)))
    assert unknown(state.braked(box(clock_event_reasons=None), None))


def test_clocks_pinned() -> None:
    pinned = "ApplicationsClocksSetting"
    low = box(application_clock_mhz=1200)
    (finding,) = fired(state.clocks_pinned(low, load(pinned, sm_clock_mhz=1200)))
    assert finding.severity is None
    assert "1200 MHz" in finding.evidence[1].text
    assert "by default 1980 MHz" in finding.evidence[2].text
    (at_rest,) = fired(state.clocks_pinned(box(clock_event_reasons=(pinned,), application_clock_mhz=1200), None))
    assert at_rest.severity is Severity.INFO
    assert not fired(state.clocks_pinned(low, load(pinned, sm_clock_mhz=1980)))  # set, and costs nothing
    assert not fired(state.clocks_pinned(low, load("SwPowerCap")))


def test_an_idle_gpu_does_not_say_that_its_clock_is_pinned() -> None:
    (finding,) = fired(state.clocks_pinned(box(application_clock_mhz=1200), None))
    assert finding.severity is Severity.INFO
    assert [e.text for e in finding.evidence][-1] == "applications clock 1200 MHz, by default 1980 MHz"
    assert not fired(state.clocks_pinned(box(application_clock_mhz=0), None))


def test_an_applications_clock_as_the_board_comes_with_is_no_setting() -> None:
    slow = load("ApplicationsClocksSetting", sm_clock_mhz=1095)
    by_default = {"application_clock_default_mhz": 1095, "sm_clock_max_mhz": 1410}
    assert state.clocks_pinned(box(application_clock_mhz=1095, **by_default), slow) == [None]
    assert state.clocks_pinned(box(application_clock_mhz=1200, **by_default), slow) == [None]  # raised
    for unknown_clocks in ({"application_clock_mhz": None}, {"application_clock_default_mhz": None}):
        (finding,) = fired(state.clocks_pinned(box(**unknown_clocks), slow))
        assert finding.severity is Severity.INFO
        assert "an applications clock limits the SM clock" in finding.title


@pytest.mark.parametrize(
    ("mode", "processes", "severity"),
    [
        ("default", (), None),
        ("prohibited", (), Severity.ERROR),
        ("exclusive-process", (), Severity.INFO),
        ("exclusive-process", (GpuProcess(pid=1, used_memory_mib=900.0),), Severity.ERROR),
    ],
)
def test_compute_mode(mode: str, processes: tuple[GpuProcess, ...], severity: Severity | None) -> None:
    found = fired(state.compute_mode(box(compute_mode=mode, processes=processes)))
    assert [f.severity for f in found] == ([severity] if severity else [])
    assert all(f.actions[0].command == "sudo nvidia-smi -i 0 -c DEFAULT" for f in found)


def test_a_process_that_cannot_be_seen_may_be_the_doctors_own() -> None:
    taken = box(compute_mode="exclusive-process", processes=(GpuProcess(used_memory_mib=900.0),))
    assert [f.severity for f in fired(state.compute_mode(replace(taken, doctor_idle=False)))] == [Severity.INFO]


def test_one_gpu_that_may_not_be_computed_on_leaves_the_others() -> None:
    both = (replace(H200, compute_mode="default"), replace(H200, index=1, compute_mode="prohibited"))
    assert [f.severity for f in fired(state.compute_mode(replace(IDLE, gpus=both)))] == [Severity.WARNING]


def nvml(error: str | None = None, outcome: ProbeOutcome = "ok", gpus: Gpus | None = None) -> RuleResult:
    seen = Driver(installed=True, version="580.159.04", nvml_error=error)
    return nvml_rules.nvml_unusable(ProbeRun(outcome, seen), gpus or EMPTY)


@pytest.mark.parametrize(
    ("error", "title", "severity"),
    [
        ("NO_ANSWER: nvmlInit did not return within 6 s", "hangs", None),
        ("CRASHED: SIGSEGV", "crashes", None),
        ("LIBRARY_BROKEN: libnvidia-ml.so.1: file too short", "cannot be loaded", None),
        ("NOT_INSTALLED: No module named 'pynvml'", "nvidia-ml-py", Severity.WARNING),
        ("UNKNOWN: Unknown Error", "unknown error", None),
        ("OPERATING_SYSTEM: blocked", "cannot be opened: OPERATING_SYSTEM: blocked", None),
    ],
)
def test_nvml_unusable(error: str, title: str, severity: Severity | None) -> None:
    (finding,) = fired(nvml(error))
    assert title in finding.title
    assert finding.severity is severity
    assert error.partition(": ")[2] in finding.evidence[0].text


def test_nvml_that_answers_or_says_why_not() -> None:
    assert nvml() is None
    for error in ("LIB_RM_VERSION_MISMATCH: x", "LIBRARY_NOT_FOUND: x", "DRIVER_NOT_LOADED: x", "NO_PERMISSION: x"):
        assert isinstance(nvml(error), NotApplicable)


def test_a_probe_of_the_driver_that_never_ended_is_a_driver_that_hangs() -> None:
    assert [f.title for f in fired(nvml(outcome="timeout"))] == [nvml_rules.UNUSABLE["NO_ANSWER"][0]]


def test_nvml_that_hangs_or_crashes_at_single_gpus() -> None:
    silent = replace(H200, failure="NO_ANSWER: nvmlDeviceGetPowerUsage did not return within 3 s")
    assert not fired(nvml(gpus=replace(IDLE, gpus=(H200, silent))))
    assert [f.about for f in fired(nvml(gpus=replace(IDLE, gpus=(silent, silent))))] == [None]
    crashing = replace(H200, index=1, failure="CRASHED: SIGSEGV")
    (finding,) = fired(nvml(gpus=replace(IDLE, gpus=(H200, crashing))))
    assert (finding.about, finding.severity) == ("gpu:1", Severity.WARNING)


def test_gpu_lost() -> None:
    (finding,) = fired(state.lost(box(failure="GPU_IS_LOST: GPU is lost")))
    assert "does not answer" in finding.title
    assert unknown(state.lost(box(failure="NO_PERMISSION: Insufficient Permissions")))
    assert isinstance(state.lost(replace(IDLE, source="collect_env")), NotApplicable)
