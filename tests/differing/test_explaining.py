"""Which change is said to explain what, and how surely."""

from __future__ import annotations

import dataclasses

from fp8doctor import api
from fp8doctor.differing import Difference
from fp8doctor.model import Severity
from tests.difference_cases import Document, both, changed, fact, recorded, slower


def long(case: Document) -> bool:
    return bool(case["device_us"]) and case["device_us"]["median"] >= 100


HALF_POWER = both(fact("gpus.gpus.0.power_limit_w", 450.0), slower(1.25, long))
NEW_TORCH = fact("torch_build.version", "2.12.0+cu130")


def of_times(difference: Difference) -> list[tuple[str, str]]:
    return [(one.name, one.certainty) for one in difference.explanations if not one.findings]


def test_a_lower_power_limit_is_a_likely_cause_of_longer_work() -> None:
    found = api.diff(recorded(), changed(HALF_POWER))
    assert of_times(found) == [("power limit", "likely")]
    assert [(one.name, one.findings) for one in found.explanations if one.findings] == [("power limit", ("GPU003",))]
    assert found.try_first is None


def test_a_higher_power_limit_does_not_explain_longer_work() -> None:
    lower = fact("gpus.gpus.0.power_limit_w", 450.0)
    found = api.diff(changed(lower), changed(slower(1.25, long)))
    assert of_times(found) == [("power limit", "coincident")]


def test_changes_that_came_together_are_not_told_apart() -> None:
    found = api.diff(recorded(), changed(both(HALF_POWER, NEW_TORCH)))
    assert [pair for pair in of_times(found) if pair[1] == "likely"] == [("power limit", "likely"), ("torch", "likely")]
    assert found.try_first is not None
    assert "cannot tell them apart" in found.try_first
    assert "first power limit" in found.try_first


def test_a_change_explains_only_what_it_concerns() -> None:
    """Transformer Engine's version says nothing of torchao's layers, and torchao's explains them better than torch."""

    def in_torchao(case: Document) -> bool:
        return bool(case["config"].startswith("torchao") and case["kind"] == "layer")

    versions = both(
        fact("libraries.installed.torchao", "0.18.0"),
        fact("libraries.installed.transformer-engine", "2.21.0"),
        NEW_TORCH,
    )
    found = api.diff(recorded(), changed(both(slower(1.5, in_torchao), versions)))
    assert of_times(found) == [("torchao", "likely"), ("torch", "likely"), ("transformer-engine", "coincident")]


def test_what_is_not_known_to_matter_is_said_to_be_a_coincidence() -> None:
    found = api.diff(recorded(), changed(both(slower(1.3), fact("machine.os", "Ubuntu 26.04"))))
    assert of_times(found) == [("operating system", "coincident")]
    assert "nothing that both reports tell explains" in found.to_markdown()


def test_without_a_change_nothing_is_explained() -> None:
    found = api.diff(recorded(), changed(slower(1.3)))
    assert found.explanations == ()
    assert found.regressions


def test_that_a_change_is_why_times_are_others_is_never_certain() -> None:
    found = api.diff(recorded(), changed(both(HALF_POWER, NEW_TORCH)))
    assert all(one.findings for one in found.explanations if one.certainty == "certain")


def test_another_gpu_is_another_box_and_no_regression() -> None:
    other = both(fact("gpus.gpus.0.name", "NVIDIA H100 80GB HBM3"), slower(1.4))
    found = api.diff(recorded(), changed(other))
    assert found.gpus == "different"
    assert found.regressions == ()
    assert found.headline.startswith("Other GPUs in A and B")
    assert of_times(found) == [("GPU", "likely")]
    assert not found.fails(Severity.INFO) or any(one.what == "new" for one in found.finding_changes)


def test_a_finding_went_only_where_both_looked() -> None:
    found = api.diff(recorded(), recorded("h200-torch-only"))
    assert {one.id for one in found.finding_changes if one.what == "not-asked"} >= {"TE007"}
    gone = next(one for one in found.finding_changes if one.id == "TE007")
    assert gone.reason == "Transformer Engine is not installed"
    unseen = api.diff(recorded(), changed(fact("transformer_engine", None)))
    (lost,) = [one for one in unseen.finding_changes if one.id == "TE007"]
    assert (lost.what, lost.not_in) == ("not-told", "after")


def test_a_new_finding_of_the_severity_asked_for_fails() -> None:
    blocked = changed(fact("machine.environment.CUDA_LAUNCH_BLOCKING", "1"))
    found = api.diff(recorded(), blocked)
    assert [one.id for one in found.finding_changes if one.what == "new"] == ["SYS001"]
    assert found.fails(Severity.WARNING)
    assert not found.fails(Severity.ERROR)
    assert not api.diff(blocked, recorded()).fails(Severity.WARNING)
    assert [(one.name, one.certainty, one.findings) for one in found.explanations] == [
        ("CUDA_LAUNCH_BLOCKING", "certain", ("SYS001",))
    ]


def test_a_finding_that_became_graver_says_what_it_was() -> None:
    before = recorded()
    graver = tuple(dataclasses.replace(one, severity=Severity.ERROR) for one in before.findings[:1])
    after = dataclasses.replace(before, findings=graver + before.findings[1:])
    first = api.diff(before, after).finding_changes[0]
    assert (first.what, first.severity, first.severity_before) == ("stayed", Severity.ERROR, Severity.INFO)


def test_what_was_advised_and_is_no_more_is_told() -> None:
    found = api.diff(recorded(), recorded("h200-torch-only"))
    where = {one.label: (one.in_before, one.in_after) for one in found.advice}
    assert where["BF16 + torch.compile"] == (True, True)
    assert where["torchao float8 row-wise + torch.compile"] == (True, False)
    assert "B advises FP8 row-wise" in found.headline
