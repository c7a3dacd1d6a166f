"""From where on is something on a GPU worth telling: watts, memory, work, and one GPU among others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fp8doctor.checks.gpu import GpuProcess, Gpus, rules
from fp8doctor.checks.gpu import sharing_rules as sharing
from fp8doctor.checks.gpu import state_rules as state
from fp8doctor.checks.gpu.clocks import Clocks
from fp8doctor.checks.gpu.neighbours import Neighbour
from fp8doctor.model import RuleResult, Severity, Unknown
from tests.checks.test_gpu import H200, IDLE, box, fired

BESIDE_PROBES = replace(IDLE, doctor_idle=False)


def graveness(result: RuleResult) -> str:
    """ "-" without a finding, "rule" where it is as grave as the rule, else its own."""
    found = fired(result)
    return (found[0].severity.value if found[0].severity else "rule") if found else "-"


@pytest.mark.parametrize(("watts", "told"), [(700.0, False), (693.0, False), (692.0, True), (690.0, True)])
def test_a_limit_one_percent_below_the_boards_own_is_the_same_rounded(watts: float, told: bool) -> None:
    assert bool(fired(state.power_cap(box(power_limit_w=watts)))) is told
    smaller = box(power_limit_w=watts / 2, power_limit_default_w=350.0)
    assert bool(fired(state.power_cap(smaller))) is told


@pytest.mark.parametrize(("mib", "severity"), [(127.0, "-"), (128.0, "info")])
def test_a_process_counts_from_what_a_context_takes(mib: float, severity: str) -> None:
    there = box(processes=(GpuProcess(4242, mib),), memory_used_mib=mib)
    assert graveness(sharing.shared_or_mig(there, None)) == severity


@pytest.mark.parametrize(
    ("idle", "mib", "severity"),
    [(True, 2047.0, "-"), (True, 2048.0, "info"), (False, 8191.0, "-"), (False, 8192.0, "info")],
)
def test_unlisted_memory_counts_beyond_what_the_doctors_own_probes_take(idle: bool, mib: float, severity: str) -> None:
    there = replace(box(memory_used_mib=mib), doctor_idle=idle)
    assert graveness(sharing.shared_or_mig(there, None)) == severity


@pytest.mark.parametrize(("percent", "severity"), [(49, "-"), (50, "rule")])
def test_a_gpu_that_works_half_of_the_time_works_for_someone_else(percent: int, severity: str) -> None:
    assert graveness(sharing.shared_or_mig(box(utilization_percent=percent), None)) == severity


@pytest.mark.parametrize(
    ("looks", "sm_percent", "severity"),
    [(1, 45, "-"), (2, 45, "rule"), (2, 4, "info"), (2, 5, "rule")],
)
def test_who_came_is_told_from_the_second_look_and_counts_from_five_percent(
    looks: int, sm_percent: int, severity: str
) -> None:
    seen = Clocks(gpu_index=0, samples=(), neighbours=(Neighbour(31.0, 55.0, looks, sm_percent),))
    assert graveness(sharing.shared_or_mig(BESIDE_PROBES, seen)) == severity
    # Who was there from the start is told by what it holds; that it worked is told besides.
    waiting = replace(BESIDE_PROBES, gpus=(replace(H200, processes=(GpuProcess(4242, 64.0),)),))
    assert graveness(sharing.shared_or_mig(waiting, seen)) == ("rule" if severity == "rule" else "-")


def test_one_gpu_without_fp8_among_others_is_no_error_of_the_box() -> None:
    ampere = replace(H200, index=1, name="NVIDIA A100-SXM4-80GB", compute_capability="8.0")
    (finding,) = fired(rules.no_fp8_hardware(replace(IDLE, gpus=(H200, ampere))))
    assert (finding.about, finding.severity) == ("gpu:1", Severity.WARNING)
    (alone,) = fired(rules.no_fp8_hardware(replace(IDLE, gpus=(ampere,))))
    assert alone.severity is None


@pytest.mark.parametrize(("known", "asks"), [(None, True), ("gfx1250", False)])
def test_the_capability_is_asked_for_where_it_is_what_is_missing(known: str | None, asks: bool) -> None:
    result = rules.no_fp8_hardware(box(name="Some GPU", vendor="amd", compute_capability=known))
    (said,) = result if isinstance(result, list) else [result]
    assert isinstance(said, Unknown)
    assert ("get_device_capability" in said.reason) is asks


def test_nothing_is_said_of_gpus_that_nobody_saw() -> None:
    assert isinstance(rules.no_fp8_hardware(Gpus(gpus=())), Unknown)
