"""What samples say: the interval is the bootstrap's, a ratio inside its noise is no difference, where gains begin."""

from __future__ import annotations

import math
import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8doctor.measuring.statistics import break_even, differs, estimate, quantile, speedup
from fp8doctor.model import Estimate

# Whole numbers, so that nothing is rounded.
SAMPLES = st.lists(st.integers(1, 10**6), min_size=1, max_size=60)
TIMES = st.floats(1.0, 1e5)


def resampled(samples: list[float], resamples: int = 4000) -> tuple[float, float]:
    """The 95 % interval of the median as everybody computes it: by drawing again and again."""
    draw = random.Random(1)
    medians = sorted(median(draw.choices(samples, k=len(samples))) for _ in range(resamples))
    return medians[math.ceil(0.025 * resamples) - 1], medians[math.ceil(0.975 * resamples) - 1]


def samples_of(n: int) -> list[float]:
    """Times as a GPU gives them: a floor, and a tail upwards."""
    draw = random.Random(n)
    return [round(100 + draw.expovariate(0.5), 3) for _ in range(n)]


# 5 calls, 7 launches, 25 and 55 device samples: the numbers that the doctor takes.
@pytest.mark.parametrize("n", [1, 3, 5, 7, 11, 25, 55])
def test_the_exact_interval_is_what_resampling_comes_to(n: int) -> None:
    samples = samples_of(n)
    found = estimate(samples)
    assert (found.low, found.high) == resampled(samples)
    assert (found.median, found.n) == (median(samples), n)


@pytest.mark.parametrize("n", [2, 4, 6, 8, 10, 24])
def test_of_an_even_number_it_holds_what_resampling_comes_to_and_at_most_one_sample_more(n: int) -> None:
    samples = samples_of(n)
    found, (low, high) = estimate(samples), resampled(samples)
    assert found.low <= low
    assert high <= found.high
    assert sum(found.low < value < low for value in samples) <= 1
    assert sum(high < value < found.high for value in samples) <= 1


def test_one_sample_is_its_own_interval() -> None:
    assert estimate([103.2]) == Estimate(103.2, 103.2, 103.2, 1, 0.0)


@given(SAMPLES)
def test_the_median_lies_in_its_interval_and_the_interval_in_the_samples(samples: list[int]) -> None:
    found = estimate(samples)
    assert min(samples) <= found.low <= found.median <= found.high <= max(samples)


@given(SAMPLES)
def test_in_another_unit_it_is_the_same_estimate(samples: list[int]) -> None:
    one, other = estimate(samples), estimate([1000 * value for value in samples])
    assert (other.median, other.low, other.high) == (1000 * one.median, 1000 * one.low, 1000 * one.high)


@given(SAMPLES)
def test_it_leans_to_neither_side(samples: list[int]) -> None:
    one, mirrored = estimate(samples), estimate([-value for value in samples])
    assert (mirrored.low, mirrored.median, mirrored.high) == (-one.high, -one.median, -one.low)


@given(SAMPLES, st.randoms())
def test_the_order_of_the_samples_does_not_matter(samples: list[int], order: random.Random) -> None:
    shuffled = list(samples)
    order.shuffle(shuffled)
    assert estimate(shuffled) == estimate(samples)


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_what_is_no_measurement_is_refused(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="finite samples"):
        estimate(samples)


def test_the_interquartile_range_is_that_of_the_middle_half() -> None:
    assert estimate([1, 2, 3, 4, 100]).iqr == 2
    assert quantile([10.0, 20.0], 0.25) == 12.5
    assert quantile([7.0], 0.9) == 7.0


def test_a_speed_up_has_the_widest_interval_that_both_times_allow() -> None:
    bf16, fp8 = Estimate(100, 90, 110, 25), Estimate(50, 40, 60, 5)
    assert speedup(bf16, fp8) == Estimate(2.0, 1.5, 2.75, 5)


@given(TIMES, TIMES, st.floats(0, 0.2))
def test_a_speed_up_and_its_reverse_agree(slow: float, fast: float, spread: float) -> None:
    one, other = (Estimate(us, us * (1 - spread), us * (1 + spread), 25) for us in (slow, fast))
    there, back = speedup(one, other), speedup(other, one)
    assert there.low <= there.median <= there.high
    assert there.median * back.median == pytest.approx(1.0, abs=0.001 * (1 + there.median + back.median))


@pytest.mark.parametrize(
    ("low", "high", "is_one"), [(0.9, 1.1, False), (1.0, 1.2, False), (1.001, 1.2, True), (0.5, 0.999, True)]
)
def test_a_ratio_whose_interval_holds_one_is_no_difference(low: float, high: float, is_one: bool) -> None:
    assert differs(Estimate((low + high) / 2, low, high, 25)) is is_one


@pytest.mark.parametrize(
    ("points", "tokens"),
    [
        # Half-way between 1,024 and 4,096, on the logarithm.
        ([(1024, 0.5), (4096, 1.5)], 2048),
        ([(16, 0.7), (256, 0.8), (1024, 0.99), (2048, 1.17), (4096, 1.25)], 1064),
        # In any order.
        ([(4096, 1.5), (1024, 0.5)], 2048),
        # What gains once and loses again does not count: it must stay above.
        ([(16, 1.3), (256, 0.5), (1024, 1.5), (4096, 1.6)], 512),
        # Exactly 1 is no gain.
        ([(256, 0.5), (1024, 1.0), (4096, 2.0)], 1024),
        ([(16, 1.2), (8192, 1.7)], 16),
        ([(16, 1.2)], 16),
        ([(16, 1.2), (8192, 1.0)], None),
        ([(16, 0.4)], None),
        ([], None),
    ],
)
def test_the_break_even_is_where_a_gain_begins_to_stay(points: list[tuple[int, float]], tokens: int | None) -> None:
    assert break_even(points) == tokens


@given(st.dictionaries(st.integers(1, 65536), st.floats(0.05, 20), min_size=1))
def test_from_the_break_even_on_every_measured_size_gains(curve: dict[int, float]) -> None:
    found = break_even(list(curve.items()))
    if found is None:
        assert curve[max(curve)] <= 1.0
    else:
        assert min(curve) <= found <= max(curve)
        assert all(ratio > 1.0 for tokens, ratio in curve.items() if tokens > found)
