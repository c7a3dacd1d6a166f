"""When did others compute on the GPU that was timed?"""

from __future__ import annotations

import math
from dataclasses import replace

from fp8doctor.checks.gpu import disturbing
from fp8doctor.checks.gpu.clocks import Clocks
from fp8doctor.checks.gpu.facts import Gpu, GpuProcess, Gpus
from fp8doctor.checks.gpu.neighbours import Neighbour
from fp8doctor.model import Finding, NotApplicable
from fp8doctor.reliance import Disturbance, Reliance

WORKER = Neighbour(first_t_s=31.0, last_t_s=55.0, looks=20, sm_percent=45)
WATCHED = Clocks(gpu_index=0, samples=(), neighbours=(WORKER,))
BUSY = Gpu(index=0, name="NVIDIA H200", memory_total_mib=143771.0, memory_used_mib=600.0, processes=(),
           utilization_percent=97)  # fmt: skip


def test_from_the_look_before_it_was_seen_to_the_look_after() -> None:
    assert disturbing.by_others(WATCHED, None) == [Disturbance(29.5, 56.5)]


def test_who_waits_or_whose_work_is_not_told_disturbs_nothing() -> None:
    for percent in (None, 4):
        assert disturbing.by_others(replace(WATCHED, neighbours=(replace(WORKER, sm_percent=percent),)), None) == []
    assert disturbing.by_others(None, None) == []


def test_where_nobody_can_be_told_apart_a_gpu_that_was_busy_before_stays_so() -> None:
    alike = replace(WATCHED, neighbours=None)
    assert disturbing.by_others(alike, Gpus(gpus=(BUSY,), doctor_idle=True)) == [Disturbance(-math.inf, math.inf)]
    # The work may be the doctor's own, or the GPU another one than was timed, or idle.
    assert disturbing.by_others(alike, Gpus(gpus=(BUSY,), doctor_idle=False)) == []
    assert disturbing.by_others(alike, Gpus(gpus=(replace(BUSY, index=1),), doctor_idle=True)) == []
    assert disturbing.by_others(alike, Gpus(gpus=(replace(BUSY, utilization_percent=3),), doctor_idle=True)) == []
    held = replace(BUSY, processes=(GpuProcess(pid=7, used_memory_mib=900.0),))
    assert disturbing.by_others(alike, Gpus(gpus=(held,), doctor_idle=False)) == [Disturbance(-math.inf, math.inf)]


def test_times_put_aside() -> None:
    gpus = Gpus(gpus=(BUSY,))
    found = disturbing.times_put_aside(Reliance(timed=211, disturbed=12, scattered=3), gpus, WATCHED)
    assert isinstance(found, Finding)
    assert found.title == "15 of 211 timed cases on NVIDIA H200 are not used"
    assert [one.text for one in found.evidence] == [
        "12 were taken while another program computed there",
        "3 scatter by more than 20 % of their median",
    ]
    assert disturbing.times_put_aside(Reliance(timed=211, disturbed=0, scattered=0), gpus, WATCHED) is None
    assert isinstance(disturbing.times_put_aside(Reliance(timed=0), None, None), NotApplicable)
    unwatched = disturbing.times_put_aside(Reliance(timed=9, disturbed=0, scattered=0), None, None)
    assert isinstance(unwatched, NotApplicable)
