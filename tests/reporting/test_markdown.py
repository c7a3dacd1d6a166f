"""Markdown for an issue: what it says, that nothing breaks out of its place, and that it always fits."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from fp8doctor import api
from fp8doctor.judging.report import OutcomeRecord, ProbeRecord, Report, SilencedRecord, VerdictRecord
from fp8doctor.model import Action, Evidence, Exhibit
from fp8doctor.reporting.markdown import LONGEST, code_block, inline, render
from tests.sample_reports import BROKEN, HEALTHY, REPORTS

HOSTILE = [
    "```\n</details>\n# out",
    "</details><script>alert(1)</script>",
    "thanks @torvalds and @org/team, see #123, org/repo#4, GH-5 and abcdef1234567",
    "![x](http://evil.example/x.png) [y](javascript:z) <img src=x> www.evil.example",
    "| a | b |\n|---|---|\n| c | d |",
    "- item\n1. one\n> quote\n# head\n===\n    code",
    "**bold** _it_ ~~no~~ $x^2$ \\n :tada: `a``b` &amp; ``` ~~~",
    "1. one",
    "- item",
    "# head",
    "=====",
]


def read_json(text: str) -> Any:
    found = re.search(r"^(`{3,})json\n(.*)\n\1$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return json.loads(found[2])


def inline_text(markdown: str) -> str:
    """What a reader sees of one line."""
    (block,) = [t for t in MarkdownIt("commonmark").parse(f"- **x** {markdown}") if t.type == "inline"]
    assert {t.type for t in block.children or ()} <= {"text", "code_inline", "strong_open", "strong_close"}
    return "".join(t.content for t in block.children or ())


def test_it_says_what_a_maintainer_wants_first() -> None:
    text = HEALTHY.to_markdown()
    assert text.startswith("### fp8doctor 0.1.0 · NVIDIA H200 · `sm_90` · driver 580.159.04 · torch 2.11.0+cu130\n")
    assert "**Verdict: ready.** FP8 pays on this box when it is compiled" in text
    assert "  - from 1,024 tokens in Linear(3072, 12288), Linear(3072, 3072)\n" in text
    assert "- info **CMP002** not-compiled: eager FP8 spends 68 % of its time quantising\n" in text
    assert "  - quantising takes 134 us of 198 us\n" in text
    assert "  - gives 2.40x over torchao-fp8-rowwise\n" in text
    assert "= FP8, eager           198" in text
    broken = BROKEN.to_markdown()
    assert "- error **DRV001** driver-too-old" in broken
    assert "(changes more than your own environment)" in broken


@pytest.mark.parametrize("name", REPORTS)
def test_the_json_in_it_can_be_judged_again(name: str) -> None:
    document = read_json(REPORTS[name].to_markdown())
    assert document["schema"] == "fp8doctor.report"
    assert document["captions"] == list(REPORTS[name].captions)
    assert document["verdict"]["status"] == REPORTS[name].verdict.status
    assert "null" not in json.dumps(document["findings"])
    api.diagnose({**document, "facts": {}, "probes": {}})


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_it_is(text: str) -> None:
    assert inline_text(inline(text)) == "x " + " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "attention_times, compiled_function, grouped_gemm, linear: not part of a run",
            "`attention_times`, `compiled_function`, `grouped_gemm`, linear: not part of a run",
        ),
        ("NVML: LIBRARY_NOT_FOUND; no driver", "NVML: `LIBRARY_NOT_FOUND`; no driver"),
        ("see torch._scaled_mm.", "see `torch._scaled_mm`."),
        ("a_b, c_d and e", "`a_b`, `c_d` and e"),
        ("run pip_x --a_b c", "run `pip_x --a_b` c"),
        (":tada:", "`:tada`:"),
        ("#,; x", "`#`,; x"),
        ("row-wise (torch._scaled_mm) + x", "row-wise (`torch._scaled_mm`) + x"),
        ("(torch grouped_mm) is", "(torch `grouped_mm`) is"),
        ("call f(x_y).", "call `f(x_y)`."),
    ],
)
def test_a_code_span_ends_with_its_word_in_a_list(text: str, shown: str) -> None:
    assert inline(text) == shown


@given(st.text(alphabet=st.sampled_from("`*_<>[]()|\\~&$#@:/-+=.!1a \n"), max_size=40))
def test_no_text_means_anything_to_markdown(text: str) -> None:
    flat = " ".join(text.split())
    if flat:
        assert " ".join(inline_text(inline(text)).split()) == " ".join(f"x {flat}".split())


@given(st.text(alphabet="`~<>/a \n", max_size=60), st.sampled_from([0, 2, 4]))
def test_no_code_ends_its_block(code: str, indent: int) -> None:
    item = "- x\n\n" if indent else ""
    tokens = MarkdownIt("commonmark").parse(f"{item}{code_block(code, 'sh', indent)}\n\nafter")
    (fence,) = [t for t in tokens if t.type == "fence"]
    assert [line.rstrip() for line in fence.content.rstrip().splitlines()] == [
        line.rstrip() for line in code.rstrip().splitlines()
    ]
    assert [t.content for t in tokens if t.type == "inline"][-1] == "after"


def hostile(text: str) -> Report:
    return dataclasses.replace(
        BROKEN,
        captions=(text,),
        verdict=VerdictRecord("broken", text, None, None, None),
        use=(dataclasses.replace(HEALTHY.use[0], label=text, how=text),),
        findings=(
            dataclasses.replace(
                BROKEN.findings[0], title=text, about=text, evidence=(Evidence(text),), actions=(Action(text, text),)
            ),
        ),
        outcomes=(OutcomeRecord("XX001", "unknown", text),),
        probes={text: ProbeRecord("exit", text, text)},
        facts={"x": {"y": text}},
        exhibits=(Exhibit("x", "table", text, text, ({"cells": {text: text, "b": "cell"}},)),),
        silenced=(SilencedRecord(text, text, text),),
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_report_keeps_its_shape(text: str) -> None:
    markdown = hostile(text).to_markdown(redact=False)
    tokens = MarkdownIt("commonmark").parse(markdown)
    blocks = [t.content.strip() for t in tokens if t.type == "html_block"]
    assert len(blocks) == 4, "a table and the JSON, each opened and closed"
    assert blocks[1] == blocks[3] == "</details>"
    for opened in (blocks[0], blocks[2]):
        found = re.fullmatch(r"<details><summary>([^<>]*)</summary>", opened)
        assert found, "nothing in a title is an element"
    assert [t.info for t in tokens if t.type == "fence"][-2:] == ["text", "json"]
    assert sum(t.type == "heading_open" for t in tokens) == 1
    plain = [child for t in tokens if t.type == "inline" for child in t.children or () if child.type != "code_inline"]
    assert not any(re.search(r"[@#<>|]|://|www\.", child.content) for child in plain if child.type == "text")
    assert {child.type for child in plain} <= {"text", "strong_open", "strong_close", "softbreak"}
    assert read_json(markdown)["facts"] == {"x": {"y": text}}


def large() -> Report:
    words = "`</details>` word " * 60
    return dataclasses.replace(
        BROKEN,
        findings=tuple(
            dataclasses.replace(
                BROKEN.findings[0],
                id=f"XX{i:03}",
                explains=(),
                evidence=(Evidence(words),) * 20,
                actions=(Action(words, words),) * 10,
            )
            for i in range(60)
        ),
        exhibits=HEALTHY.exhibits,
        outcomes=tuple(OutcomeRecord(f"XX{i:03}", "unknown", words) for i in range(60)),
        facts={"timings": {"samples": list(range(50_000))}, "other": {"text": words * 50}},
    )


def test_it_always_fits() -> None:
    text = large().to_markdown()
    assert len(text) < LONGEST
    assert "(The rest is in the JSON below.)" in text
    assert "The JSON is too long for this place" in text


def test_samples_go_first_and_are_named() -> None:
    samples = {"timings": {"took_s": 1.5, "samples": list(range(50_000))}, "gpus": {"count": 1}}
    text = dataclasses.replace(HEALTHY, facts=samples).to_markdown()
    assert len(text) < LONGEST
    assert "Left out for length: exhibits, facts.timings.samples." in text
    document = read_json(text)
    assert document["facts"] == {"timings": {"took_s": 1.5}, "gpus": {"count": 1}}, "no trace of what is left out"
    assert document["left_out"] == ["exhibits", "facts.timings.samples"]
    assert document["exhibits"] == [], "they are made anew from facts"


def test_then_exhibits_tails_and_facts() -> None:
    facts = {"big": {"text": "x " * 40_000}, "small": {"y": 1}}
    document = read_json(dataclasses.replace(HEALTHY, facts=facts).to_markdown())
    assert document["left_out"] == ["exhibits", "probes.*.stderr_tail", "the reasons of outcomes", "facts.big"]
    assert document["facts"] == {"small": {"y": 1}}


def test_what_is_worth_looking_at_is_folded_below() -> None:
    text = HEALTHY.to_markdown()
    assert "<details><summary>Speed-up by tokens and layer</summary>" in text
    assert "nvjet_qqtst_128x256_128x4_1x2_h_bz_coopA_NTT" in text
    assert text.index("In use") < text.index("<details>") < text.index("The report as JSON")


def test_a_table_that_has_no_room_is_named() -> None:
    rows = tuple({"cells": {"case": f"{place}", "us": place}} for place in range(500))
    text = dataclasses.replace(HEALTHY, exhibits=(Exhibit("all", "table", "Every case", "", rows),)).to_markdown()
    assert "No room here for: Every case." in text


def test_what_was_silenced_is_said() -> None:
    silenced = (SilencedRecord("LIN004", "cpu-launch-bound", "--ignore LIN004"),)
    text = dataclasses.replace(HEALTHY, silenced=silenced).to_markdown()
    assert "**Silenced**: LIN004 cpu-launch-bound (--ignore LIN004)" in text


def test_what_is_redacted_in_the_report_is_redacted_here() -> None:
    report = dataclasses.replace(HEALTHY, facts={"x": {"path": "/home/somebody/venv"}})
    assert "somebody" not in report.to_markdown()
    assert "somebody" in render(api.view(report, redact=False))
