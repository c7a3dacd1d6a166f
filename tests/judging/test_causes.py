"""In which order findings stand: the box before the use, causes before symptoms, the grave before the light."""

from __future__ import annotations

import string
from itertools import pairwise, product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fp8doctor.judging.causes import order_findings
from fp8doctor.judging.outcomes import Outcome, effective_severity
from fp8doctor.judging.report import FindingRecord
from fp8doctor.model import Finding, Gain, Scope, Severity
from fp8doctor.specs import Rule


def outcome(
    id: str,
    name: str | None = None,
    *findings: Finding,
    explains: tuple[str, ...] = (),
    severity: Severity = Severity.WARNING,
    scope: Scope = "box",
    fired: bool = True,
) -> Outcome:
    rule = Rule(id, name or f"n-{id.lower()}", severity, scope, None, explains, lambda: None, {}, "t", "p")
    found = (findings or (Finding(f"{id} found"),)) if fired else ()
    return Outcome(rule, "finding" if found else "pass", None, found)


def ids(outcomes: list[Outcome]) -> list[str]:
    return [record.id for record in order_findings(outcomes)]


def test_a_cause_stands_before_its_symptoms_however_light_it_is() -> None:
    symptom = outcome("SYM001", "symptom", severity=Severity.ERROR)
    cause = outcome("CAU001", "cause", explains=("symptom",), severity=Severity.INFO)
    records = order_findings([symptom, cause])
    assert [r.id for r in records] == ["CAU001", "SYM001"]
    assert records[0].explains == ("SYM001",)


def test_a_cause_is_told_as_gravely_as_what_is_folded_under_it_and_leads_by_its_own_weight() -> None:
    symptom = outcome("SYM001", "symptom", severity=Severity.ERROR)
    cause = outcome("CAU001", "cause", explains=("symptom",), severity=Severity.WARNING)
    other = outcome("OTH001", "other", severity=Severity.ERROR)
    records = order_findings([symptom, cause, other])
    assert [(r.id, r.severity) for r in records] == [
        ("OTH001", Severity.ERROR),
        ("CAU001", Severity.ERROR),
        ("SYM001", Severity.ERROR),
    ]


def test_of_two_errors_what_stops_all_programs_stands_before_what_stops_one_package() -> None:
    fault = Finding("torchao cannot be imported", about="package:torchao")
    package = outcome("AAA001", None, fault, severity=Severity.ERROR)
    box = outcome("BBB001", None, Finding("no GPU is visible"), severity=Severity.ERROR)
    assert ids([package, box]) == ["BBB001", "AAA001"]
    lighter = outcome("CCC001", severity=Severity.INFO)
    assert ids([package, lighter]) == ["AAA001", "CCC001"]


def test_only_what_fired_is_explained_and_a_name_may_be_shared() -> None:
    cause = outcome("CAU001", explains=("symptom", "absent", "silent"))
    twins = [outcome("SYM001", "symptom"), outcome("SYM002", "symptom")]
    silent = outcome("SIL001", "silent", fired=False)
    assert order_findings([cause, *twins, silent])[0].explains == ("SYM001", "SYM002")


def test_chains_are_followed() -> None:
    chain = [
        outcome("CCC001", "c"),
        outcome("BBB001", "b", explains=("c",)),
        outcome("AAA001", "a", explains=("b",)),
    ]
    assert ids(chain) == ["AAA001", "BBB001", "CCC001"]


def test_a_circle_of_explanations_ends_and_nothing_is_lost() -> None:
    circle = [
        outcome("AAA001", "a", explains=("b",)),
        outcome("BBB001", "b", explains=("a", "b")),
        outcome("CCC001", "c"),
    ]
    assert sorted(ids(circle)) == ["AAA001", "BBB001", "CCC001"]


def test_the_box_stands_before_the_use_then_severity_then_what_it_costs() -> None:
    found = [
        outcome("USE001", scope="usage", severity=Severity.ERROR),
        outcome("BOX001", severity=Severity.INFO),
        outcome("BOX002", None, Finding("small", gain=Gain(1.1, "torch-bf16", "measured"))),
        outcome("BOX003", None, Finding("large", gain=Gain(2.1, "torch-bf16", "measured"))),
        outcome("BOX004", severity=Severity.ERROR),
    ]
    assert ids(found) == ["BOX004", "BOX003", "BOX002", "BOX001", "USE001"]


def test_a_finding_may_change_its_scope_and_lower_its_severity() -> None:
    (record,) = order_findings(
        [outcome("BOX001", None, Finding("f", scope="usage", severity=Severity.INFO), severity=Severity.ERROR)]
    )
    assert (record.scope, record.severity) == ("usage", Severity.INFO)


def test_each_gpu_has_its_own_finding() -> None:
    found = outcome("GPU001", None, Finding("b", about="gpu:1"), Finding("a", about="gpu:0"))
    assert [r.about for r in order_findings([found])] == ["gpu:0", "gpu:1"]


NAMES = string.ascii_lowercase[:6]


@st.composite
def fired_rules(draw: st.DrawFn, acyclic: bool) -> list[Outcome]:
    letters = draw(st.permutations(NAMES))[: draw(st.integers(1, len(NAMES)))]
    found = []
    for place, letter in enumerate(letters):
        later = list(letters[place + 1 :]) if acyclic else list(NAMES)
        explains = tuple(draw(st.lists(st.sampled_from(later), unique=True))) if later else ()
        finding = Finding(
            "f",
            gain=draw(st.none() | st.builds(Gain, st.floats(1, 9), st.just("torch-bf16"), st.just("measured"))),
            severity=draw(st.sampled_from([None, *Severity])),
        )
        scope: Any = draw(st.sampled_from(["box", "usage"]))
        severity = draw(st.sampled_from(list(Severity)))
        found.append(
            outcome(f"{letter.upper() * 2}001", letter, finding, explains=explains, severity=severity, scope=scope)
        )
    return found


@given(fired_rules(acyclic=False), st.randoms())
def test_the_order_does_not_depend_on_the_order_of_the_rules_and_loses_nothing(
    found: list[Outcome], chance: Any
) -> None:
    shuffled = list(found)
    chance.shuffle(shuffled)
    ordered = order_findings(found)
    assert [r.id for r in ordered] == ids(shuffled)
    assert sorted(r.id for r in ordered) == sorted(o.rule.id for o in found)


@given(fired_rules(acyclic=False))
def test_the_box_always_stands_before_the_use(found: list[Outcome]) -> None:
    scopes = [r.scope for r in order_findings(found)]
    assert scopes == sorted(scopes)


@given(fired_rules(acyclic=True))
def test_within_a_scope_no_symptom_stands_before_its_cause(found: list[Outcome]) -> None:
    records = list(order_findings(found))
    for (i, symptom), (j, cause) in product(enumerate(records), repeat=2):
        if symptom.id in cause.explains and symptom.scope == cause.scope:
            assert j < i


@given(fired_rules(acyclic=True))
def test_findings_that_nothing_explains_stand_by_their_own_severity_and_then_by_cost(found: list[Outcome]) -> None:
    """A cause that is told as gravely as its symptoms does not thereby come before what is grave by itself."""
    own = {(o.rule.id, f.about): effective_severity(o.rule, f) for o in found for f in o.findings}
    records = order_findings(found)
    explained = {id for record in records for id in record.explains}
    free = [record for record in records if record.id not in explained and record.scope == "box"]
    for one, other in pairwise(free):
        assert weight(one, own[one.id, one.about]) <= weight(other, own[other.id, other.about])


def weight(record: FindingRecord, severity: Severity) -> tuple[int, bool, float]:
    return (
        severity.rank,
        severity is Severity.ERROR and (record.about or "").startswith("package:"),
        -(record.gain.speedup if record.gain else 0.0),
    )
