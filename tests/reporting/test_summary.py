"""What a report says before anyone draws it: advice grouped, symptoms under causes."""

from __future__ import annotations

import dataclasses
from typing import Any

from fp8doctor import api
from fp8doctor.judging.report import FindingRecord, Use, When
from fp8doctor.model import Severity
from fp8doctor.reporting import summary
from tests.sample_reports import BROKEN, HEALTHY


def finding(id: str, *explains: str, about: str | None = None) -> FindingRecord:
    return FindingRecord(id, id.lower(), Severity.ERROR, "box", f"title of {id}", explains=explains, about=about)


def folded(*findings: FindingRecord) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    view = api.view(dataclasses.replace(BROKEN, findings=findings))
    shown = summary.fold(view["findings"])
    return [(one.finding["id"], one.about, tuple(s["id"] for s in one.symptoms)) for one in shown]


def test_symptoms_of_symptoms_belong_to_the_first_cause() -> None:
    assert folded(finding("A", "B"), finding("B", "C"), finding("C")) == [("A", (), ("B", "C"))]


def test_what_two_causes_explain_is_shown_once() -> None:
    assert folded(finding("A", "C"), finding("B", "C"), finding("C")) == [("A", (), ("C",)), ("B", (), ("C",))]


def test_a_circle_loses_nothing() -> None:
    assert folded(finding("A", "B"), finding("B", "A")) == [("A", (), ("B",))]


def test_alike_findings_of_several_gpus_are_one() -> None:
    assert folded(finding("A", about="gpu:0"), finding("A", about="gpu:1")) == [("A", ("gpu:0", "gpu:1"), ())]


def test_unlike_findings_of_one_rule_stay_apart() -> None:
    other = dataclasses.replace(finding("A", about="gpu:1"), title="another")
    assert folded(finding("A", about="gpu:0"), other) == [("A", ("gpu:0",), ()), ("A", ("gpu:1",), ())]


def advice(*uses: Use) -> list[summary.Advice]:
    return summary.advice(api.view(dataclasses.replace(HEALTHY, use=uses)))


def at(k: int, n: int, low: int | None, high: int | None, text: str = "words") -> Use:
    return dataclasses.replace(HEALTHY.use[0], when=When(text, None, k, n, low, high))


def test_equal_ranges_share_a_line() -> None:
    (one,) = advice(at(1, 2, 16, None), at(3, 4, 16, None), at(5, 6, 16, 256))
    assert one.places == (
        "from 16 tokens in Linear(1, 2), Linear(3, 4): 1.63x to 1.75x",
        "16 to 256 tokens in Linear(5, 6): 1.63x to 1.75x",
    )


def test_many_layers_are_counted() -> None:
    (one,) = advice(*(at(k, 1, 16, 16) for k in range(1, 6)))
    assert one.places == ("at 16 tokens at 5 layer sizes",)


def test_advice_without_numbers_says_its_words() -> None:
    known = dataclasses.replace(
        HEALTHY.use[0], when=When("from about 2,000 tokens"), speedup=None, versus=None, basis="known"
    )
    (one,) = advice(known)
    assert one.places == ("from about 2,000 tokens",)
    assert one.gain == "known to suit this hardware, not measured here"


def test_the_examined_python_is_the_one_that_ran_most() -> None:
    assert summary.examined_python(api.view(HEALTHY)) == "/opt/venv/bin/python"
    view: dict[str, Any] = {**api.view(HEALTHY), "probes": {}}
    assert summary.examined_python(view) is None
    view["probes"] = {key: run for key, run in api.view(HEALTHY)["probes"].items() if key != "gpus"}
    assert summary.examined_python(view) is None, "the doctor's own needs no word"
