"""What counts as slower, and what is the noise of two runs."""

from __future__ import annotations

import itertools
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fp8doctor import api
from fp8doctor.differing.record import Shift
from tests.difference_cases import Document, both, changed, fact, recorded, scale, slower

SAME_KIND = ("h200", "h200-torch-only", "h200-flash-attn-4")


def told(shift: Shift) -> tuple[str, str, int]:
    return shift.direction, shift.title, shift.changed


@pytest.mark.parametrize("pair", list(itertools.permutations(SAME_KIND, 2)))
def test_real_runs_on_boxes_of_one_kind_differ_nowhere(pair: tuple[str, str]) -> None:
    """Three H200s, three environments: what they have in common takes equally long."""
    times = api.diff(recorded(pair[0]), recorded(pair[1])).times
    assert times.compared > 150
    assert times.shifts == ()


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), most=st.floats(0.0, 0.029))
def test_noise_is_no_regression(seed: int, most: float) -> None:
    """Every time off by up to what two runs differ by, each by its own share and either way."""
    chance = random.Random(seed)

    def noise(facts: Document) -> None:
        for case in facts["linear"]["cases"]:
            for name in ("device_us", "call_us"):
                factor = 1 + chance.uniform(0, most)
                scale(case[name], factor if chance.random() < 0.5 else 1 / factor)

    found = api.diff(recorded(), changed(noise))
    assert found.times.shifts == ()
    assert found.regressions == ()
    assert found.explanations == ()


@settings(max_examples=10)
@given(factor=st.floats(1.1, 4.0))
def test_what_is_slower_beyond_the_noise_is_told_in_one_line(factor: float) -> None:
    def in_fp8(case: Document) -> bool:
        return "fp8" in case["config"] and case["kind"] == "layer"

    found = api.diff(recorded(), changed(slower(factor, in_fp8)))
    first = next(shift for shift in found.times.shifts if shift.clock == "device")
    assert (first.direction, first.title) == ("slower", "linear, all that is FP8")
    assert first.middle == pytest.approx(factor, rel=1e-3)
    assert found.regressions


def test_a_median_that_moved_inside_its_interval_is_no_difference() -> None:
    def wide(facts: Document) -> None:
        for case in facts["linear"]["cases"]:
            if case["device_us"]:
                case["device_us"]["median"] *= 1.2
                case["device_us"]["high"] *= 1.3

    assert api.diff(recorded(), changed(wide)).times.shifts == ()


def test_waiting_for_the_host_wavers_by_more() -> None:
    """The host's own speed moved by up to 1.4 times within seconds (benchmarks/RESULTS.md)."""

    def calls(factor: float) -> list[Shift]:
        def change(facts: Document) -> None:
            for case in facts["linear"]["cases"]:
                scale(case["call_us"], factor)

        return list(api.diff(recorded(), changed(change)).times.shifts)

    assert calls(1.35) == []
    assert {shift.clock for shift in calls(1.8)} == {"call"}
    assert {shift.direction for shift in calls(1.8)} == {"slower"}


def test_one_size_of_many_is_told_apart_and_fails_nothing() -> None:
    def one(case: Document) -> bool:
        return case["config"] == "torch-bf16+compile" and (case["m"], case["k"], case["n"]) == (4096, 3072, 3072)

    found = api.diff(recorded(), changed(slower(1.1, one)))
    assert [(shift.lone, shift.changed) for shift in found.times.shifts] == [(True, 1)]
    assert found.regressions == ()
    assert found.explanations == ()


def test_long_times_alone_are_told_as_such() -> None:
    """A power limit slows what computes for long, and leaves short work as it is."""

    def long(case: Document) -> bool:
        return bool(case["device_us"]) and case["device_us"]["median"] >= 100

    found = api.diff(recorded(), changed(slower(1.2, long)))
    whole = found.times.shifts[0]
    assert whole.title == "all that was timed on the device"
    assert whole.from_us == pytest.approx(100, rel=0.05)


def test_what_was_timed_in_another_way_is_not_compared() -> None:
    found = api.diff(recorded(), changed(fact("linear.method.version", 2)))
    assert found.times.compared == 0
    assert "timing method of the linear layer was 1 in A and is 2 in B" in found.times.not_compared[0]
    assert found.changes == ()


def test_what_one_report_alone_timed_is_counted() -> None:
    def without_torchao(facts: Document) -> None:
        cases = facts["linear"]["cases"]
        facts["linear"]["cases"] = [case for case in cases if not case["config"].startswith("torchao")]

    times = api.diff(recorded(), changed(without_torchao)).times
    assert {(one.label.partition(" float8")[0], one.only_in) for one in times.one_sided} == {("torchao", "before")}
    assert sum(one.cases for one in times.one_sided) == 114


def test_a_step_of_a_model_is_compared_like_a_layer() -> None:
    def compiled_steps(facts: Document) -> None:
        for rung in facts["ladder"]["rungs"]:
            if rung["config"] == "torchao-fp8-rowwise+compile":
                scale(rung["step_ms"], 1.25)

    found = api.diff(recorded("h200-bench-flux"), changed(compiled_steps, "h200-bench-flux"))
    (shift,) = found.times.shifts
    assert told(shift) == ("slower", "torchao float8 row-wise + torch.compile of each block, flux denoise", 1)
    assert shift.middle == pytest.approx(1.25)


def test_steps_of_another_depth_or_size_are_not_compared() -> None:
    flux = "h200-bench-flux"
    for change in (fact("ladder.full", True), fact("ladder.tokens.denoise", 1024)):
        times = api.diff(recorded(flux), changed(both(change), flux)).times
        assert times.compared == 0
        assert times.not_compared


def test_images_are_compared() -> None:
    def slow(facts: Document) -> None:
        for rung in facts["pipeline"]["rungs"]:
            scale(rung["image_s"], 1.5)

    box = "h200-bench-pipeline"
    found = api.diff(recorded(box), changed(slow, box))
    assert [shift.direction for shift in found.times.shifts] == ["slower"]
    assert api.diff(recorded(box), changed(fact("pipeline.steps", 12), box)).times.compared == 0


def test_another_kernel_is_told_with_the_time_that_it_takes() -> None:
    def other_kernel(facts: Document) -> None:
        for case in facts["linear"]["cases"]:
            if case["config"] == "torch-bf16":
                case["gemm_kernel"] = "cutlass_80_wmma"

    bf16 = slower(1.3, lambda case: case["config"] == "torch-bf16")
    found = api.diff(recorded(), changed(both(bf16, other_kernel)))
    shift = found.times.shifts[0]
    assert shift.other_kernels == shift.changed
    assert shift.example.kernel_after == "cutlass_80_wmma"
    assert "another kernel ran" in found.to_markdown()


def test_swapping_the_reports_gives_the_mirror_image() -> None:
    a = recorded()
    b = changed(both(slower(1.3, lambda case: "bf16" in case["config"]), fact("driver.version", "590.1")))
    for one, other in ((a, b), (recorded("h200-torch-only"), recorded("h200-flash-attn-4")), (a, recorded("no-gpu"))):
        there, back = api.diff(one, other), api.diff(other, one)
        assert {(c.name, c.before, c.after) for c in there.changes} == {
            (c.name, c.after, c.before) for c in back.changes
        }
        turned = {"new": "gone", "gone": "new", "not-asked": "new"}
        # What is new with a package is no longer asked without it.
        plain = {"not-asked": "gone"}
        assert {(f.id, f.about, plain.get(f.what, f.what)) for f in there.finding_changes} == {
            (f.id, f.about, turned.get(f.what, f.what)) for f in back.finding_changes
        }
        ways = {"slower": "faster", "faster": "slower"}
        assert {(s.title, s.changed, s.direction) for s in there.times.shifts} == {
            (s.title, s.changed, ways[s.direction]) for s in back.times.shifts
        }
        assert there.times.alike == back.times.alike
        assert there.gpus == back.gpus
