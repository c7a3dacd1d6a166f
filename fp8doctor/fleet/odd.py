"""Which GPU of a fleet is slower than its kind, by more than the spread of its kind explains?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fp8doctor.fleet.record import GpuSeen, Measure, Node, OddGpu, Spread
from fp8doctor.measuring.odd_ones import odd_ones

_UNITS: dict[Measure, str] = {"compute": "TFLOP/s", "bf16": "TFLOP/s", "copy": "GB/s"}


def find_odd(nodes: Sequence[Node]) -> tuple[tuple[Spread, ...], tuple[OddGpu, ...]]:
    """The spread of each kind of GPU by each measure, and the odd ones among them, the slowest first."""
    spreads: list[Spread] = []
    odd: list[OddGpu] = []
    for name, shape in dict.fromkeys((gpu.name, gpu.shape) for node in nodes for gpu in node.gpus if gpu.name):
        of_name = [(node, gpu) for node in nodes for gpu in node.gpus if (gpu.name, gpu.shape) == (name, shape)]
        in_fp8 = any(_positive(gpu.fp8_tflops) for _, gpu in of_name)
        measures: tuple[Measure, ...] = ("compute", "copy") if in_fp8 else ("bf16", "copy")
        for measure in measures:
            unit = _UNITS[measure]
            timed = [(node, gpu, rate) for node, gpu in of_name if (rate := speed(gpu, measure)) is not None]
            if len(timed) < 2:
                continue
            alike = odd_ones([rate for _, _, rate in timed])
            spreads.append(
                Spread(
                    name, measure, len(timed), round(alike.median, 1), unit, _percent(alike.spread),
                    _percent(alike.limit),
                )
            )  # fmt: skip
            for one in alike.odd:
                node, gpu, rate = timed[one.place]
                odd.append(
                    OddGpu(
                        node=node.name,
                        index=gpu.index,
                        gpu=name,
                        measure=measure,
                        slower_percent=_percent(1 - rate / one.median),
                        spreads=None if one.spreads is None else round(one.spreads, 1),
                        value=round(rate, 1),
                        median=round(one.median, 1),
                        unit=unit,
                    )
                )
    return tuple(spreads), tuple(sorted(odd, key=lambda one: -one.slower_percent))


def speed(gpu: GpuSeen, measure: Measure) -> float | None:
    """One number for how fast a GPU is: the geometric mean of its rates in BF16 and FP8, or one rate by itself."""
    if measure != "compute":
        return _positive(gpu.copy_gb_s if measure == "copy" else gpu.bf16_tflops)
    bf16, fp8 = _positive(gpu.bf16_tflops), _positive(gpu.fp8_tflops)
    return math.sqrt(bf16 * fp8) if bf16 and fp8 else None


def relative(gpus: Iterable[GpuSeen], median: float, measure: Measure) -> list[float | None]:
    """Each GPU's speed in percent of the median of its kind; None where it was not measured."""
    speeds = (speed(gpu, measure) for gpu in gpus)
    return [None if value is None else round(100 * value / median, 1) for value in speeds]


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 and math.isfinite(value) else None


def _percent(share: float) -> float:
    return round(100 * share, 2)
