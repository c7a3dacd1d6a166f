"""Differences of two recorded steps: their time on the GPU, and where it went."""

from __future__ import annotations

from pathlib import Path

from fp8doctor import api
from fp8doctor.checks.step.traits import of_trace, recorded
from fp8doctor.judging.report import Report
from fp8doctor.reporting.difference_words import sections
from fp8doctor.traced import Trace
from tests.difference_cases import recorded as box
from tests.reading import texts

TRACES = Path(__file__).parent.parent / "traces"


def traced(name: str) -> Report:
    return api.trace(TRACES / f"{name}.json.gz")


def test_a_slower_step_is_told_with_what_took_a_larger_share_of_it() -> None:
    found = api.diff(traced("healthy-fp8"), traced("eager-fp8"))
    assert found.headline.startswith("One step takes ")
    assert "by one recording each. 2 new findings." in found.headline
    assert [shift.direction for shift in found.times.shifts] == ["slower"]
    likely = {one.name for one in found.explanations if one.certainty == "likely"}
    assert likely == {"share of the step: casts to FP8", "share of the step: idle"}
    assert found.regressions


def test_one_recording_each_does_not_tell_a_small_difference() -> None:
    step = Trace(steps=1, span_us=1000.0, us_by_kind={"fp8-gemm": 1000.0})
    (before,) = recorded(step)
    assert before.device_us is not None
    assert (before.device_us.median, before.device_us.n) == (1000.0, 1)
    found = api.diff(traced("healthy-fp8"), traced("healthy-fp8"))
    assert (found.times.compared, found.times.shifts) == (1, ())
    assert "which one recording each cannot tell apart" in found.headline
    (times,) = [one for one in sections(api.difference_view(found)) if one.title == "Times"]
    assert times.note.startswith("one recording each")


def test_recordings_without_marked_steps_may_be_of_any_length_and_are_not_compared() -> None:
    assert recorded(Trace(span_us=1000.0)) == []
    assert recorded(Trace(steps=3)) == []


def test_the_share_of_what_a_step_is_there_for_explains_no_slow_down() -> None:
    shares = {one.name: one for one in of_trace(Trace(span_us=100.0, idle_us=20.0, us_by_kind={"fp8-gemm": 80.0}))}
    assert shares["share of the step: FP8 products"].value == 80
    assert shares["share of the step: idle"].value == 20
    assert shares["share of the step: FP8 products"].why is None
    assert shares["share of the step: casts to FP8"].why
    assert {one.points for name, one in shares.items() if name != "GPU"} == {10.0}


def test_what_is_broken_in_b_stands_in_the_result_where_a_tells_nothing_of_it() -> None:
    ada = api.read(texts.collect_env())
    blackwell = api.read(texts.collect_env(gpus=" GPU 0: NVIDIA GeForce RTX 5090"))
    headline = api.diff(ada, blackwell).headline
    assert "Wrong in B, and nothing that A tells of: This torch has no code for the NVIDIA GeForce RTX 5090" in headline
    assert "Wrong in B" not in api.diff(blackwell, ada).headline


def test_where_no_time_changed_it_is_said_what_is_explained() -> None:
    titles = [one.title for one in sections(api.difference_view(api.diff(box("h200-torch-only"), box("h200"))))]
    assert "What may explain the other advice" in titles
    assert "What may explain it" not in titles
