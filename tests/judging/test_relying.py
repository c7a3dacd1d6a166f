"""Times that were disturbed, or scatter, stay among the facts and are seen by no rule."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fp8doctor import api
from fp8doctor.checks.linear.facts import Case, Linear
from fp8doctor.cli.demo import recorded
from fp8doctor.judging.outcomes import Runs
from fp8doctor.judging.relying import MOST_SCATTER, relied_on
from fp8doctor.model import Estimate, Facts, ProbeRun
from fp8doctor.registry import Registry, disturbances
from fp8doctor.reliance import Disturbance, Reliance

STEADY = Estimate(100.0, 99.0, 101.0, 25, 2.0)
TIMED = Case(config="torch-bf16", kind="layer", m=1, k=1, n=1, outcome="ok", device_us=STEADY, call_us=STEADY,
             relative_error=0.002, started_s=10.0, ended_s=11.0)  # fmt: skip


def relied(case: Case, *spans: Disturbance) -> tuple[Case, Reliance]:
    @disturbances
    def made() -> list[Disturbance]:
        return list(spans)

    registry = Registry()
    registry._add(made.__fp8doctor__, "here")  # type: ignore[attr-defined]
    seen = relied_on(registry, {"linear": ProbeRun("ok", Linear(measurable=True, cases=(case,)))})
    linear, counted = seen["linear"].facts, seen["reliance"].facts
    assert isinstance(linear, Linear)
    assert linear.cases
    assert isinstance(counted, Reliance)
    return linear.cases[0], counted


def test_a_steady_time_that_nothing_disturbed_is_relied_on() -> None:
    assert relied(TIMED) == (TIMED, Reliance(timed=1, disturbed=0, scattered=0))
    assert relied(TIMED, Disturbance(2.0, 9.9))[0] == TIMED


@pytest.mark.parametrize("span", [Disturbance(9.0, 10.0), Disturbance(10.4, 10.5), Disturbance(-math.inf, math.inf)])
def test_a_time_that_somebody_disturbed_is_put_aside_and_its_result_is_not(span: Disturbance) -> None:
    case, counted = relied(TIMED, span)
    assert (case.device_us, case.call_us) == (None, None)
    assert (case.outcome, case.relative_error) == ("ok", 0.002)
    assert counted == Reliance(timed=1, disturbed=1, scattered=0)


def test_who_comes_after_the_device_was_timed_disturbs_the_calls_which_are_timed_later() -> None:
    case, counted = relied(TIMED, Disturbance(12.0, 20.0))
    assert (case.device_us, case.call_us) == (STEADY, None)
    assert counted.put_aside == 0


def test_a_device_time_that_scatters_is_put_aside_and_the_hosts_scattering_is_its_own() -> None:
    wild = replace(STEADY, iqr=100.0 * MOST_SCATTER + 0.1)
    case, counted = relied(replace(TIMED, device_us=wild, call_us=wild))
    assert (case.device_us, case.call_us) == (None, wild)
    assert counted == Reliance(timed=1, disturbed=0, scattered=1)
    assert relied(replace(TIMED, device_us=replace(STEADY, iqr=100.0 * MOST_SCATTER)))[1].put_aside == 0


def test_what_does_not_say_when_it_was_timed_is_as_disturbed_as_its_whole_record() -> None:
    without = replace(TIMED, started_s=None, ended_s=None)
    linear = Linear(measurable=True, cases=(TIMED, without))

    @disturbances
    def made() -> list[Disturbance]:
        return [Disturbance(10.5, 10.6)]

    registry = Registry()
    registry._add(made.__fp8doctor__, "here")  # type: ignore[attr-defined]
    seen = relied_on(registry, {"linear": ProbeRun("ok", linear)})["linear"].facts
    assert isinstance(seen, Linear)
    assert [case.device_us for case in seen.cases or ()] == [None, None]


def test_a_subject_that_fails_to_say_what_disturbed_costs_its_word_alone() -> None:
    @disturbances
    def made() -> list[Disturbance]:
        raise ZeroDivisionError

    registry = Registry()
    registry._add(made.__fp8doctor__, "here")  # type: ignore[attr-defined]
    runs: Runs = {"linear": ProbeRun[Facts]("ok", Linear(cases=(TIMED,)))}
    assert relied_on(registry, runs)["linear"].facts == Linear(cases=(TIMED,))


def test_beside_a_neighbour_that_computes_no_time_is_built_on() -> None:
    """A real H200 beside a program that multiplied all the time, from the 28th second on."""
    report = api.diagnose(recorded()["h200-busy"])
    found = {finding.id: finding for finding in report.findings}
    assert found["GPU014"].title == "98 of 301 timed cases on NVIDIA H200 are not used"
    assert found["GPU004"].explains == ("GPU014",)
    # Its grouped products had taken 2.6 times as long, and its attention 2.8 times.
    assert not [one for one in report.findings if one.id.startswith(("GRP", "ATT"))]
    unsure = {one.id: one.reason for one in report.outcomes if one.outcome == "unknown"}
    assert unsure["GRP001"] == "no grouped FP8 product was timed; times were put aside (GPU014)"
    # What was timed before it came is used.
    assert report.verdict.status == "ready"
    assert {(use.when.k, use.when.n) for use in report.use} == {(3072, 3072), (3072, 12288)}
    # And nothing is lost.
    assert report.facts["grouped_gemm"]["cases"][0]["device_us"]


def test_on_quiet_boxes_no_time_is_put_aside() -> None:
    for name, facts in recorded().items():
        if name != "h200-busy":
            assert "GPU014" not in {finding.id for finding in api.diagnose(facts).findings}, name
