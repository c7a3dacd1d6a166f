"""What a package takes with it when it is uninstalled is no improvement, and what it brings is told to be its."""

from __future__ import annotations

from fp8doctor import api
from fp8doctor.differing import Difference
from fp8doctor.model import Severity
from tests.difference_cases import Document, changed, fact, recorded

TE = ("transformer-engine-cu13", "transformer-engine-torch")


def uninstalled() -> Difference:
    return api.diff(recorded(), recorded("h200-torch-only"))


def readable(found: Difference) -> str:
    return found.to_markdown().partition("<details>")[0]


def test_a_finding_about_a_package_that_was_removed_is_no_longer_asked() -> None:
    found = uninstalled()
    assert {one.id for one in found.finding_changes if one.what == "not-asked"} == {"FA008", "TE007"}
    assert not [one for one in found.finding_changes if one.what == "gone"]
    assert "gone" not in found.headline
    assert "2 findings no longer asked" in found.headline
    assert "no longer asked, what it is about is gone: Transformer Engine is not installed" in readable(found)


def test_a_finding_about_what_is_still_installed_goes_as_before() -> None:
    set_back = api.diff(changed(fact("machine.environment.CUDA_LAUNCH_BLOCKING", "1")), recorded())
    assert [one.id for one in set_back.finding_changes if one.what == "gone"] == ["SYS001"]


def test_a_package_that_was_installed_brings_its_findings_anew() -> None:
    found = api.diff(recorded("h200-torch-only"), recorded())
    assert {one.id for one in found.finding_changes if one.what == "new"} == {"FA008", "TE007"}
    assert found.fails(Severity.INFO)


def test_the_distributions_of_one_package_are_one_change() -> None:
    found = uninstalled()
    (te,) = [one for one in found.changes if one.name.startswith("transformer-engine")]
    assert (te.name, te.parts) == ("transformer-engine", TE)
    assert "4 things changed" in found.headline
    assert "transformer-engine (and its -cu13, -torch): 2.20.2 -> not installed" in readable(found).replace("`", "")


def test_distributions_that_went_different_ways_are_several_changes() -> None:
    def updated(facts: Document) -> None:
        facts["libraries"]["installed"] |= {"transformer-engine": "2.21.0", TE[0]: "2.21.0", TE[1]: "2.19.0"}

    found = api.diff(recorded(), changed(updated))
    assert [(one.name, one.parts) for one in found.changes] == [("transformer-engine", TE[:1]), (TE[1], ())]


def test_changed_advice_is_explained_by_the_package_that_it_needs() -> None:
    for pair, letter in ((("h200", "h200-torch-only"), "A"), (("h200-torch-only", "h200"), "B")):
        (why,) = api.diff(*map(recorded, pair)).explanations
        assert (why.name, why.certainty) == ("torchao", "certain")
        assert why.text == (
            f"{letter} alone has it: 114 cases that need it were timed there alone,"
            " and torchao float8 row-wise + torch.compile is advised there alone"
        )


def test_where_nothing_is_to_be_explained_nothing_is() -> None:
    found = api.diff(recorded(), changed(lambda facts: facts["libraries"]["installed"].pop("peft")))
    assert found.explanations == ()
    assert "What may explain it" not in readable(found)


def test_a_package_is_not_why_nothing_was_timed_where_there_is_no_gpu() -> None:
    found = api.diff(recorded(), recorded("no-gpu"))
    assert "torchao" in {one.name for one in found.changes}
    assert "torchao" not in {one.name for one in found.explanations}
