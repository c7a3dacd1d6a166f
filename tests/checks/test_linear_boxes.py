"""Real boxes, and boxes of which much was not seen: what the rules of the linear layer say of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fp8doctor
from fp8doctor.checks.gpu.clocks import Clocks, ClockSample
from fp8doctor.checks.gpu.facts import Gpus
from fp8doctor.checks.linear.facts import Linear
from fp8doctor.model import Estimate, Finding, NotApplicable, Unknown
from fp8doctor.plain import from_plain, to_plain
from tests.linear_facts import LINEAR, ONE_H200, REGISTRY, STEADY, candidates, exhibits, verdict

BOXES = Path(__file__).parent.parent / "boxes"

PLAIN = to_plain(LINEAR)
PLAIN_GPU = to_plain(ONE_H200)["gpus"][0]
CASE_FIELDS = sorted(PLAIN["cases"][0])
BROKEN_TIMER = to_plain(Estimate(0.0, 0.0, 0.0, 25, 0.0))


def punched(data: st.DataObject) -> tuple[Linear, Gpus, Clocks]:
    """The facts with random fields not observed, here and there or everywhere, and a time that is none."""
    draw = data.draw
    everywhere = draw(st.sets(st.sampled_from(CASE_FIELDS), max_size=4))
    places = st.tuples(st.integers(0, len(PLAIN["cases"]) - 1), st.sampled_from(CASE_FIELDS))
    here = draw(st.sets(places, max_size=12))
    no_times = draw(st.sets(st.integers(0, len(PLAIN["cases"]) - 1), max_size=3))
    cases = [{name: None if name in everywhere else value for name, value in c.items()} for c in PLAIN["cases"]]
    for index, name in here:
        cases[index][name] = None
    for index in no_times:
        cases[index]["device_us"] = cases[index]["call_us"] = BROKEN_TIMER
    kept = draw(st.integers(0, len(cases)))
    plain = {**PLAIN, "cases": cases[kept:] if draw(st.booleans()) else cases[:kept], "ceilings": None}
    if draw(st.booleans()):
        holes = draw(st.sets(st.sampled_from(sorted(PLAIN["ceilings"]["bf16"]))))
        ceilings = {name: draw(st.sampled_from([value, None])) for name, value in PLAIN["ceilings"].items()}
        plain["ceilings"] = {
            name: {**value, **dict.fromkeys(holes)} if name in ("bf16", "fp8") and value else value
            for name, value in ceilings.items()
        }
    for name in draw(st.sets(st.sampled_from(sorted(PLAIN)), max_size=3)):
        plain[name] = None
    gpu = {**PLAIN_GPU, **dict.fromkeys(draw(st.sets(st.sampled_from(sorted(PLAIN_GPU)), max_size=5)))}
    clocks = draw(st.sampled_from([STEADY, Clocks(), Clocks(samples=(ClockSample(), ClockSample(t_s=15.5)))]))
    return from_plain(Linear, plain), from_plain(Gpus, {"gpus": draw(st.sampled_from([[gpu], [], None]))}), clocks


@pytest.mark.parametrize("box", ["h200", "h200-torch-only"])
def test_a_real_healthy_h200_is_ready_and_gets_lessons_only(box: str) -> None:
    report = fp8doctor.diagnose(BOXES / f"{box}.json")
    assert report.verdict.status == "ready"
    assert [f.id for f in report.findings if f.scope == "box"] == []
    assert [f.name for f in report.findings[:2]] == ["not-compiled", "quantize-overhead"]
    assert report.findings[0].explains == ("LIN003",)
    outcomes = {o.id: o.outcome for o in report.outcomes if o.id in REGISTRY.rules}
    if not any(case.get("host_us") for case in (report.facts["linear"] or {})["cases"]):
        assert outcomes.pop("LIN004") == "unknown", "recorded before the host's part was timed"
    assert set(outcomes.values()) <= {"pass", "finding"}
    assert outcomes["LIN005"] == "pass", "on Hopper one scale a row is no slower"


@given(st.data())
def test_whatever_was_not_observed_nothing_raises_and_nothing_wrong_is_seen(data: st.DataObject) -> None:
    linear, gpus, clocks = punched(data)
    for rule, spec in REGISTRY.rules.items():
        result = verdict(rule, linear, gpus, clocks)
        assert result is None or isinstance(result, (Finding, Unknown, NotApplicable))
        assert not (spec.scope == "box" and isinstance(result, Finding)), "a hole is no fault of the box"
    candidates(linear, gpus)
    exhibits(linear, gpus, clocks)
