"""What the profiler itself took is taken off the idle time of a trace, where the step was clocked too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fp8doctor.checks.step import exhibits, host_rules
from fp8doctor.model import Finding
from fp8doctor.observing.recorded import without_profiler
from fp8doctor.traced import FunctionTotal, Trace
from tests.step_facts import STEPS, kernel, trace, wait

# 2 ms of work a step, 1.9 ms idle: 3.9 ms recorded.
HELD = trace(
    [kernel("elementwise", "add", "aten::add", 900, 2000.0)],
    launching=1500.0,
    waiting=300.0,
    elsewhere=100.0,
    idle_between_us=STEPS * 40.0,
    idle_loading_us=STEPS * 20.0,
    idle_functions=(FunctionTotal("look", us=60.0),),
    waits=(wait("cudaStreamSynchronize", "aten::item", 1, 400.0, 300.0),),
)


def test_the_steps_are_as_long_as_by_the_clock() -> None:
    found = without_profiler(HELD, 2.9)
    assert found.span_us == pytest.approx(STEPS * 2900.0)
    assert found.step_us == pytest.approx(2900.0)
    assert found.busy_us == HELD.busy_us
    assert found.idle_us == pytest.approx(STEPS * 900.0)
    assert found.profiler_us == pytest.approx(STEPS * 1000.0)
    factor = 900 / 1900
    for name, us in {
        "launching": 1500.0,
        "waiting": 300.0,
        "elsewhere": 100.0,
        "between": 40.0,
        "loading": 20.0,
    }.items():
        assert getattr(found, f"idle_{name}_us") == pytest.approx(STEPS * us * factor, abs=0.01)
    assert [one.us for one in found.idle_functions or ()] == pytest.approx([60.0 * factor], abs=0.01)
    assert [one.idle_us for one in found.waits or ()] == pytest.approx([STEPS * 300.0 * factor], abs=0.01)
    assert [one.us for one in found.waits or ()] == [STEPS * 400.0]


def test_no_step_is_shorter_than_its_work() -> None:
    found = without_profiler(HELD, 1.5)
    assert (found.idle_us, found.span_us, found.idle_launching_us) == (0.0, STEPS * 2000.0, 0.0)


@pytest.mark.parametrize(
    ("recorded", "step_ms"),
    [
        (HELD, 3.6),
        (HELD, 5.0),
        (HELD, 0.0),
        (replace(HELD, steps=None), 2.9),
        (replace(HELD, compilations=1), 2.9),
        (Trace(accelerator="cpu", steps=3), 2.9),
        (replace(HELD, idle_us=0.0), 2.9),
    ],
)
def test_what_is_not_the_profilers_stays(recorded: Trace, step_ms: float) -> None:
    assert without_profiler(recorded, step_ms) is recorded


def test_launches_that_only_the_profiler_held_up_are_no_finding() -> None:
    assert isinstance(host_rules.launch_bound(HELD), Finding)
    assert host_rules.launch_bound(without_profiler(HELD, 2.05)) is None


def test_what_is_taken_off_is_told_where_the_time_is_drawn() -> None:
    drawn = exhibits.where_time_went(without_profiler(HELD, 2.9))
    assert drawn is not None
    assert drawn.title.endswith("(1.0 ms a step of the profiler's own are taken off)")
    before = exhibits.where_time_went(HELD)
    assert before is not None
    assert "profiler" not in before.title
