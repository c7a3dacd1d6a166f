"""What a report says before anyone draws it: advice grouped, symptoms under causes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fp8doctor import api
from fp8doctor.judging.report import FindingRecord, OutcomeRecord, ProbeRecord, Use, When
from fp8doctor.model import Severity
from fp8doctor.reporting import summary
from tests.refresh import BOXES
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


def test_what_is_done_stands_before_the_place() -> None:
    training = [
        dataclasses.replace(use, when=dataclasses.replace(use.when, doing="training"))
        for use in (at(1, 2, 16, None), at(3, 4, 16, None))
    ]
    (one,) = advice(*training, at(1, 2, 16, None))
    assert one.places == (
        "training, from 16 tokens in Linear(1, 2), Linear(3, 4): 1.63x to 1.75x",
        "from 16 tokens in Linear(1, 2): 1.63x to 1.75x",
    )


@pytest.mark.parametrize(
    ("timed", "words"),
    [
        ((True,), "FP8 gains nothing there"),
        ((None,), "FP8 gains nothing there"),  # a report written before it was said
        ((False,), "FP8 was not timed there"),
        ((False, False), "FP8 was not timed there"),
        ((True, False), "as it is"),
    ],
)
def test_bf16_says_whether_fp8_lost_or_was_not_timed(timed: tuple[bool | None, ...], words: str) -> None:
    bf16 = dataclasses.replace(HEALTHY.use[3], versus=None)
    (one,) = advice(*(dataclasses.replace(bf16, fp8_timed=answer) for answer in timed))
    assert one.gain == words


def test_what_was_beaten_has_the_words_of_the_report_or_else_of_its_slug() -> None:
    named = dataclasses.replace(HEALTHY.use[0], versus_label="BF16 as a CUDA graph")
    (one,) = advice(named)
    assert one.gain == "1.63x to 1.75x over BF16 as a CUDA graph on the GPU"
    (one,) = advice(dataclasses.replace(named, versus_label=None))
    assert one.gain == "1.63x to 1.75x over torch-bf16+compile on the GPU"
    both = advice(dataclasses.replace(named, versus_label=None), HEALTHY.use[3])
    assert both[0].gain == "1.63x to 1.75x over BF16 + torch.compile on the GPU"


# --- what was left out


def with_left_out(**reasons: str | None) -> dict[str, Any]:
    """A run that left two subjects out on purpose; rules ended with these reasons."""
    outcomes = tuple(OutcomeRecord(id, "unknown" if why else "pass", why) for id, why in reasons.items())
    probes = {
        "linear": ProbeRecord("skipped", "not part of a bench run"),
        "training": ProbeRecord("skipped", "it needs torch_build, which ended as signal"),
        "attention": ProbeRecord("timeout", "no end after 60 s"),
    }
    return api.view(dataclasses.replace(HEALTHY, outcomes=outcomes, probes=probes))


LEFT_OUT = with_left_out(
    A="linear was not examined: not part of a bench run",
    B="linear was not examined: not part of a bench run",
    C="training was not examined: it needs torch_build, which ended as signal",
    D="the probe of attention ended by timeout (no end after 60 s)",
    E="the CPU quota was not observed",
    F=None,
)


def test_what_was_left_out_on_purpose_is_counted_by_itself() -> None:
    found = summary.counts(LEFT_OUT)
    assert (found.passed, found.unknown, found.not_examined) == (1, 3, 2)
    assert found.text() == "1 passed, 3 could not tell, 2 not examined"
    assert summary.counts(api.view(HEALTHY)).not_examined == 0
    assert "not examined" not in summary.counts(api.view(HEALTHY)).text()


def test_what_was_left_out_on_purpose_is_no_unsettled_question() -> None:
    assert summary.left_out(LEFT_OUT) == [("not part of a bench run", ("linear",))]
    assert [ids for _, ids in summary.unsettled(LEFT_OUT)] == [("C",), ("D",), ("E",)]


def test_a_rule_that_crashed_is_told_whatever_its_words() -> None:
    said = OutcomeRecord("A", "crashed", "linear was not examined: not part of a bench run")
    view = {**LEFT_OUT, "outcomes": api.view(dataclasses.replace(HEALTHY, outcomes=(said,)))["outcomes"]}
    assert summary.counts(view).crashed == 1
    assert [ids for _, ids in summary.unsettled(view)] == [("A",)]


def test_the_examined_python_is_the_one_that_ran_most() -> None:
    assert summary.examined_python(api.view(HEALTHY)) == "/opt/venv/bin/python"
    view: dict[str, Any] = {**api.view(HEALTHY), "probes": {}}
    assert summary.examined_python(view) is None
    view["probes"] = {key: run for key, run in api.view(HEALTHY)["probes"].items() if key != "gpus"}
    assert summary.examined_python(view) is None, "the doctor's own needs no word"


def test_what_an_old_recording_lacks_is_told_once_and_is_no_riddle() -> None:
    lacking = {
        "probes": {"ladder": {"outcome": "not-observed", "detail": None}},
        "outcomes": [{"id": "LAD001", "outcome": "unknown", "reason": "ladder was not observed"}],
    }
    recorded: dict[str, Any] = {**lacking, "source": "facts"}
    assert summary.left_out(recorded) == [("not part of this recording", ("ladder",))]
    assert (summary.unsettled(recorded), summary.counts(recorded).not_examined) == ([], 1)
    live: dict[str, Any] = {**lacking, "source": "live"}
    assert (summary.left_out(live), summary.counts(live).unknown) == ([], 1)
    assert summary.unsettled(live) == [("ladder was not observed", ("LAD001",))]


def test_the_report_of_a_recorded_box_keeps_what_its_box_lacks_apart_from_riddles() -> None:
    view = api.view(api.diagnose(BOXES / "h200.json"))
    assert not [reason for reason, _ in summary.unsettled(view) if reason.endswith("was not observed")]
    assert summary.counts(view).not_examined > summary.counts(view).unknown


def test_the_bars_of_all_steps_of_a_workload_answer_why() -> None:
    bars: list[dict[str, Any]] = [
        {"id": id, "kind": "bars", "rows": [{}], "answers_why": id != "attention-routes"}
        for id in ("attention-routes", "ladder-prefill", "ladder-decode", "te-linear-host")
    ]
    assert [e["id"] for e in summary.leading_bars({"exhibits": bars})] == ["ladder-prefill", "ladder-decode"]
    assert summary.leading_bars({"exhibits": []}) == []
