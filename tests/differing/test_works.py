"""Two reports that measured two models have only their box in common."""

from __future__ import annotations

from fp8doctor import api
from fp8doctor.differing import Difference
from tests.difference_cases import recorded

FLUX, QWEN = "h200-bench-flux", "h200-bench-qwen-image"


def two_models() -> Difference:
    return api.diff(recorded(FLUX), recorded(QWEN))


def test_of_two_models_only_the_box_is_compared() -> None:
    assert two_models().headline.startswith("A measured flux, B qwen-image: only the box can be compared.")


def test_a_finding_of_one_model_is_neither_new_nor_gone_nor_the_same_in_another() -> None:
    found = two_models().finding_changes
    steps = [one for one in found if one.id.startswith("LAD")]
    assert {one.what for one in steps} == {"not-told"}
    assert {one.title.partition(",")[0].partition(":")[0] for one in steps if one.not_in == "after"} == {"flux"}
    assert {(one.not_in, one.reason) for one in steps} == {
        ("after", "it measured qwen-image, not flux"),
        ("before", "it measured flux, not qwen-image"),
    }
    assert {one.what for one in found if not one.id.startswith("LAD")} == {"stayed"}


def test_one_configuration_that_is_advised_for_two_models_is_not_the_same_advice() -> None:
    found = two_models()
    assert [(one.workload, one.in_before, one.in_after) for one in found.advice] == [
        ("flux", True, False),
        ("qwen-image", False, True),
    ]
    text = found.to_markdown().partition("<details>")[0]
    assert "the same in both" not in text
    assert "for other work, and not compared" in text


def test_one_model_measured_twice_is_compared() -> None:
    found = api.diff(recorded(FLUX), recorded(FLUX))
    assert {one.what for one in found.finding_changes} == {"stayed"}
    assert [(one.in_before, one.in_after) for one in found.advice] == [(True, True)]


def test_a_finding_of_what_the_other_report_never_measured_is_not_told() -> None:
    for name in (FLUX, "h200"):
        found = api.diff(recorded(name), recorded("h200-bench-pipeline")).finding_changes
        images = [one for one in found if one.id.startswith("PIP")]
        assert {(one.what, one.not_in) for one in images} == {("not-told", "before")}
