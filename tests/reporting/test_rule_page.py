"""A rule's page: what stands on it, in which order, and where its links lead."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fp8doctor import api
from fp8doctor.registry import Registry
from fp8doctor.reporting import rule_page

ROOT = Path(__file__).parents[2]
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "rules").glob("*.md")}


@pytest.fixture(scope="module")
def knowledge() -> Registry:
    return api.knowledge()


def established(id: str, knowledge: Registry) -> str:
    return dict(rule_page.page(knowledge.rules[id], knowledge).sections)["How it is established"]


def last(**outcome: Any) -> dict[str, Any]:
    record = {"id": "LIN004", "outcome": "pass", "reason": None, **outcome}
    return {"created": "2026-11-20T10:00:00+00:00", "gpus": ["NVIDIA H200", "NVIDIA H200"], "findings": [],
            "silenced": [], "outcomes": [record]}  # fmt: skip


def here(knowledge: Registry, report: dict[str, Any]) -> str | None:
    return dict(rule_page.page(knowledge.rules["LIN004"], knowledge, report).sections).get("What it costs here")


def test_the_sections_stand_in_one_order(knowledge: Registry) -> None:
    order = ["What it means", "How it is established", "Why it costs time", "What to do", "Sources"]
    for rule in knowledge.rules.values():
        assert [title for title, _ in rule_page.page(rule, knowledge).sections] == order
    shown = rule_page.page(knowledge.rules["LIN004"], knowledge, last()).sections
    assert [title for title, _ in shown] == [*order[:3], "What it costs here", *order[3:]]


def test_nothing_of_a_rules_text_is_lost(knowledge: Registry) -> None:
    for rule in knowledge.rules.values():
        page = rule_page.page(rule, knowledge)
        text = " ".join([page.title, *(f"{title}: {text}" for title, text in page.sections)])
        assert set(rule.page.split()) - {f"{rule.title}."} <= set(f"{text} {rule.title}.".split())


def test_it_says_which_probe_sees_it_in_which_runs(knowledge: Registry) -> None:
    assert "`linear`: Timing a linear layer in BF16 and FP8, in default and thorough runs" in established(
        "LIN004", knowledge
    )
    assert "`gpus`: Looking for GPUs, in every run; in part from a pasted text" in established("GPU002", knowledge)
    assert "a profiler's trace (fp8doctor trace)" in established("STP003", knowledge)
    assert "a pasted text (fp8doctor read)" in established("SRV004", knowledge)
    assert "also how that ended" in established("AO002", knowledge)


def test_it_says_what_is_settled_by_it_and_what_it_explains(knowledge: Registry) -> None:
    assert "it settles whether the hardware has FP8" in established("GPU001", knowledge)
    assert "it explains LIN003 quantize-overhead" in established("CMP002", knowledge)
    assert "it may itself be explained by CMP002 not-compiled" in established("LIN003", knowledge)
    assert "the same problem elsewhere: LAD003 cpu-launch-bound" in established("LIN004", knowledge)
    assert "known messages settles it alone" in established("GPU002", knowledge)


def test_every_part_of_a_text_that_a_reader_fills_is_said_to_come_from_texts() -> None:
    filled = {
        key
        for module in (ROOT / "fp8doctor" / "reading").glob("*.py")
        for key in re.findall(r'\.say\("(\w+)"', module.read_text(encoding="utf-8"))
    }
    assert filled == rule_page.OF_TEXTS


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        ({}, "it was looked for and not found."),
        ({"outcome": "not-applicable", "reason": "there is none"}, "it does not apply: there is none."),
        ({"outcome": "unknown", "reason": "not observed: the clock"}, "it could not be told: not observed: the clock."),
        ({"outcome": "crashed", "reason": "KeyError: 'x'"}, "its rule crashed: KeyError: 'x'."),
    ],
)
def test_what_the_last_report_says_where_nothing_was_found(
    knowledge: Registry, outcome: dict[str, Any], says: str
) -> None:
    assert here(knowledge, last(**outcome)) == f"In the last report on this machine (2026-11-20, NVIDIA H200) {says}"


def test_what_was_found_is_told_with_its_evidence_and_gain(knowledge: Registry) -> None:
    gain = {"speedup": 1.8, "versus": "te", "basis": "estimated", "versus_label": "Transformer Engine"}
    finding = {"id": "LIN004", "title": "The host is slow", "about": None, "gain": gain,
               "evidence": [{"text": "9 ms\x1b[2J of host time"}]}  # fmt: skip
    told = here(knowledge, {**last(outcome="finding"), "findings": [finding]}) or ""
    assert told.splitlines()[2:] == [
        "- The host is slow",
        "- 9 ms of host time",
        "- what to do gives 1.80x over Transformer Engine (estimated)",
    ]
    silenced = {**last(outcome="finding"), "silenced": [{"id": "LIN004", "name": "", "by": "--ignore LIN"}]}
    assert (here(knowledge, silenced) or "").endswith("it was found, and silenced by --ignore LIN.")


def test_a_rule_that_the_last_report_does_not_know_is_not_told_of(knowledge: Registry) -> None:
    assert here(knowledge, last(id="LIN003")) is None


# --- Markdown ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("see pytorch/ao#685, later", "see [pytorch/ao#685](https://github.com/pytorch/ao/issues/685), later"),
        (
            "pytorch/ao#1 and #2.",
            "[pytorch/ao#1](https://github.com/pytorch/ao/issues/1) and [#2](https://github.com/pytorch/ao/issues/2).",
        ),
        ("nothing before #2", "nothing before #2"),
        ("at https://a.org/b_c?d=1.", "at <https://a.org/b_c?d=1>."),
        ("as `pytorch/ao#685 GPU001` says", "as `pytorch/ao#685 GPU001` says"),
        ("as GPU001 and XYZ001", "as [GPU001](GPU001.md) and XYZ001"),
        ("a path/with/two#3", "a path/with/two#3"),
    ],
)
def test_what_is_named_is_linked_but_in_code(text: str, link: str) -> None:
    assert rule_page.linked(text, {"GPU001"}) == link


def test_every_page_has_one_heading_and_links_to_pages_that_are_there() -> None:
    for id, text in PAGES.items():
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        assert len(re.findall(r"^# ", prose, re.MULTILINE)) == 1, id
        for target in re.findall(r"\]\(([^)#]+?)\)", prose):
            assert target.startswith("https://") or target.removesuffix(".md") in PAGES, f"{id}: {target}"


def test_the_index_leads_to_every_rule_once(knowledge: Registry) -> None:
    assert re.findall(r"^- \[(\w+) ", PAGES["README"], re.MULTILINE) == sorted(
        knowledge.rules, key=PAGES["README"].index
    )
    assert len(re.findall(r"^- \[", PAGES["README"], re.MULTILINE)) == len(knowledge.rules)
    assert len(set(re.findall(r"^## .*", PAGES["README"], re.MULTILINE))) == len(
        re.findall(r"^## .*", PAGES["README"], re.MULTILINE)
    )
