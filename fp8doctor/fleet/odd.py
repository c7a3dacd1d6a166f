"""Which GPU is slower than its kind, by more than the spread of its kind explains?

The spread is robust (median and median absolute deviation), so that slow ones do not hide one another; and a limit in
multiples of it is wider where few GPUs tell it badly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fp8doctor.fleet.record import GpuSeen, Measure, Node, OddGpu, Spread
from fp8doctor.measuring.statistics import quantile

# The standard deviation of a normal distribution, in median absolute deviations.
MAD_TO_SIGMA = 1.4826
# One in three thousand of a normal distribution lies below its mean by more than this many standard deviations, so that
# healthy GPUs give one false alarm among 1,000 at most, of products and copies together.
FALSE_ALARMS = 3.4
# Fewer GPUs than this do not tell their spread.
FEW = 8
# What is told without a spread, and at least with one: two runs on one GPU agree within 3 % (benchmarks/RESULTS.md).
LEAST_OF_FEW, LEAST = 0.05, 0.02
# Spreads do not come smaller than what one measurement is good for.
LEAST_SPREAD = 0.001


@dataclass(frozen=True)
class _Place:
    node: str
    gpu: GpuSeen
    value: float


def limit(count: int) -> float:
    """How many robust standard deviations below the median one of `count` GPUs is odd.

    Of small samples the median absolute deviation itself is uncertain: the factor is fitted, from above, to the growth
    of the quantile 0.9995 of (median - x) / (1.4826 MAD) in normal samples (`python -m benchmarks.fleet --limits`).
    """
    return FALSE_ALARMS * (1 + 8 / count + 43 / count**2)


def find_odd(nodes: Sequence[Node]) -> tuple[tuple[Spread, ...], tuple[OddGpu, ...]]:
    """The spread of each kind of GPU by each measure, and the odd ones among them, the slowest first."""
    spreads: list[Spread] = []
    odd: list[OddGpu] = []
    for name in dict.fromkeys(gpu.name for node in nodes for gpu in node.gpus if gpu.name):
        of_name = [(node, gpu) for node in nodes for gpu in node.gpus if gpu.name == name]
        for measure, unit in _UNITS.items():
            places = [_Place(n.name, g, v) for n, g in of_name if (v := speed(g, measure)) is not None]
            if len(places) < 2:
                continue
            spread, found = _judge(name, measure, unit, places)
            spreads.append(spread)
            odd += found
    return tuple(spreads), tuple(sorted(odd, key=lambda one: -one.slower_percent))


_UNITS: dict[Measure, str] = {"compute": "TFLOP/s", "copy": "GB/s"}


def speed(gpu: GpuSeen, measure: Measure) -> float | None:
    """One number for how fast a GPU is: the geometric mean of its rates in BF16 and FP8, or its copy rate."""
    if measure == "copy":
        return _positive(gpu.copy_gb_s)
    bf16, fp8 = _positive(gpu.bf16_tflops), _positive(gpu.fp8_tflops)
    return math.sqrt(bf16 * fp8) if bf16 and fp8 else None


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 and math.isfinite(value) else None


def _judge(name: str, measure: Measure, unit: str, places: list[_Place]) -> tuple[Spread, list[OddGpu]]:
    ordered = sorted(place.value for place in places)
    median = quantile(ordered, 0.5)
    if len(places) < FEW:
        return _among_few(name, measure, unit, places, median)
    off = sorted(abs(math.log(value / median)) for value in ordered)
    sigma = max(MAD_TO_SIGMA * quantile(off, 0.5), LEAST_SPREAD)
    most = max(limit(len(places)) * sigma, LEAST)
    spread = Spread(name, measure, len(places), round(median, 1), unit, _percent(sigma), _percent(1 - math.exp(-most)))
    odd = [
        _odd(name, measure, unit, place, median, math.log(median / place.value) / sigma)
        for place in places
        if math.log(median / place.value) > most
    ]
    return spread, odd


def _among_few(
    name: str, measure: Measure, unit: str, places: list[_Place], median: float
) -> tuple[Spread, list[OddGpu]]:
    """Each against the median of the others: of two, the median of both lies half-way to the slower one."""
    odd = []
    for place in places:
        others = quantile(sorted(other.value for other in places if other is not place), 0.5)
        if place.value < (1 - LEAST_OF_FEW) * others:
            odd.append(_odd(name, measure, unit, place, others, None))
    low, high = min(p.value for p in places), max(p.value for p in places)
    spread = Spread(
        name, measure, len(places), round(median, 1), unit, _percent((high - low) / median), _percent(LEAST_OF_FEW)
    )
    return spread, odd


def _odd(name: str, measure: Measure, unit: str, place: _Place, median: float, spreads: float | None) -> OddGpu:
    return OddGpu(
        node=place.node,
        index=place.gpu.index,
        gpu=name,
        measure=measure,
        slower_percent=_percent(1 - place.value / median),
        spreads=None if spreads is None else round(spreads, 1),
        value=round(place.value, 1),
        median=round(median, 1),
        unit=unit,
    )


def _percent(share: float) -> float:
    return round(100 * share, 2)


def relative(gpus: Iterable[GpuSeen], median: float, measure: Measure) -> list[float | None]:
    """Each GPU's speed in percent of the median of its kind; None where it was not measured."""
    speeds = (speed(gpu, measure) for gpu in gpus)
    return [None if value is None else round(100 * value / median, 1) for value in speeds]
