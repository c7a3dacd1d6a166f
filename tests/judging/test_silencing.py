"""What a person silences is not told and does not count; that it was found stays true."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fp8doctor import api
from fp8doctor.judging.report import Report, SilencedRecord
from fp8doctor.judging.silencing import Choice, Selection

ROOT = Path(__file__).parents[1]
BOXES = {box.stem: box.read_bytes() for box in (ROOT / "boxes").glob("*.json")}


def ignoring(*named: str) -> Selection:
    return Selection(ignore=tuple(Choice(one, f"--ignore {one}") for one in named))


def box(name: str, selection: Selection) -> Report:
    return api.diagnose(BOXES[name], source="demo", selection=selection)


def ids(report: Report) -> list[str]:
    return [finding.id for finding in report.findings]


@pytest.mark.parametrize("named", ["LIN004", "lin004", "cpu-launch-bound", "CPU-Launch-Bound", "LIN", "lin0"])
def test_a_rule_is_named_by_its_id_its_name_or_how_its_id_begins(named: str) -> None:
    assert Choice(named, "").holds("LIN004", "cpu-launch-bound")


@pytest.mark.parametrize("named", ["LIN003", "cpu", "launch", "LIN0044", "", " ", "004"])
def test_nothing_else_names_it(named: str) -> None:
    assert not Choice(named, "").holds("LIN004", "cpu-launch-bound")


def test_of_nothing_selected_all_is_shown_and_what_is_ignored_goes_before_what_is_selected() -> None:
    assert Selection().silenced_by("LIN004", "cpu-launch-bound") is None
    both = Selection((Choice("LIN", "--select LIN"),), (Choice("LIN004", "--ignore LIN004"),))
    assert both.silenced_by("LIN004", "cpu-launch-bound") == "--ignore LIN004"
    assert both.silenced_by("LIN003", "quantize-overhead") is None
    assert both.silenced_by("AO001", "torchao-torch-mismatch") == "--select LIN"


def test_a_silenced_finding_is_told_as_silenced_and_its_outcome_stays_true() -> None:
    whole = box("h200", Selection())
    assert "CMP002" in ids(whole)
    quiet = box("h200", ignoring("CMP002"))
    assert ids(quiet) == [id for id in ids(whole) if id != "CMP002"]
    assert quiet.silenced == (SilencedRecord("CMP002", "not-compiled", "--ignore CMP002"),)
    assert quiet.outcomes == whole.outcomes
    assert quiet.verdict.status == whole.verdict.status
    assert quiet.use == whole.use
    assert not any("CMP002" in finding.explains for finding in quiet.findings)


@pytest.mark.parametrize("name", BOXES)
def test_the_headline_names_nothing_that_is_silenced(name: str) -> None:
    whole = box(name, Selection())
    quiet = box(name, ignoring(*(outcome.id for outcome in whole.outcomes if ":" not in outcome.id)))
    assert quiet.findings == ()
    assert len(quiet.silenced) == len(set(ids(whole)))
    assert replace(quiet.verdict, headline="") == replace(whole.verdict, headline="")
    for finding in whole.findings:
        assert finding.title.rstrip(".") not in quiet.verdict.headline


def test_what_did_not_fire_is_not_told_as_silenced() -> None:
    assert [one.id for one in box("no-gpu", ignoring("LIN", "GPU")).silenced] == ["GPU002"]


def test_a_recording_with_a_silenced_finding_has_not_nothing_to_mend() -> None:
    trace = ROOT / "traces" / "eager-fp8.json.gz"
    quiet = api.trace(trace, selection=ignoring("STP", "CMP"))
    assert quiet.silenced
    assert quiet.findings == ()
    assert "Nothing to mend" not in quiet.verdict.headline


def test_gpus_that_are_unlike_are_still_said_to_differ() -> None:
    gpus = {"gpus": [{"index": 0, "name": "NVIDIA H200", "compute_capability": "9.0", "vendor": "nvidia"},
                     {"index": 1, "name": "NVIDIA A100", "compute_capability": "8.0", "vendor": "nvidia"}]}  # fmt: skip
    facts = {"schema": "fp8doctor.facts", "schema_version": "1.0", "probes": {}, "facts": {"gpus": gpus}}
    assert "A100" in api.diagnose(facts).verdict.headline
    quiet = api.diagnose(facts, selection=ignoring("GPU001"))
    assert quiet.verdict.headline == "Cannot say: the GPUs of this box differ."


def test_a_report_read_back_keeps_what_was_silenced_in_it() -> None:
    quiet = box("h200", ignoring("CMP002"))
    assert json.loads(quiet.to_json())["silenced"] == [
        {"id": "CMP002", "name": "not-compiled", "by": "--ignore CMP002"}
    ]
    for again in (api.diagnose(quiet.to_json()), api.read(quiet.to_json())):
        assert again.silenced == quiet.silenced
        assert ids(again) == ids(quiet)
    more = api.diagnose(quiet.to_json(), selection=ignoring("LIN"))
    assert {"CMP002", "LIN004"} <= {one.id for one in more.silenced}


def test_it_shows_again_what_is_asked_for_by_name() -> None:
    quiet = box("h200", ignoring("CMP002", "LIN004")).to_json()
    asked = (Choice("not-compiled", "--select not-compiled"),)
    for again in (api.diagnose(quiet, selection=Selection(asked, again=asked)),
                  api.read(quiet, selection=Selection(asked, again=asked))):  # fmt: skip
        assert ids(again) == ["CMP002"]
        assert {one.id: one.by for one in again.silenced}["LIN004"] == "--ignore LIN004"
    kept = api.diagnose(quiet, selection=Selection(asked))
    assert "CMP002" in {one.id for one in kept.silenced}
    both = api.diagnose(quiet, selection=Selection(asked, ignoring("CMP").ignore, again=asked))
    assert {one.id: one.by for one in both.silenced}["CMP002"] == "--ignore CMP"


def test_so_does_one_that_was_pasted() -> None:
    quiet = box("no-gpu", ignoring("no-gpu-visible"))
    assert quiet.silenced
    assert api.read(f"Here it is:\n\n{quiet.to_markdown()}").silenced == quiet.silenced


def test_a_report_from_before_there_was_silencing_is_read() -> None:
    document = json.loads(box("h200", Selection()).to_json())
    del document["silenced"]
    assert api.diagnose(document).silenced == ()


@pytest.mark.parametrize("id", ["", "C", "CMP", "cmp002", "XYZ001"])
def test_a_report_made_to_silence_more_than_a_rule_silences_nothing(id: str) -> None:
    document = json.loads(box("h200", Selection()).to_json())
    document["silenced"] = [{"id": id, "name": "not-compiled", "by": "--ignore"}]
    assert api.diagnose(document).silenced == ()


def test_what_one_of_two_reports_silences_did_not_come_or_go_between_them() -> None:
    whole, quiet = box("h200", Selection()), box("h200", ignoring("CMP002"))
    for pair in ((whole, quiet), (quiet, whole)):
        found = api.diff(*pair)
        assert not [one for one in found.finding_changes if one.id == "CMP002"]
        assert found.silenced == (SilencedRecord("CMP002", "not-compiled", "--ignore CMP002"),)


def test_what_two_reports_silence_for_two_reasons_is_told_once_with_both() -> None:
    by_name = box("h200", ignoring("not-compiled"))
    for one in (by_name, box("h200", ignoring("CMP002"))):
        assert [each.id for each in api.diff(one, one).silenced] == ["CMP002"]
    found = api.diff(box("h200", ignoring("CMP002")), by_name)
    assert [one.by for one in found.silenced] == ["--ignore CMP002, --ignore not-compiled"]
