"""What is worth looking at: where the time of an FP8 layer goes, where it breaks even, what the box can do."""

from __future__ import annotations

from typing import Any

from fp8doctor.checks.gpu.clocks import Clocks, during
from fp8doctor.checks.gpu.facts import Gpus
from fp8doctor.checks.gpu.peaks import peak_of
from fp8doctor.checks.linear.cases import Layer, cases_of, gemm_of, shape_text
from fp8doctor.checks.linear.facts import Ceiling, Linear
from fp8doctor.checks.linear.lessons import break_evens
from fp8doctor.measuring.statistics import interval_text
from fp8doctor.model import Exhibit
from fp8doctor.registry import exhibit


@exhibit
def decomposition(linear: Linear) -> Exhibit | None:
    """Where the time of one FP8 layer goes, beside BF16: bars that start where the one before ended."""
    cases = cases_of(linear)
    where, eager = cases.typical(), cases.fp8()
    if where is None or eager is None:
        return None
    m, layer = where
    bf16, whole = cases.device_us("torch-bf16", m, layer), cases.get(eager, m, layer)
    alone = cases.device_us(gemm_of(eager), m, layer, "gemm")
    if bf16 is None or alone is None or whole is None or whole.device_us is None:
        return None
    rows = [_bar("BF16", bf16.median), _bar("FP8 product alone", alone.median, ratio=bf16.median / alone.median)]
    # The parts are timed apart from one another: where they exceed the whole, they do not take it apart.
    rest = whole.device_us.median - alone.median - (whole.other_us or 0.0)
    if whole.other_us is not None and whole.other_kernels and rest >= 0:
        rows.append(_bar(f"+ quantising, {whole.other_kernels} kernels", whole.other_us, start=alone.median))
        rows.append(_bar("+ gaps and rest", rest, start=alone.median + whole.other_us))
    rows.append(_bar("= FP8, eager", whole.device_us.median, ratio=bf16.median / whole.device_us.median))
    compiled = cases.device_us(f"{eager}+compile", m, layer)
    if compiled is not None:
        rows.append(_bar("= FP8, compiled", compiled.median, ratio=bf16.median / compiled.median))
    return Exhibit(
        id="linear-decomposition",
        kind="bars",
        title=f"one linear layer, {shape_text(m, layer)}, us on the device",
        unit="us",
        rows=tuple(rows),
        answers_why=True,
    )


def _bar(name: str, value: float, start: float = 0.0, ratio: float | None = None) -> dict[str, Any]:
    return {
        "label": name,
        "value": round(value, 1),
        "start": round(start, 1),
        "ratio": None if ratio is None else round(ratio, 2),
        "low": None,
        "high": None,
    }


@exhibit
def ceilings(linear: Linear, gpus: Gpus | None, clocks: Clocks | None) -> Exhibit | None:
    """The best rates of this box, measured, against the dense peak of the exact board where that has a source."""
    found = linear.ceilings
    if found is None:
        return None
    gpu = next((g for g in (gpus.gpus or ()) if g.name == linear.device_name), None) if gpus else None
    peak = peak_of(gpu) if gpu else None
    rows = []
    for ceiling, name, board in (
        (found.bf16, "BF16 product", peak.bf16_tflops if peak else None),
        (found.fp8, "FP8 product", peak.fp8_tflops if peak else None),
    ):
        if ceiling is not None:
            rows.append({"cells": _rates(name, ceiling, board, clocks)})
    if found.copy_gb_s is not None:
        rows.append(
            {"cells": {**_empty(), "what": "device copy, read + write", "best": f"{found.copy_gb_s:,.0f} GB/s"}}
        )
    if found.launch_us is not None:
        cost = f"{found.launch_us.median:.1f} us"
        rows.append({"cells": {**_empty(), "what": "host time of one launch", "best": cost}})
    return Exhibit("linear-ceilings", "table", "what this box can do", "", tuple(rows)) if rows else None


def _empty() -> dict[str, str]:
    return {"what": "", "best": "", "at (MxKxN)": "", "of dense peak": "", "sustained": "", "clock and power then": ""}


def _rates(name: str, ceiling: Ceiling, board: float | None, clocks: Clocks | None) -> dict[str, str]:
    burst, sustained = ceiling.burst_tflops, ceiling.sustained_tflops
    seen = None
    if clocks and ceiling.started_s is not None and ceiling.ended_s is not None:
        seen = during(clocks, ceiling.started_s, ceiling.ended_s)
    return {
        "what": name,
        "best": f"{burst:,.0f} TFLOP/s" if burst else "",
        "at (MxKxN)": f"{ceiling.m}x{ceiling.k}x{ceiling.n}" if ceiling.m and ceiling.k and ceiling.n else "",
        "of dense peak": f"{burst / board:.0%} of {board:,.0f}" if burst and board else "not known",
        "sustained": f"{sustained:,.0f} TFLOP/s" if sustained else "",
        "clock and power then": f"{seen.sm_clock_mhz:,.0f} MHz, {seen.power_max_w:,.0f} W"
        if seen and seen.sm_clock_mhz and seen.power_max_w
        else "",
    }


@exhibit
def break_even_table(linear: Linear) -> Exhibit | None:
    """From how many tokens each layer gains, on the device and at the call."""
    cases = cases_of(linear)
    eager = cases.fp8()
    if eager is None:
        return None
    rows = []
    for layer, even in break_evens(cases, eager):
        rows.append(
            {"cells": {"layer": _layer(layer), "on the device": even.device_words(), "at the call": even.call_words()}}
        )
    title = "break-even: FP8 gains from M tokens"
    return Exhibit("linear-break-even", "table", title, "tokens", tuple(rows)) if rows else None


def _layer(layer: Layer) -> str:
    return f"Linear({layer[0]}, {layer[1]})"


@exhibit
def speedup_map(linear: Linear) -> Exhibit | None:
    """Compiled FP8's device-time factor over BF16 by layer and tokens."""
    cases = cases_of(linear)
    eager = cases.fp8()
    if eager is None:
        return None
    rows = [
        {
            "x": f"{m:,}",
            "y": _layer(layer),
            "value": ratio.median,
            "low": ratio.low,
            "high": ratio.high,
            "note": None,
        }
        for layer in cases.layers()
        for m, ratio in cases.speedups(f"{eager}+compile", "torch-bf16", layer)
    ]
    if not rows:
        return None
    title = f"speed-up of {eager}+compile (compiled once for all M) over BF16, device time, by tokens M"
    return Exhibit("linear-speedup", "heatmap", title, "x", tuple(rows))


@exhibit
def speedup_by_tokens(linear: Linear) -> Exhibit | None:
    """The same factors over the tokens, with their intervals: where a layer's line crosses 1 it breaks even."""
    cases = cases_of(linear)
    eager = cases.fp8()
    if eager is None:
        return None
    rows = tuple(
        {"series": _layer(layer), "x": m, "y": ratio.median, "low": ratio.low, "high": ratio.high}
        for layer in cases.layers()
        for m, ratio in cases.speedups(f"{eager}+compile", "torch-bf16", layer)
    )
    title = f"speed-up of {eager}+compile over BF16 by tokens M, device time, and what both medians' intervals allow"
    if not rows:
        return None
    return Exhibit("linear-speedup-by-tokens", "lines", title, "x", rows, x_title="tokens M", x_is_log=True)


@exhibit
def roofline(linear: Linear) -> Exhibit | None:
    """What each layer reaches beside what this box can: its measured products and its measured memory.

    Bytes are the least that the work needs: each operand read once, the result written once.
    """
    found = linear.ceilings
    cases = cases_of(linear)
    eager = cases.fp8()
    if found is None or eager is None or not found.copy_gb_s:
        return None
    # Bytes of an element: activations, weights; the result is in BF16.
    drawn = (
        ("BF16", "torch-bf16", "layer", 2, 2),
        ("FP8, compiled", f"{eager}+compile", "layer", 2, 1),
        ("FP8 product alone", gemm_of(eager), "gemm", 1, 1),
    )
    points: list[dict[str, Any]] = []
    for series, config, kind, of_x, of_w in drawn:
        for layer in cases.layers():
            for m in cases.tokens(layer):
                if (timed := cases.device_us(config, m, layer, kind)) is not None:
                    k, n = layer
                    flop, moved = 2.0 * m * k * n, of_x * m * k + of_w * k * n + 2 * m * n
                    label = f"{series} {shape_text(m, layer)}"
                    points.append(_point(series, label, flop / moved, flop / timed.median / 1e6))
    roofs = []
    for name, best, of_it in (("BF16 product", found.bf16, ("BF16",)), ("FP8 product", found.fp8, ("FP8",))):
        if best is not None and best.burst_tflops:
            # The best product that was timed, of the search or of the layers: a short burst may beat a longer one.
            timed_here = [point["tflops"] for point in points if point["series"].startswith(of_it)]
            top = max([best.burst_tflops, *timed_here])
            roofs.append(_point("ceiling", name, 1e3 * top / found.copy_gb_s, top, ceiling=True))
    if not roofs or not points:
        return None
    title = "roofline: measured layers under the best that was measured here (device time, L2 cold; the least bytes)"
    return Exhibit("linear-roofline", "roofline", title, "TFLOP/s", (*roofs, *points))


def _point(series: str, label: str, flop_per_byte: float, tflops: float, *, ceiling: bool = False) -> dict[str, Any]:
    return {
        "series": series,
        "label": label,
        "flop_per_byte": round(flop_per_byte, 2),
        "tflops": round(tflops, 2),
        "ceiling": ceiling,
    }


@exhibit
def every_case(linear: Linear) -> Exhibit | None:
    """Every timed case, with its spread, error and kernel."""
    timed = [c for c in linear.cases or () if c.device_us is not None or c.call_us is not None]
    rows = tuple(
        {
            "cells": {
                "case": f"{c.config}{' (product alone)' if c.kind == 'gemm' else ''}",
                "M x K x N": f"{c.m}x{c.k}x{c.n}",
                "device us": interval_text(c.device_us),
                "call us": interval_text(c.call_us),
                "error": "" if c.relative_error is None else f"{c.relative_error:.4f}",
                "kernel": c.gemm_kernel or "",
            }
        }
        for c in timed
    )
    return Exhibit("linear-cases", "table", "every timed case: median [95 % interval]", "us", rows) if rows else None
