"""Which of several like things is slower than the others, by more than their spread explains?

The spread is robust (median and median absolute deviation), so that slow ones do not hide one another; and a limit in
multiples of it is wider where few things tell it badly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fp8doctor.measuring.statistics import quantile

# The standard deviation of a normal distribution, in median absolute deviations.
MAD_TO_SIGMA = 1.4826
# One in three thousand of a normal distribution lies below its mean by more than this many standard deviations, so that
# healthy GPUs give one false alarm among 1,000 at most, of products and copies together.
FALSE_ALARMS = 3.4
# Fewer than this do not tell their spread.
FEW = 8
# What is told without a spread, and at least with one: two runs on one GPU agree within 3 % (benchmarks/RESULTS.md).
LEAST_OF_FEW, LEAST = 0.05, 0.03
# Spreads do not come smaller than what one measurement is good for.
LEAST_SPREAD = 0.001


@dataclass(frozen=True)
class Odd:
    """One that is slower: its place, what it is held against, and by how many spreads it is off (None: too few)."""

    place: int
    median: float
    spreads: float | None


@dataclass(frozen=True)
class Likeness:
    """How alike they are: `spread` and `limit` are shares of the median.

    Of few the spread is what lies between the slowest and the fastest.
    """

    median: float
    spread: float
    limit: float
    odd: tuple[Odd, ...]


def limit(count: int) -> float:
    """How many robust standard deviations below the median one of `count` is odd.

    Of small samples the median absolute deviation itself is uncertain: the factor is fitted, from above, to the growth
    of the quantile 0.9995 of (median - x) / (1.4826 MAD) in normal samples (`python -m benchmarks.fleet --limits`).
    """
    return FALSE_ALARMS * (1 + 8 / count + 43 / count**2)


def odd_ones(speeds: Sequence[float]) -> Likeness:
    """Judge the speeds of like things, larger being faster.

    Args:
        speeds: two positive numbers at least.

    Raises:
        ValueError: of fewer, or if one is not positive and finite.
    """
    if len(speeds) < 2 or not all(speed > 0 and math.isfinite(speed) for speed in speeds):
        raise ValueError("at least two positive speeds are compared")
    ordered = sorted(speeds)
    median = quantile(ordered, 0.5)
    if len(speeds) < FEW:
        return Likeness(median, (ordered[-1] - ordered[0]) / median, LEAST_OF_FEW, tuple(_among_few(speeds)))
    off = sorted(abs(math.log(speed / median)) for speed in speeds)
    sigma = max(MAD_TO_SIGMA * quantile(off, 0.5), LEAST_SPREAD)
    most = max(limit(len(speeds)) * sigma, LEAST)
    below = ((place, math.log(median / speed)) for place, speed in enumerate(speeds))
    odd = tuple(Odd(place, median, far / sigma) for place, far in below if far > most)
    return Likeness(median, sigma, 1 - math.exp(-most), odd)


def _among_few(speeds: Sequence[float]) -> list[Odd]:
    """Each against the median of the others: of two, the median of both lies half-way to the slower one."""
    found = []
    for place, speed in enumerate(speeds):
        others = quantile(sorted([*speeds[:place], *speeds[place + 1 :]]), 0.5)
        if speed < (1 - LEAST_OF_FEW) * others:
            found.append(Odd(place, others, None))
    return found
