"""The answer: its status from the three answers and what was timed, and a sentence that says no more than that."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8doctor.judging.outcomes import Outcome
from fp8doctor.judging.report import FindingRecord, OutcomeName, Speedup, Use, VerdictRecord, When
from fp8doctor.judging.verdict import decide
from fp8doctor.model import Candidate, Estimate, Finding, Settles, Severity
from fp8doctor.specs import Rule


def settling(question: Settles | None, name: OutcomeName, *, mixed: bool = False) -> Outcome:
    rule = Rule("ANY001", "any", Severity.ERROR, "box", question, (), lambda: None, {}, "t", "p")
    return Outcome(rule, name, None, (Finding("f"),) if name == "finding" else (), mixed)


def answered(hardware: bool | None, software: bool | None, runs: bool | None) -> list[Outcome]:
    names: dict[bool | None, OutcomeName] = {True: "pass", False: "finding", None: "unknown"}
    answers: list[tuple[Settles, bool | None]] = [("hardware", hardware), ("software", software), ("runs", runs)]
    return [settling(question, names[answer]) for question, answer in answers]


def finding(title: str, severity: Severity = Severity.ERROR) -> FindingRecord:
    return FindingRecord("ANY001", "any", severity, "box", title)


def use(high: float | None, basis: Any = "measured", label: str = "torchao rowwise") -> Use:
    speedup = None if high is None else Speedup(1.1, high, "device")
    return Use(When("everywhere"), "some-config", label, speedup, "torch-bf16", basis, "do it")


def timed(basis: Any = "measured", *, baseline: bool = False, us: float = 50.0) -> Candidate:
    estimate = Estimate(us, us, us, 9)
    return Candidate("linear", "c", "c", "fp8", "h", basis=basis, device_us=estimate, baseline=baseline)


PAYS = ((use(1.9),), [timed()])
GAINS_NOTHING: tuple[tuple[Use, ...], list[Candidate]] = ((use(None),), [timed(baseline=True), timed()])
NOTHING_TIMED: tuple[tuple[Use, ...], list[Candidate]] = ((use(None, "known"),), [])


@pytest.mark.parametrize(
    ("hardware", "software", "runs", "measured", "status"),
    [
        (True, True, True, PAYS, "ready"),
        (True, None, True, PAYS, "ready"),
        (True, True, True, GAINS_NOTHING, "slow"),
        (True, True, True, NOTHING_TIMED, "unknown"),
        (True, True, None, PAYS, "unknown"),
        (True, True, None, NOTHING_TIMED, "unknown"),
        (True, True, False, PAYS, "broken"),
        (True, False, None, NOTHING_TIMED, "broken"),
        (True, False, True, PAYS, "broken"),
        (False, None, None, NOTHING_TIMED, "unavailable"),
        (False, True, True, PAYS, "unavailable"),
        (None, None, None, NOTHING_TIMED, "unknown"),
        (None, True, True, PAYS, "unknown"),
        (None, False, False, NOTHING_TIMED, "unknown"),
    ],
)
def test_status(hardware: Any, software: Any, runs: Any, measured: Any, status: str) -> None:
    verdict = decide(answered(hardware, software, runs), (), *measured)
    assert verdict.status == status
    assert (verdict.fp8_hardware, verdict.fp8_software, verdict.fp8_runs) == (hardware, software, runs)


def test_every_combination_has_a_status_and_one_sentence_or_two() -> None:
    answers = [True, False, None]
    findings: list[tuple[FindingRecord, ...]] = [
        (),
        (finding("The fan stands still."),),
        (finding("x", Severity.INFO),),
    ]
    for hardware, software, runs in product(answers, repeat=3):
        for measured, found in product((PAYS, GAINS_NOTHING, NOTHING_TIMED), findings):
            verdict = decide(answered(hardware, software, runs), found, *measured)
            assert verdict.headline.endswith(".")
            assert ".." not in verdict.headline
            assert "None" not in verdict.headline
            if verdict.status == "ready":
                assert (hardware, runs) == (True, True)
                assert software is not False
            if verdict.status in ("ready", "slow"):
                assert measured is not NOTHING_TIMED


# --- the three answers


@pytest.mark.parametrize(
    ("outcomes", "answer"),
    [
        ([], None),
        (["not-applicable"], None),
        (["pass", "not-applicable"], True),
        (["pass", "pass"], True),
        (["pass", "unknown"], None),
        (["pass", "crashed"], None),
        (["pass", "finding"], False),
        (["unknown", "finding"], False),
    ],
)
def test_an_answer_is_yes_if_all_passed_no_if_one_found_something_and_else_open(
    outcomes: list[OutcomeName], answer: bool | None
) -> None:
    settled = [settling("hardware", name) for name in outcomes]
    assert decide(settled, (), (), []).fp8_hardware is answer


def test_gpus_that_disagree_leave_the_answer_open() -> None:
    unlike = [settling("hardware", "finding", mixed=True), settling("hardware", "pass")]
    verdict = decide([*unlike, *answered(True, True, True)[1:]], (finding("GPU 1 has no FP8"),), *PAYS)
    assert verdict.fp8_hardware is None
    assert verdict.status == "unknown"
    assert verdict.headline == "f.", "the finding says how many have it"
    grave = replace(finding("GPU 0 has no code"), id="TOR005")
    said = decide([*unlike, *answered(True, True, True)[1:]], (finding("GPU 1 has no FP8"), grave), *PAYS).headline
    assert said == "Cannot say: GPU 0 has no code. f."


def test_what_was_not_seen_of_the_hardware_is_the_reason_why_nothing_can_be_said() -> None:
    open_ = replace(settling("hardware", "unknown"), reason="whether the X has FP8 is not known")
    assert decide([open_], (), (), []).headline == "Cannot say: whether the X has FP8 is not known."
    assert decide([replace(open_, unseen=True)], (), (), []).headline.endswith("not enough of this box was seen.")


def test_a_rule_that_settles_nothing_changes_no_answer() -> None:
    assert decide([settling(None, "finding")], (), (), []).fp8_hardware is None


# --- what counts as paying


def test_an_estimate_or_hearsay_never_makes_a_box_ready_or_slow() -> None:
    yes = answered(True, True, True)
    assert decide(yes, (), (use(3.0, "estimated"),), [timed("estimated")]).status == "unknown"
    assert decide(yes, (), (use(3.0, "known"),), []).status == "unknown"
    assert decide(yes, (), (use(None),), [timed(baseline=True)]).status == "unknown"
    assert decide(yes, (), (use(None),), [timed(us=0.0)]).status == "unknown"
    both = decide(yes, (), (use(3.0, "estimated", "a dream"), use(1.2, label="torchao")), [timed()])
    assert both.headline == "FP8 pays on this box: up to 1.20x BF16's speed on the GPU with torchao."


# --- the sentence


def headline(hardware: Any, software: Any, runs: Any, measured: Any, *found: FindingRecord) -> str:
    verdict: VerdictRecord = decide(answered(hardware, software, runs), found, *measured)
    return verdict.headline


def test_headlines() -> None:
    eager = finding("Eager FP8 spends most of its time quantising", Severity.INFO)
    assert headline(True, True, True, PAYS, eager) == (
        "FP8 pays on this box: up to 1.90x BF16's speed on the GPU with torchao rowwise. "
        "Eager FP8 spends most of its time quantising."
    )
    at_the_call = replace(use(1.2), speedup=Speedup(1.1, 1.2, "call"))
    assert headline(True, True, True, ((at_the_call,), [timed()])) == (
        "FP8 pays on this box: up to 1.20x BF16's speed at the call (Python's time included) with torchao rowwise."
    )
    assert headline(True, True, True, GAINS_NOTHING) == (
        "FP8 runs on this box, and even its best path gains nothing over BF16."
    )
    assert headline(True, True, True, NOTHING_TIMED) == (
        "FP8 runs here and is right; whether it pays was not measured."
    )
    blocking = finding("CUDA_LAUNCH_BLOCKING=1 is set", Severity.WARNING)
    assert headline(True, True, True, NOTHING_TIMED, blocking) == (
        "FP8 runs here and is right; whether it pays was not measured. CUDA_LAUNCH_BLOCKING=1 is set."
    )
    assert headline(True, None, None, NOTHING_TIMED) == "The GPU has FP8; whether FP8 runs here was not seen."
    assert headline(None, None, None, NOTHING_TIMED) == "Cannot say: not enough of this box was seen."
    assert headline(False, None, None, NOTHING_TIMED) == "This GPU has no FP8 tensor cores."


def test_the_gravest_cause_goes_on_after_a_colon_in_small_letters_unless_it_is_a_name() -> None:
    lead = "The GPU has FP8, and the software here does not get there"
    assert headline(True, False, None, NOTHING_TIMED) == f"{lead}."
    assert headline(True, False, None, NOTHING_TIMED, finding("No torch is installed.")) == (
        f"{lead}: no torch is installed."
    )
    for name in ("Triton cannot be imported", "Transformer Engine crashes", "FP8 is refused", "torch has no CUDA"):
        assert headline(True, False, None, NOTHING_TIMED, finding(name)) == f"{lead}: {name}."
    light, grave = finding("It is warm", Severity.INFO), finding("The driver is too old")
    assert headline(True, False, None, NOTHING_TIMED, light, grave).endswith(": the driver is too old.")


def test_a_lesson_is_never_given_as_the_reason_why_nothing_can_be_said() -> None:
    said = headline(None, None, None, NOTHING_TIMED, finding("Compiling helps", Severity.INFO))
    assert said == "Cannot say: not enough of this box was seen."
    said = headline(None, None, None, NOTHING_TIMED, finding("No GPU is visible"))
    assert said == "Cannot say: no GPU is visible."


names: st.SearchStrategy[OutcomeName] = st.sampled_from(["pass", "finding", "not-applicable", "unknown", "crashed"])
questions: st.SearchStrategy[Settles] = st.sampled_from(["hardware", "software", "runs"])


@given(st.lists(st.builds(settling, questions, names, mixed=st.booleans())), st.sampled_from([PAYS, GAINS_NOTHING]))
def test_what_was_not_seen_to_pass_is_never_answered_with_yes(outcomes: list[Outcome], measured: Any) -> None:
    verdict = decide(outcomes, (), *measured)
    answers = {"hardware": verdict.fp8_hardware, "software": verdict.fp8_software, "runs": verdict.fp8_runs}
    for question, answer in answers.items():
        seen = {o.name for o in outcomes if o.rule.settles == question} - {"not-applicable"}
        assert (answer is True) == (seen == {"pass"})
    if verdict.status in ("ready", "slow"):
        assert verdict.fp8_hardware is True
        assert verdict.fp8_runs is True
