"""What is advised where: only what was right, faster than every baseline, and beyond the noise."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8doctor.judging.advice import LEAST_GAIN, SHORT_GAIN, SHORT_US, advise, effective, is_right, ratio
from fp8doctor.judging.report import Speedup, Use
from fp8doctor.model import Candidate, Estimate


def us(median: float, spread: float = 0.01) -> Estimate:
    return Estimate(median, median * (1 - spread), median * (1 + spread), 20)


def candidate(config: str, m: int | None, device: float | None, call: float | None = None, **more: Any) -> Candidate:
    """A timed FP8 configuration; `torch-bf16` is the baseline."""
    baseline = config.startswith("torch-bf16")
    fields: dict[str, Any] = {
        "task": "linear",
        "config": config,
        "label": config,
        "format": "bf16" if baseline else "fp8",
        "how": f"use {config}",
        "shape": {"k": 4096, "n": 3072},
        "sweep": m,
        "device_us": None if device is None else us(device),
        "call_us": None if call is None else us(call),
        "error": 0.03,
        "error_limit": 0.08,
        "baseline": baseline,
    }
    return Candidate(**{**fields, **more})


def summary(use: tuple[Use, ...]) -> list[tuple[str, int | None, int | None]]:
    return [(u.config, u.when.m_min, u.when.m_max) for u in use]


def table(*rows: tuple[int, float, dict[str, float]]) -> list[Candidate]:
    """Candidates from rows of M, the baseline's time, and the other configurations' times."""
    return [
        made
        for m, bf16, others in rows
        for made in (candidate("torch-bf16", m, bf16), *(candidate(c, m, t) for c, t in others.items()))
    ]


def test_neighbouring_sizes_with_the_same_choice_are_one_range_and_gains_come_first() -> None:
    use = advise(
        table(
            (64, 10, {"fp8": 20}),
            (512, 20, {"fp8": 21}),
            (1024, 40, {"fp8": 30}),
            (4096, 100, {"fp8": 60}),
            (8192, 200, {"fp8": 100}),
        )
    )
    assert summary(use) == [("fp8", 1024, None), ("torch-bf16", 64, 512)]
    assert use[0].speedup == Speedup(1.333, 2.0, "device")
    assert use[0].versus == "torch-bf16"
    assert use[0].when.text == "from 1,024 tokens (measured up to 8,192), K=4096 N=3072"
    assert use[1].when.text == "64 to 512 tokens, K=4096 N=3072"
    assert (use[1].speedup, use[1].versus, use[1].basis) == (None, None, "measured")


def test_a_gain_within_the_noise_is_no_gain() -> None:
    close = [candidate("torch-bf16", 64, 100.0), candidate("fp8", 64, 98.0)]
    assert summary(advise(close)) == [("torch-bf16", 64, None)]
    noisy = [
        replace(close[0], device_us=Estimate(100, 80, 120, 20)),
        replace(close[1], device_us=Estimate(70, 60, 81, 20)),
    ]
    assert summary(advise(noisy)) == [("torch-bf16", 64, None)]


@pytest.mark.parametrize(
    ("bf16", "fp8", "chosen"),
    [(102.9, 100, "torch-bf16"), (103.1, 100, "fp8"), (43, 40, "torch-bf16"), (43.5, 40, "fp8")],
)
def test_two_runs_differ_by_more_where_times_are_short(bf16: float, fp8: float, chosen: str) -> None:
    members = [
        candidate("torch-bf16", 64, None, device_us=us(bf16, 0.001)),
        candidate("fp8", 64, None, device_us=us(fp8, 0.001)),
    ]
    assert summary(advise(members)) == [(chosen, 64, None)]


def test_of_equals_the_one_that_was_listed_first_is_chosen_for_it_is_the_simpler() -> None:
    assert summary(advise(table((64, 100, {"simple": 50, "elaborate": 49})))) == [("simple", 64, None)]
    assert summary(advise(table((64, 100, {"elaborate": 49, "simple": 50})))) == [("elaborate", 64, None)]
    assert summary(advise(table((64, 100, {"torch-bf16+compile": 99})))) == [("torch-bf16", 64, None)]
    (use,) = advise(table((64, 100, {"torch-bf16+compile": 99, "fp8": 50})))
    assert use.versus == "torch-bf16"


def test_it_must_beat_every_baseline_and_not_only_the_first() -> None:
    members = [
        candidate("torch-bf16", 64, 100.0),
        candidate("torch-bf16+compile", 64, 97.5),
        candidate("fp8", 64, 96.0),
    ]
    (use,) = advise(members)
    assert use.config.startswith("torch-bf16")


def test_a_configuration_keeps_its_range_while_it_is_nearly_the_best() -> None:
    use = advise(
        table((1024, 100, {"a": 50, "b": 48}), (4096, 400, {"a": 190, "b": 200}), (8192, 800, {"a": 380, "b": 420}))
    )
    assert summary(use) == [("a", 1024, None)]


def test_it_gives_way_where_another_is_clearly_better() -> None:
    use = advise(table((1024, 100, {"a": 60, "b": 40}), (8192, 800, {"a": 380, "b": 420})))
    assert summary(use) == [("b", 1024, 1024), ("a", 8192, None)]


@pytest.mark.parametrize("error", [0.5, None, math.nan, math.inf])
def test_a_result_that_is_wrong_or_was_not_compared_is_not_advised_however_fast(error: float | None) -> None:
    members = table((64, 100, {"fp8": 50}))
    members.append(candidate("fast-and-wrong", 64, 10, error=error))
    members.append(
        candidate("fast-and-unlimited", 64, 10, error=error, error_limit=None) if error != 0.5 else members[0]
    )
    assert summary(advise(members)) == [("fp8", 64, None)]


def test_where_only_the_baseline_was_timed_it_is_what_to_use() -> None:
    (use,) = advise([candidate("torch-bf16", m, m / 10) for m in (64, 512)])
    assert (use.config, use.speedup, use.versus) == ("torch-bf16", None, None)


def test_where_the_baseline_could_not_run_the_fastest_is_advised_without_a_factor() -> None:
    (use,) = advise([candidate("a", 64, 50), candidate("b", 64, 40)])
    assert (use.config, use.speedup, use.versus) == ("b", None, None)


def test_where_nothing_was_timed_what_is_known_is_advised_and_marked_so() -> None:
    known = candidate("fp8", None, None, basis="known", when="from about 2,000 tokens")
    (use,) = advise([known])
    assert (use.basis, use.speedup, use.when.text) == ("known", None, "from about 2,000 tokens")
    assert (use.when.k, use.when.n, use.when.m_min) == (4096, 3072, None)
    assert advise([replace(known, when=None)])[0].when.text == "in general; nothing was timed here"


def test_what_is_known_is_silent_where_something_was_timed() -> None:
    members = [*table((64, 100, {"fp8": 50})), candidate("other", None, None, basis="known")]
    assert summary(advise(members)) == [("fp8", 64, None)]


def test_a_case_that_was_to_be_timed_and_was_not_is_no_advice() -> None:
    assert advise([candidate("fp8", 64, None)]) == ()
    assert advise([]) == ()


def test_each_task_and_each_shape_has_its_own_advice() -> None:
    here = table((64, 100, {"fp8": 50}))
    there = [replace(c, shape={"k": 64, "n": 64}) for c in table((64, 100, {"fp8": 120}))]
    other = [replace(c, task="attention", shape={}) for c in table((64, 100, {"fp8": 25}))]
    use = advise([*here, *there, *other])
    assert [(u.config, u.when.k) for u in use] == [("fp8", None), ("fp8", 4096), ("torch-bf16", 64)]


def test_the_order_of_a_shapes_names_does_not_matter() -> None:
    turned = candidate("fp8", 64, 50, shape={"n": 3072, "k": 4096})
    assert summary(advise([candidate("torch-bf16", 64, 100), turned])) == [("fp8", 64, None)]


def test_a_task_of_one_size_is_advised_on_too() -> None:
    members = [
        candidate("torch-bf16", None, 900, shape={}, task="step"),
        candidate("fp8", None, 500, shape={}, task="step"),
    ]
    (use,) = advise(members)
    assert (use.config, use.speedup) == ("fp8", Speedup(1.8, 1.8, "device"))
    assert (use.when.m_min, use.when.m_max, use.when.text) == (None, None, "as it was timed here")


def test_no_range_reaches_across_a_size_at_which_nothing_was_right() -> None:
    members = table((64, 100, {"fp8": 50}), (4096, 900, {"fp8": 400}))
    wrong = [candidate("fp8", 512, 100, error=0.9), candidate("fp8", 8192, 800, error=0.9)]
    assert summary(advise([*members, *wrong])) == [("fp8", 4096, 4096), ("fp8", 64, 64)]


# --- the clock that counts


def test_the_devices_time_counts_where_the_host_keeps_up_and_the_calls_where_the_device_waits() -> None:
    keeps_up = candidate("fp8", 64, 100, 300)
    assert effective(keeps_up) == (us(100), "device"), "a loop at its power limit takes longer, too"
    assert effective(replace(keeps_up, waits_for_host=True)) == (us(300), "call")
    assert effective(candidate("fp8", 64, 100, waits_for_host=True)) == (us(100), "device")
    assert effective(candidate("fp8", 64, 100)) == (us(100), "device")
    assert effective(candidate("fp8", 64, None, 70)) == (us(70), "call")
    assert effective(candidate("fp8", 64, None)) is None


def test_a_range_has_one_clock() -> None:
    members = [
        candidate("torch-bf16", 64, 20, 50, waits_for_host=True),
        candidate("fp8", 64, 10, 40, waits_for_host=True),
        candidate("torch-bf16", 4096, 200, 201),
        candidate("fp8", 4096, 100, 101),
    ]
    use = advise(members)
    assert [(u.when.m_min, u.speedup and u.speedup.clock) for u in use] == [(4096, "device"), (64, "call")]


@pytest.mark.parametrize("median", [0.0, -1.0, math.inf, math.nan])
def test_a_time_that_can_be_none_was_not_measured(median: float) -> None:
    broken = Estimate(median, median, median, 20)
    assert effective(replace(candidate("fp8", 64, 1), device_us=broken)) is None
    members = [candidate("torch-bf16", 64, 100), replace(candidate("fp8", 64, 1), device_us=broken)]
    assert summary(advise(members)) == [("torch-bf16", 64, None)]


# --- what the advice says of itself


def test_bf16_that_won_over_fp8_and_bf16_that_nothing_was_timed_against_are_told_apart() -> None:
    lost, alone = table((64, 10, {"fp8": 20})), table((64, 10, {}))
    for members, timed in ((lost, True), (alone, False)):
        (use,) = advise(members)
        assert (use.config, use.fp8_timed) == ("torch-bf16", timed)


@pytest.mark.parametrize(("format", "timed"), [("fp8", True), ("mxfp8", True), ("nvfp4", True), ("int8", False)])
def test_int8_is_no_fp8_and_the_block_formats_are(format: str, timed: bool) -> None:
    other = candidate("other", 64, 200, format=format)
    (use,) = advise([candidate("torch-bf16", 64, 100), other])
    assert (use.config, use.fp8_timed) == ("torch-bf16", timed)


def test_fp8_that_was_timed_and_wrong_was_timed() -> None:
    (use,) = advise([candidate("torch-bf16", 64, 100), candidate("fp8", 64, 50, error=0.9)])
    assert (use.config, use.fp8_timed) == ("torch-bf16", True)


def test_what_is_known_and_not_timed_says_neither() -> None:
    assert advise([candidate("fp8", None, None, basis="known")])[0].fp8_timed is None


def test_sizes_where_fp8_lost_and_where_it_was_not_timed_are_no_range() -> None:
    use = advise(table((16, 10, {"fp8": 20}), (64, 10, {"fp8": 20}), (512, 20, {}), (1024, 40, {})))
    assert [(u.when.m_min, u.when.m_max, u.fp8_timed) for u in use] == [(512, None, False), (16, 64, True)]


def test_sizes_where_int8_wins_are_one_range_whether_or_not_fp8_was_timed_there() -> None:
    members = table((64, 100, {"fp8": 80}), (512, 200, {}))
    members += [candidate("int8", 64, 50, format="int8"), candidate("int8", 512, 100, format="int8")]
    assert summary(advise(members)) == [("int8", 64, None)]


def test_the_configuration_that_was_beaten_is_named_in_words_too() -> None:
    named = {"torch-bf16": "BF16", "torch-bf16+compile": "BF16 + torch.compile", "fp8": "FP8"}
    members = table(
        (64, 100, {"torch-bf16+compile": 120, "fp8": 50}), (4096, 900, {"torch-bf16+compile": 800, "fp8": 400})
    )
    (use,) = advise([replace(c, label=named[c.config]) for c in members])
    assert use.versus == "torch-bf16 or torch-bf16+compile"
    assert use.versus_label == "BF16 or BF16 + torch.compile"
    (bf16,) = advise([candidate("torch-bf16", 64, 10)])
    assert (bf16.versus, bf16.versus_label) == (None, None)


def test_what_is_done_there_goes_with_the_advice() -> None:
    members = [replace(c, doing="training") for c in table((64, 100, {"fp8": 50}))]
    assert [u.when.doing for u in advise(members)] == ["training"]
    known = candidate("fp8", None, None, basis="known", doing="8 experts")
    assert [u.when.doing for u in advise([known])] == ["8 experts"]
    assert [u.when.doing for u in advise(table((64, 100, {"fp8": 50})))] == [None]


# --- whatever was measured

estimates = st.builds(
    lambda median, below, above: Estimate(median, median * (1 - below), median * (1 + above), 20),
    st.floats(0.1, 1e5),
    st.floats(0, 0.3),
    st.floats(0, 0.3),
)
times = st.none() | estimates
errors = st.none() | st.floats(0, 0.2)


@st.composite
def measured(draw: st.DrawFn) -> list[Candidate]:
    members = []
    for config in draw(st.lists(st.sampled_from(["torch-bf16", "torch-bf16+compile", "a", "b", "c"]), unique=True)):
        for m in draw(st.lists(st.sampled_from([1, 16, 64, 512, 1024, 4096]), unique=True)):
            made = candidate(config, m, None, error=draw(errors), error_limit=draw(st.just(0.08) | st.none()))
            waits = draw(st.booleans())
            members.append(replace(made, device_us=draw(times), call_us=draw(times), waits_for_host=waits))
    return members


def within(use: Use, m: int) -> bool:
    assert use.when.m_min is not None
    return use.when.m_min <= m and (use.when.m_max is None or m <= use.when.m_max)


@given(measured())
def test_ranges_do_not_overlap_and_cover_every_size_that_was_measured_right(members: list[Candidate]) -> None:
    use = advise(members)
    for m in {c.sweep for c in members if c.sweep is not None and is_right(c) and effective(c)}:
        assert len([u for u in use if within(u, m)]) == 1
    by_size = sorted(use, key=lambda u: u.when.m_min or 0)
    for lower, upper in pairwise(by_size):
        assert lower.when.m_max is not None
        assert upper.when.m_min is not None
        assert lower.when.m_max < upper.when.m_min


@given(measured())
def test_nothing_wrong_and_nothing_within_the_noise_of_a_baseline_is_ever_advised(members: list[Candidate]) -> None:
    use = advise(members)
    timed = {(c.config, c.sweep): c for c in members if effective(c) is not None}
    for each in use:
        for m in {c.sweep for c in members if c.sweep is not None and within(each, c.sweep)}:
            if not any(c.sweep == m for c in timed.values()):
                continue
            chosen = timed[each.config, m]
            assert is_right(chosen)
            if chosen.baseline:
                continue
            own, _ = effective(chosen)  # type: ignore[misc]
            for baseline in (c for c in timed.values() if c.baseline and c.sweep == m):
                median, low, _ = ratio(effective(baseline)[0], own)  # type: ignore[index]
                assert low > 1
                assert median >= (SHORT_GAIN if own.median < SHORT_US else LEAST_GAIN)


@given(measured())
def test_a_factor_is_a_gain_and_the_largest_stands_first(members: list[Candidate]) -> None:
    use = advise(members)
    factors = [u.speedup for u in use if u.speedup is not None]
    assert all(LEAST_GAIN - 0.001 <= f.low <= f.high for f in factors)
    assert [f.high for f in factors] == sorted((f.high for f in factors), reverse=True)
    assert [u.speedup is None for u in use] == sorted(u.speedup is None for u in use)
    assert all((u.speedup is None) == (u.versus is None) for u in use)


def test_a_gain_with_fp8_stands_before_a_larger_gain_of_something_else() -> None:
    attention: dict[str, Any] = {"task": "attention", "shape": {"heads": 24}}
    found = advise(
        [
            candidate("torch-bf16", 4096, 100.0),
            candidate("fp8", 4096, 80.0),
            candidate("torch-bf16-sdpa", 4096, 800.0, **attention),
            candidate("cudnn", 4096, 400.0, format="bf16", **attention),
        ]
    )
    assert [use.config for use in found] == ["fp8", "cudnn"]
