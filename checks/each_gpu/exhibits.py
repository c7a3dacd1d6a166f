"""How fast is each GPU of the box, and each way between two of them?"""

from __future__ import annotations

from fp8doctor.checks.each_gpu.facts import EachGpu, Link, Rates
from fp8doctor.model import Exhibit
from fp8doctor.registry import exhibit


@exhibit
def rates_of_each(each_gpu: EachGpu) -> Exhibit | None:
    """Every GPU alone and with all others at work."""
    if not each_gpu.gpus or not any(gpu.alone or gpu.together for gpu in each_gpu.gpus):
        return None
    rows = tuple(
        {
            "cells": {
                "GPU": str(gpu.index),
                "": when,
                "BF16, TFLOP/s": _number(rates.bf16_tflops),
                "FP8": _number(rates.fp8_tflops),
                "copy, GB/s": _number(rates.copy_gb_s),
                "MHz": _number(rates.sm_clock_mhz),
                "W": _number(rates.power_w),
                "FP8 error": "" if rates.fp8_error is None else f"{rates.fp8_error:.3f}",
            }
        }
        for gpu in each_gpu.gpus
        for when, rates in (("alone", gpu.alone or Rates()), ("together", gpu.together or Rates()))
    )
    return Exhibit("each-gpu", "table", "every GPU of this box, alone and while all of them work", "", rows)


@exhibit
def links_of_each(each_gpu: EachGpu) -> Exhibit | None:
    """What copies between GPUs reach, as a map."""
    if not each_gpu.links:
        return None
    found = {(link.source, link.target): link for link in each_gpu.links}
    gpus = sorted({index for pair in found for index in pair if index is not None})
    rows = tuple(
        {
            "x": f"to GPU {target}",
            "y": f"from GPU {source}",
            "value": link.gb_s,
            "low": None,
            "high": None,
            "note": None if link.direct or source == target else "through the host",
        }
        for source in gpus
        for target in gpus
        for link in (found.get((source, target), Link()),)
    )
    return Exhibit("each-gpu-links", "heatmap", "copies between GPUs", "GB/s", rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
