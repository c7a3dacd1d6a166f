"""Our own reports are judged again as they were, from JSON and from Markdown, quoted or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fp8doctor import api
from fp8doctor.judging.report import Report
from fp8doctor.reading import own
from fp8doctor.reporting.smaller import compact
from fp8doctor.store import NotAFactsFileError

BOXES = sorted((Path(__file__).parent.parent / "boxes").glob("*.json"))
H200 = next(box for box in BOXES if box.name == "h200.json")


def gist(report: Report) -> tuple[object, ...]:
    found = [(f.id, f.severity, f.title, f.about) for f in report.findings]
    return report.verdict, found, [(u.config, u.label) for u in report.use]


@pytest.mark.parametrize("box", BOXES, ids=lambda box: box.stem)
def test_markdown_that_was_pasted_gives_back_verdict_advice_findings_and_outcomes(box: Path) -> None:
    report = api.diagnose(box)
    back = api.read(f"I get this:\n\n{api.report_to_markdown(report)}\nWhat can I do?\n")
    original = json.loads(api.report_to_json(report))
    again = json.loads(api.report_to_json(back))
    for part in ("verdict", "use", "findings", "silenced"):
        assert again[part] == original[part]
    assert [(one["id"], one["outcome"]) for one in again["outcomes"]] == [
        (one["id"], one["outcome"]) for one in original["outcomes"]
    ]
    assert again["outcomes"] == original["outcomes"] or "the reasons of outcomes" in back.left_out


@pytest.mark.parametrize("box", BOXES, ids=lambda box: box.stem)
def test_its_facts_come_back_but_for_what_is_named_as_left_out(box: Path) -> None:
    report = api.diagnose(box)
    back = api.read(api.report_to_markdown(report))
    original, found = (compact(json.loads(api.report_to_json(one))["facts"]) for one in (report, back))

    def compare(one: Any, other: Any, path: str) -> None:
        if path in back.left_out:
            assert other is None, f"{path} is left out, and there is no trace of it"
        elif isinstance(one, dict):
            for key, value in one.items():
                compare(value, (other or {}).get(key), f"{path}.{key}")
        else:
            assert one == other, path

    for key, record in original.items():
        compare(record, found.get(key), f"facts.{key}")


@pytest.mark.parametrize("box", BOXES, ids=lambda box: box.stem)
def test_what_half_a_report_quotes_is_no_error_of_the_text(box: Path) -> None:
    markdown = api.report_to_markdown(api.diagnose(box))
    visible = markdown[: markdown.index("<details>")]
    assert api.read(visible).facts["messages"]["messages"] == []
    with_a_log = api.read(f"{visible}\nand then:\nRuntimeError: \"mul_cuda\" not implemented for 'Float8_e4m3fn'\n")
    assert with_a_log.facts["messages"]["messages"]


@pytest.mark.parametrize("box", BOXES, ids=lambda box: box.stem)
def test_the_box_keeps_its_name_and_what_scripts_rely_on(box: Path) -> None:
    report = api.diagnose(box)
    back = api.read(api.report_to_markdown(report))
    assert back.captions == report.captions
    assert not [
        path for path in back.left_out if path.startswith(("facts.gpus", "facts.driver", "facts.libraries.ins"))
    ]


def test_what_cannot_be_judged_again_says_that_it_is_the_pastes_word() -> None:
    back = api.read(api.report_to_markdown(api.diagnose(H200)))
    assert "As the paste says, not judged again: FP8 pays" in " ".join(api.report_to_text(back).split())
    whole = api.read(api.report_to_markdown(api.diagnose(H200.with_name("no-gpu.json"))))
    assert "As the paste says" not in api.report_to_text(whole)


def test_what_was_left_out_stays_named_when_the_report_is_written_again() -> None:
    back = api.read(api.report_to_markdown(api.diagnose(H200)))
    assert "facts.linear.cases" in back.left_out
    again = api.diagnose(api.report_to_json(back))
    assert (again.left_out, gist(again)) == (back.left_out, gist(back))
    assert "Left out of this text - facts for which it had no room" in " ".join(api.report_to_text(back).split())
    assert gist(api.read(api.report_to_markdown(back))) == gist(back)


def test_the_html_page_is_read_back_too() -> None:
    pytest.importorskip("vl_convert")
    report = api.diagnose(H200)
    assert gist(api.read(api.report_to_html(report))) == gist(report)


@pytest.mark.parametrize("box", BOXES, ids=lambda box: box.stem)
def test_json_that_was_pasted_gives_the_same(box: Path) -> None:
    report = api.diagnose(box)
    assert gist(api.read(api.report_to_json(report))) == gist(report)
    assert gist(api.read("see:\n```json\n" + api.facts_to_json(report) + "```\n")) == gist(report)


def test_a_quoted_block_is_found_under_its_quoting() -> None:
    markdown = api.report_to_markdown(api.diagnose(BOXES[-1]))
    quoted = "".join(f"> {line}\n" for line in markdown.splitlines())
    assert gist(api.read(quoted)) == gist(api.diagnose(BOXES[-1]))
    assert gist(api.read(markdown.replace("\n", "\r\n").encode())) == gist(api.diagnose(BOXES[-1]))


def test_of_a_block_that_is_cut_the_header_line_is_read_and_the_text_says_so() -> None:
    markdown = api.report_to_markdown(api.diagnose(H200))
    cut = markdown[: markdown.index('"findings":[')]
    report = api.read(cut)
    assert report.verdict.fp8_hardware is True
    facts = report.facts
    assert facts["gpus"]["gpus"][0]["compute_capability"] == "9.0"
    assert facts["driver"]["version"]
    assert facts["torch_build"]["version"]
    assert facts["reading"]["cut"] is True
    assert "its JSON is cut off" in facts["reading"]["untold"][0]["why"]


def test_json_that_is_cut_says_so() -> None:
    text = api.report_to_json(api.diagnose(H200))
    with pytest.raises(NotAFactsFileError, match="cut short"):
        api.read(text[: len(text) // 2])


def test_other_json_and_a_mention_of_the_schema_are_not_ours() -> None:
    assert own.find(json.dumps({"schema": "something.else", "facts": {}})) is None
    assert own.find("fp8doctor.report is the schema's name") is None
    assert own.find("") is None
