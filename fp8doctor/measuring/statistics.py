"""What do these samples say, and is that difference one?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fp8doctor.model import Estimate

CONFIDENCE = 0.95


def estimate(samples: Sequence[float], digits: int = 3) -> Estimate:
    """Summarise samples by their median, its 95 % bootstrap interval and the interquartile range.

    The interval is the percentile bootstrap's for the median, computed exactly rather than by resampling: a resample's
    median is at most the k-th smallest sample exactly if at least half of its draws are, which is a binomial
    probability (Maritz and Jarrett, "A note on estimating the variance of the sample median", JASA 73, 1978). Of an
    even number the median is the mean of two draws; each end is then that of the outer one, a little wide.

    Args:
        samples: at least one value, all in one unit.
        digits: significant decimals kept.

    Raises:
        ValueError: without samples, or if one is not finite.
    """
    if not samples or not all(math.isfinite(value) for value in samples):
        raise ValueError("an estimate needs finite samples")
    ordered = sorted(samples)
    n = len(ordered)
    tail = (1 - CONFIDENCE) / 2
    low = next(k for k in range(1, n + 1) if _at_least((n + 1) // 2, k, n) > tail)
    high = next(k for k in range(1, n + 1) if _at_least(n // 2 + 1, k, n) >= 1 - tail)
    return Estimate(
        median=round(quantile(ordered, 0.5), digits),
        low=round(min(ordered[low - 1], quantile(ordered, 0.5)), digits),
        high=round(max(ordered[high - 1], quantile(ordered, 0.5)), digits),
        n=n,
        iqr=round(quantile(ordered, 0.75) - quantile(ordered, 0.25), digits),
    )


def _at_least(draws: int, k: int, n: int) -> float:
    """The probability that at least `draws` of a resample of n are among the k smallest of the n samples."""
    p = k / n
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(draws, n + 1))


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile of sorted values, by linear interpolation between neighbours."""
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def speedup(slow: Estimate, fast: Estimate) -> Estimate:
    """How many times as fast `fast` is as `slow`, with the widest interval that both allow."""
    return Estimate(
        median=round(slow.median / fast.median, 3),
        low=round(slow.low / fast.high, 3),
        high=round(slow.high / fast.low, 3),
        n=min(slow.n, fast.n),
    )


def factor_columns(found: Estimate | None) -> dict[str, float | None]:
    """A factor and its interval as a row of bars has them; nothing where nothing is held against anything."""
    if found is None:
        return {"ratio": None, "low": None, "high": None}
    return {"ratio": found.median, "low": found.low, "high": found.high}


def differs(ratio: Estimate) -> bool:
    """Whether a ratio is a difference at all: its interval leaves 1 out."""
    return ratio.low > 1.0 or ratio.high < 1.0


def break_even(points: Sequence[tuple[int, float]]) -> int | None:
    """The sweep value from which a speed-up stays above 1, interpolated on the logarithm of the sweep.

    Args:
        points: (sweep value, speed-up) pairs, in any order.

    Returns the smallest measured value if everything gains, None if the largest does not gain.
    """
    ordered = sorted(points)
    if not ordered or ordered[-1][1] <= 1.0:
        return None
    last_loss = max((i for i, (_, ratio) in enumerate(ordered) if ratio <= 1.0), default=None)
    if last_loss is None:
        return ordered[0][0]
    (x0, y0), (x1, y1) = ordered[last_loss], ordered[last_loss + 1]
    share = (1.0 - y0) / (y1 - y0)
    return round(math.exp(math.log(x0) + share * (math.log(x1) - math.log(x0))))


def interval_text(value: Estimate | None) -> str:
    """An estimate for a table: "12.3 [12.1, 12.6]", the median and its 95 % interval; nothing where none was made."""
    return "" if value is None else f"{value.median:.1f} [{value.low:.1f}, {value.high:.1f}]"
