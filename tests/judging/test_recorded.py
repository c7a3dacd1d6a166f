"""A recording answers by itself: its sentence, and the answers that rules on it settle alone."""

from __future__ import annotations

from typing import Any

import pytest

from fp8doctor.judging.judge import judge
from fp8doctor.judging.outcomes import Outcome
from fp8doctor.judging.report import FindingRecord, OutcomeName
from fp8doctor.judging.verdict import decide
from fp8doctor.model import Severity
from fp8doctor.registry import Registry
from fp8doctor.specs import Rule
from fp8doctor.traced import Trace

SAID = "Where the GPU's time went: all of it in products"


def finding(title: str, severity: Severity) -> FindingRecord:
    return FindingRecord("ANY001", "any", severity, "usage", title)


def settling(name: OutcomeName, *, unseen: bool = False) -> Outcome:
    rule = Rule("ANY001", "any", Severity.ERROR, "box", "runs", (), lambda: None, {}, "t", "p")
    return Outcome(rule, name, unseen=unseen)


def test_what_was_found_leads_and_a_note_follows() -> None:
    assert decide([], (), (), [], SAID).headline == f"{SAID}."
    warning = decide([], (finding("It waits", Severity.WARNING),), (), [], SAID)
    assert warning.headline == f"It waits. {SAID}."
    note = decide([], (finding("It may gain", Severity.INFO),), (), [], SAID)
    assert note.headline == f"{SAID}. It may gain."


def test_where_rules_looked_and_found_nothing_grave_it_is_said_last() -> None:
    looked, note = [settling("pass")], finding("It may gain", Severity.INFO)
    assert decide(looked, (), (), [], SAID).headline == f"{SAID}. Nothing to mend was found."
    assert decide(looked, (note,), (), [], SAID).headline == f"{SAID}. It may gain. Nothing to mend was found."
    warning = finding("It waits", Severity.WARNING)
    assert decide(looked, (warning, note), (), [], SAID).headline == f"It waits. {SAID}."
    assert decide([settling("unknown")], (), (), [], SAID).headline == f"{SAID}."


@pytest.mark.parametrize(
    ("outcomes", "answer"),
    [
        ([settling("pass"), settling("unknown", unseen=True)], True),
        ([settling("pass"), settling("unknown")], None),
        ([settling("unknown", unseen=True)], None),
        ([settling("not-applicable"), settling("unknown", unseen=True)], None),
    ],
)
def test_a_rule_that_nobody_gave_facts_does_not_speak_against_one_that_saw(outcomes: Any, answer: bool | None) -> None:
    assert decide(outcomes, (), (), []).fp8_runs is answer


def test_a_traces_sentence_names_the_largest_parts() -> None:
    trace = Trace(span_us=3000.0, steps=3, us_by_kind={"fp8-gemm": 1500.0, "elementwise": 300.0}, idle_us=1200.0)
    assert trace.headline() == (
        "Where the GPU's time went (3 steps of 1.0 ms): 50 % FP8 products, 10 % elementwise, 40 % idle"
    )
    assert Trace().headline() is None
    assert "no GPU activity" in (Trace(accelerator="cpu").headline() or "")


def test_a_sentence_that_cannot_be_made_costs_itself_alone() -> None:
    class Broken(Trace, key="broken"):
        def headline(self) -> str | None:
            raise ValueError("no")

    from fp8doctor.model import ProbeRun

    judged = judge(Registry(), {"broken": ProbeRun("ok", Broken())})
    assert [(o.id, o.outcome) for o in judged.outcomes] == [("headline:broken", "crashed")]
