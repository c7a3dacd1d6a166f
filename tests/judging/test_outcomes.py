"""What becomes of a rule: five outcomes, and what was not measured never reads as passed."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from fp8doctor.judging.judge import judge
from fp8doctor.judging.outcomes import Outcome, effective_severity, judge_rules
from fp8doctor.model import (
    Action,
    Candidate,
    Caption,
    ErrorText,
    Evidence,
    Exhibit,
    Facts,
    Finding,
    Message,
    Messages,
    NotApplicable,
    ProbeRun,
    Settles,
    Severity,
    Unknown,
    observed,
    per_item,
)
from fp8doctor.registry import Registry, candidates, exhibit, rule


@dataclass(frozen=True)
class Fan(Facts, key="fan"):
    rpm: float | None = None
    blades: tuple[float | None, ...] | None = None

    def caption(self) -> Caption | None:
        return Caption(2, f"fan at {self.rpm:.0f} rpm")


@dataclass(frozen=True)
class Room(Facts, key="room"):
    celsius: float | None = None

    def caption(self) -> Caption | None:
        return None if self.celsius is None else Caption(1, f"{self.celsius:g} °C")


def registry_of(*functions: Any, error_texts: tuple[ErrorText, ...] = ()) -> Registry:
    module = types.ModuleType("subject")
    for number, function in enumerate(functions):
        function.__module__ = "subject"
        setattr(module, f"f{number}", function)
    vars(module)["ERROR_TEXTS"] = error_texts
    registry = Registry()
    registry.collect(module)
    return registry


def ok(**facts: Facts) -> dict[str, ProbeRun[Any]]:
    return {key: ProbeRun("ok", value) for key, value in facts.items()}


def outcome_of(function: Callable[..., Any], runs: dict[str, ProbeRun[Any]]) -> Outcome:
    marked = rule("FAN001", "fan-stopped", Severity.WARNING, scope="box")(function)
    (outcome,) = judge_rules(registry_of(marked), runs)
    return outcome


def says(result: Any) -> Outcome:
    def function(fan: Fan) -> Any:
        """The fan stands still."""
        return result() if callable(result) else result

    return outcome_of(function, ok(fan=Fan(900)))


def test_a_rule_has_one_of_five_outcomes() -> None:
    def crash() -> None:
        raise ZeroDivisionError("division by zero")

    assert says(None).name == "pass"
    assert says(Finding("stopped")).name == "finding"
    assert (says(Unknown("dark")).name, says(Unknown("dark")).reason) == ("unknown", "dark")
    assert (says(NotApplicable("no fan")).name, says(NotApplicable("no fan")).reason) == ("not-applicable", "no fan")
    assert (says(crash).name, says(crash).reason) == ("crashed", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("results", "name"),
    [
        ([], "pass"),
        ([None, None], "pass"),
        ([None, NotApplicable("a")], "pass"),
        ([NotApplicable("a"), NotApplicable("b")], "not-applicable"),
        ([None, Unknown("a")], "unknown"),
        ([NotApplicable("a"), Unknown("b")], "unknown"),
        ([None, Unknown("a"), Finding("f")], "finding"),
        ([NotApplicable("a"), Finding("f")], "finding"),
    ],
)
def test_in_a_list_any_finding_makes_a_finding_and_else_any_unknown_an_unknown(results: Any, name: str) -> None:
    assert says(results).name == name
    assert says(list(reversed(results))).name == name


def test_the_reasons_of_a_list_are_each_given_once() -> None:
    assert says([Unknown("a"), Unknown("b"), Unknown("a")]).reason == "a; b"


@pytest.mark.parametrize("result", [True, "slow", ("a",), {"title": "x"}, [Finding("f"), "slow"], Finding])
def test_a_rule_that_returns_something_else_crashed(result: Any) -> None:
    outcome = says([result] if callable(result) else result)
    assert outcome.name == "crashed"
    assert "returned a" in (outcome.reason or "")


def test_items_that_disagree_are_mixed() -> None:
    assert says([Finding("f"), None]).mixed
    assert says([Finding("f"), Unknown("u")]).mixed
    assert not says([Finding("f"), Finding("g")]).mixed
    assert not says([Finding("f"), NotApplicable("n")]).mixed


# --- what was not observed


def test_a_value_that_was_not_observed_makes_the_rule_unknown_and_zero_is_a_value() -> None:
    def stopped(fan: Fan) -> Finding | None:
        """The fan stands still."""
        return Finding("stopped") if observed(fan.rpm, "the fan's speed") == 0 else None

    assert outcome_of(stopped, ok(fan=Fan())).reason == "not observed: the fan's speed"
    assert outcome_of(stopped, ok(fan=Fan(rpm=0.0))).name == "finding"


def test_one_item_that_was_not_observed_does_not_hide_the_others() -> None:
    def cracked(fan: Fan) -> Any:
        """A blade is cracked."""
        blades = observed(fan.blades, "the blades")
        return per_item(blades, lambda b: Finding("cracked") if observed(b, "a blade") < 1 else None)

    assert outcome_of(cracked, ok(fan=Fan())).name == "unknown"
    assert outcome_of(cracked, ok(fan=Fan(blades=()))).name == "not-applicable"
    assert outcome_of(cracked, ok(fan=Fan(blades=(1.0, None)))).reason == "not observed: a blade"
    found = outcome_of(cracked, ok(fan=Fan(blades=(0.5, None, 1.0))))
    assert (found.name, len(found.findings), found.mixed) == ("finding", 1, True)


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (None, "fan was not observed"),
        (ProbeRun("not-observed"), "fan was not observed"),
        (ProbeRun("skipped", detail="no time"), "fan was not examined: no time"),
        (ProbeRun("signal", detail="SIGSEGV"), "the probe of fan ended by signal (SIGSEGV)"),
        (ProbeRun("timeout"), "the probe of fan ended by timeout"),
    ],
)
def test_a_rule_whose_facts_are_missing_is_unknown_and_says_why(run: ProbeRun[Any] | None, reason: str) -> None:
    def never(fan: Fan) -> None:
        """Never called."""
        raise AssertionError

    outcome = outcome_of(never, {} if run is None else {"fan": run})
    assert (outcome.name, outcome.reason) == ("unknown", reason)


def test_what_a_rule_cannot_tell_is_no_riddle_where_nobody_looked_at_any_of_its_facts() -> None:
    def dusty(fan: Fan | None, room: Room | None) -> Unknown:
        """Dust."""
        return Unknown("neither the fan nor the room was seen")

    nobody = outcome_of(dusty, {"fan": ProbeRun("not-observed")})
    assert (nobody.name, nobody.reason, nobody.unseen) == ("unknown", "fan was not observed", True)
    for somebody in (ok(fan=Fan()), {"room": ProbeRun[Any]("signal")}):
        looked = outcome_of(dusty, somebody)
        assert (looked.reason, looked.unseen) == ("neither the fan nor the room was seen", False)


def test_what_a_rule_can_do_without_does_not_make_a_riddle_of_what_nobody_looked_at() -> None:
    def loud(room: ProbeRun[Room], fan: Fan | None) -> Unknown:
        """Noise."""
        return Unknown("the room was not seen")

    assert outcome_of(loud, ok(fan=Fan())).unseen
    assert not outcome_of(loud, {"room": ProbeRun[Any]("signal")}).unseen


def test_that_a_question_does_not_arise_needs_no_facts() -> None:
    def asked(fan: Fan | None) -> NotApplicable:
        """Not asked for."""
        return NotApplicable("no fan was asked for")

    assert outcome_of(asked, {}).reason == "no fan was asked for"


def test_facts_as_far_as_they_came_are_judged_although_the_probe_crashed() -> None:
    def stopped(fan: Fan) -> Finding | None:
        """The fan stands still."""
        return Finding("stopped") if fan.rpm == 0 else None

    assert outcome_of(stopped, {"fan": ProbeRun("signal", Fan(rpm=0.0), "SIGABRT")}).name == "finding"


def test_a_rule_may_do_without_facts_and_may_ask_how_their_probe_ended() -> None:
    def tolerant(fan: Fan | None, room: ProbeRun[Room]) -> Finding:
        """Says what it was given."""
        return Finding(f"{fan} {room.outcome} {room.failed}")

    assert outcome_of(tolerant, {}).findings[0].title == "None not-observed False"
    crashed = {"room": ProbeRun("signal"), **ok(fan=Fan(1.0))}
    assert outcome_of(tolerant, crashed).findings[0].title == f"{Fan(1.0)} signal True"


# --- literal messages


def stopped(fan: Fan) -> Finding | None:
    """The fan stands still.

    What it means: ...
    """
    return Finding("measured") if fan.rpm == 0 else None


TEXTS = (
    ErrorText("rotor locked", rule="FAN001", fix="free the rotor", command="free rotor"),
    ErrorText("smoke", rule="FAN001", fix="leave the room"),
)


def with_message(text: str, settles: Settles | None = None, **facts: Facts) -> Outcome:
    marked = rule("FAN001", "fan-stopped", Severity.ERROR, scope="box", settles=settles)(stopped)
    runs = ok(messages=Messages((Message("FAN001", text, "fan"),)), **facts)
    (outcome,) = judge_rules(registry_of(marked, error_texts=TEXTS), runs)
    return outcome


def test_a_literal_message_makes_a_finding_where_the_facts_are_missing() -> None:
    outcome = with_message("fatal: rotor locked (5)")
    assert outcome.name == "finding"
    assert outcome.findings == (
        Finding(
            "The fan stands still",
            evidence=(Evidence("fan printed: fatal: rotor locked (5)", fact="messages"),),
            actions=(Action("free the rotor", "free rotor"),),
        ),
    )


def test_a_message_that_shows_less_than_its_rule_says_has_a_title_of_its_own() -> None:
    texts = (*TEXTS, ErrorText("bearing dry", rule="FAN001", fix="oil it", title="A bearing is dry"))
    marked = rule("FAN001", "fan-stopped", Severity.ERROR, scope="box")(stopped)
    for lines, title in ((("bearing dry",), "A bearing is dry"), (("smoke", "bearing dry"), "The fan stands still")):
        messages = Messages(tuple(Message("FAN001", line, "fan") for line in lines))
        (outcome,) = judge_rules(registry_of(marked, error_texts=texts), ok(messages=messages))
        assert [finding.title for finding in outcome.findings] == [title]


def test_a_literal_message_weighs_more_than_facts_that_show_nothing_and_less_than_those_that_do() -> None:
    assert with_message("rotor locked", fan=Fan(900)).name == "finding"
    assert with_message("rotor locked", fan=Fan(0)).findings == (Finding("measured"),)


def test_a_message_against_hardware_that_was_seen_is_a_riddle_and_no_finding() -> None:
    outcome = with_message("rotor locked", settles="hardware", fan=Fan(900))
    assert outcome.name == "unknown"
    assert "contradicts what was seen" in str(outcome.reason)
    assert "rotor locked" in str(outcome.reason)
    assert with_message("rotor locked", settles="hardware").name == "finding"
    assert with_message("rotor locked", settles="hardware", fan=Fan(0)).findings == (Finding("measured"),)


def test_a_message_for_another_rule_changes_nothing() -> None:
    marked = rule("FAN002", "other", Severity.ERROR, scope="box")(stopped)
    runs = ok(messages=Messages((Message("FAN001", "rotor locked", "fan"),)), fan=Fan(900))
    assert judge_rules(registry_of(marked, error_texts=TEXTS), runs)[0].name == "pass"


# --- severity


@pytest.mark.parametrize("of_rule", list(Severity))
@pytest.mark.parametrize("of_finding", [None, *Severity])
def test_a_finding_may_lower_its_rules_severity_and_never_raise_it(
    of_rule: Severity, of_finding: Severity | None
) -> None:
    def function(fan: Fan) -> Finding:
        """A page."""
        return Finding("f", severity=of_finding)

    marked = rule("FAN001", "fan-stopped", of_rule, scope="box")(function)
    (outcome,) = judge_rules(registry_of(marked), ok(fan=Fan()))
    shown = effective_severity(outcome.rule, outcome.findings[0])
    assert shown.rank == max(of_rule.rank, (of_finding or of_rule).rank)


# --- the other functions of a subject


@candidates
def broken_candidates(room: Room) -> list[Candidate]:
    """Fail."""
    raise KeyError("times")


@candidates
def odd_candidates(room: Room) -> list[Candidate]:
    """Something else."""
    return ["fast"]  # type: ignore[list-item]


@candidates
def unsure_candidates(room: Room, fan: Fan) -> list[Candidate]:
    """Not without a fan."""
    return [Candidate("linear", "x", "x", "fp8", "x", basis="known")]


@exhibit
def broken_exhibit(room: Room) -> Exhibit | None:
    """Fail."""
    observed(room.celsius, "the temperature")
    raise IndexError("no rows")


@exhibit
def one_exhibit(room: Room) -> Exhibit | None:
    """A table."""
    return Exhibit("room", "table", "The room", "°C", ({"cells": {"celsius": room.celsius}},))


def test_what_makes_candidates_and_exhibits_costs_itself_alone_when_it_fails() -> None:
    registry = registry_of(broken_candidates, odd_candidates, unsure_candidates, broken_exhibit, one_exhibit)
    judged = judge(registry, ok(room=Room(21.0)))
    assert {(o.id, o.outcome, o.reason) for o in judged.outcomes} == {
        ("candidates:broken_candidates", "crashed", "KeyError: 'times'"),
        ("candidates:odd_candidates", "crashed", "TypeError: it made a str"),
        ("exhibit:broken_exhibit", "crashed", "IndexError: no rows"),
    }
    assert [e.id for e in judged.exhibits] == ["room"]
    assert judged.use == ()


def test_what_they_need_and_nobody_observed_makes_them_silent_and_not_broken() -> None:
    registry = registry_of(unsure_candidates, broken_exhibit)
    assert judge(registry, ok(room=Room())).outcomes == ()


def test_captions_stand_in_their_places_and_one_that_fails_costs_itself_alone() -> None:
    assert judge(Registry(), ok(fan=Fan(900), room=Room(21.5))).captions == ("21.5 °C", "fan at 900 rpm")
    judged = judge(Registry(), ok(fan=Fan(), room=Room(21.5)))
    assert judged.captions == ("21.5 °C",)
    assert [(o.id, o.outcome) for o in judged.outcomes] == [("caption:fan", "crashed")]


def test_a_plug_in_that_could_not_be_loaded_is_in_the_report() -> None:
    judged = judge(Registry(broken={"pump-doctor": "SystemExit: 1"}), {})
    assert [(o.id, o.outcome, o.reason) for o in judged.outcomes] == [
        ("plugin:pump-doctor", "crashed", "SystemExit: 1")
    ]


def test_judging_the_same_facts_twice_gives_the_same() -> None:
    marked = rule("FAN001", "fan-stopped", Severity.ERROR, scope="box")(stopped)
    registry = registry_of(marked, one_exhibit)
    runs = ok(fan=Fan(0), room=Room(20))
    assert judge(registry, runs) == judge(registry, dict(reversed(runs.items())))
