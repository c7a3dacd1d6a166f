"""Whether the box was the same at both ends of the ladder is asked, and told."""

from __future__ import annotations

from dataclasses import replace

from fp8doctor.model import NotApplicable, Unknown
from tests.ladder_facts import FLUX, findings, ms, rung, verdict


def test_a_box_that_became_slower_is_told_with_both_times() -> None:
    (found,) = findings("LAD011", replace(FLUX, again=(rung("torch-bf16", 1.08 * 174.5),)))
    assert found.title == "flux, denoise: BF16 took 8% longer at the end of the run than at its beginning"
    assert [evidence.unit for evidence in found.evidence] == ["ms", "ms"]
    (found,) = findings("LAD011", replace(FLUX, again=(rung("torch-bf16", 0.9 * 174.5),)))
    assert "10% less" in found.title


def test_what_two_runs_differ_by_anyway_is_no_drift() -> None:
    assert not findings("LAD011", replace(FLUX, again=(rung("torch-bf16", 1.02 * 174.5),)))
    noisy = replace(rung("torch-bf16", 1.06 * 174.5), step_ms=ms(1.06 * 174.5, spread=0.2))
    assert not findings("LAD011", replace(FLUX, again=(noisy,)))


def test_without_a_second_time_nothing_is_known() -> None:
    assert isinstance(verdict("LAD011", replace(FLUX, again=None)), Unknown)
    assert isinstance(verdict("LAD011", replace(FLUX, measurable=False, why_not="no GPU")), NotApplicable)
