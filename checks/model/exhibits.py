"""What is worth looking at in a model: its layers, in which format each ran, and what they took."""

from __future__ import annotations

from fp8doctor.checks.ladder.naming import label
from fp8doctor.checks.model.code import within
from fp8doctor.checks.model.layers import linears, weights, with_rows
from fp8doctor.checks.step.sums import a_step, shown
from fp8doctor.measuring.statistics import interval_text
from fp8doctor.model import Estimate, Exhibit
from fp8doctor.observed import Layer, LayerGain, Memory, Model
from fp8doctor.registry import exhibit
from fp8doctor.traced import KIND_WORDS, ProductTotal, Trace

LARGEST = 20
# Names in a row.
MOST_NAMES = 3


@exhibit
def layers_table(model: Model, trace: Trace | None) -> Exhibit | None:
    """The largest groups of linear layers; times are those of the products of their size, forward alone."""
    every = with_rows(linears(model), trace)
    layers = sorted(every, key=lambda layer: -weights([layer]))[:LARGEST]
    if not layers:
        return None
    return Exhibit(
        id="model-layers",
        kind="table",
        title="the linear layers, and their share of the products of their size",
        unit="us",
        rows=tuple({"cells": _cells(layer, every, trace)} for layer in layers),
    )


def _cells(layer: Layer, every: list[Layer], trace: Trace | None) -> dict[str, str]:
    found = _products(layer, trace)
    # A trace without modules does not tell layers of one size apart: each has its share by number.
    alike = sum(other.count or 0 for other in every if _products(other, trace) == found) or 1
    us = sum(product.us or 0.0 for product in found) * (layer.count or 0) / alike
    kinds = sorted({KIND_WORDS.get(product.kind or "", product.kind or "") for product in found})
    once = f"{shown(trace, us):,.0f}" if trace is not None and found else ""
    step = a_step(trace) if trace is not None else "a step"
    return {
        "layers": (layer.examples or ("?",))[0] if layer.count == 1 else layer.name or "?",
        "count": f"{layer.count:,}",
        "Linear(K, N)": f"{layer.k}, {layer.n}",
        "by": layer.library or "torch",
        "keeps": layer.keeps or "?",
        "multiplies": f"{layer.multiplies or '?'}{f', {layer.scaling}' if layer.scaling else ''}",
        "rows": ", ".join(f"{rows:,}" for rows in layer.rows or ()),
        "ran as": ", ".join(kind.removesuffix(" products") for kind in kinds),
        f"us {step}": once,
        "of it": f"{trace.share('', us):.1%}".replace("%", " %") if trace is not None and found else "",
    }


def _products(layer: Layer, trace: Trace | None) -> list[ProductTotal]:
    """The forward's products of the layer's size, which other layers of that size share."""
    rows = set(layer.rows or ())
    return [
        product
        for product in (trace.products or () if trace is not None else ())
        if (product.k, product.n) == (layer.k, layer.n) and (not rows or product.m in rows)
    ]


@exhibit
def gains_table(model: Model) -> Exhibit | None:
    """What FP8 gives each size of layer, timed by itself at the rows that the model calls it with."""
    timed = [gain for gain in model.gains or () if gain.bf16_us is not None]
    if not timed:
        return None
    return Exhibit(
        id="model-gains",
        kind="table",
        title="what FP8 gives each layer by itself: the product alone, and with quantising the activation (compiled)",
        unit="us",
        rows=tuple({"cells": _gain_cells(gain)} for gain in timed),
    )


def _gain_cells(gain: LayerGain) -> dict[str, str]:
    def factor(us: Estimate | None) -> str:
        return f"{gain.bf16_us.median / us.median:.2f}x" if us is not None and gain.bf16_us is not None else ""

    names = [within(name) for name in gain.names or ()]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return {
        "layers": ", ".join(names[:MOST_NAMES]) + more,
        "count": f"{gain.count:,}",
        "rows": f"{gain.rows:,}",
        "K, N": f"{gain.k}, {gain.n}",
        "BF16": interval_text(gain.bf16_us),
        "FP8 product": interval_text(gain.product_us),
        "gain": factor(gain.product_us),
        "with quantising": interval_text(gain.layer_us),
        "gain with it": factor(gain.layer_us),
    }


@exhibit
def sqnr_table(model: Model) -> Exhibit | None:
    """The layers that lose most in FP8, by trial: on what the model calls them with."""
    rows = [
        {
            "layer": error.name or "?",
            "SQNR dB": f"{error.sqnr_db:.1f}",
            "e4m3 explains": f"{error.expected_db:.1f}" if error.expected_db is not None else "",
            "tried": label(trial.config or ""),
        }
        for trial in model.trials or ()
        if "fp8" in (trial.config or "")
        for error in trial.worst or ()
        if error.sqnr_db is not None
    ]
    if not rows:
        return None
    return Exhibit(
        id="model-sqnr",
        kind="table",
        title="the layers that lose most in FP8: signal to quantisation noise, against BF16 of the same weights",
        unit="dB",
        rows=tuple({"cells": cells} for cells in rows),
    )


@exhibit
def step_table(model: Model) -> Exhibit | None:
    """What a step takes, on the device and on the host, in the blocks and outside of them."""
    run = model.run
    if run is None or run.step_ms is None:
        return None
    rows = {
        "the first call": f"{run.first_ms:,.1f}" if run.first_ms is not None else None,
        "a step after it": interval_text(run.step_ms),
        "until the host has asked for a step": f"{run.host_ms:,.1f}" if run.host_ms is not None else None,
        "outside of the repeated blocks": interval_text(model.outside_ms) or None,
    }
    return Exhibit(
        id="model-step",
        kind="table",
        title="a step by the clock, without a profiler",
        unit="ms",
        rows=tuple({"cells": {"what": what, "ms": ms}} for what, ms in rows.items() if ms),
    )


@exhibit
def memory_table(model: Model) -> Exhibit | None:
    """What lies on the GPU by what it is for, with what a step needs at its peak."""
    memory = model.memory
    parts = _parts(memory) if memory is not None else {}
    told = {what: gb for what, gb in parts.items() if gb is not None}
    if memory is None or not told:
        return None
    if (peak_gb := memory.peak_gb) is not None:
        told["in all, at the peak of a step"] = peak_gb
    return Exhibit(
        id="model-memory",
        kind="table",
        title="where the GPU's memory goes",
        unit="GB",
        rows=tuple({"cells": _memory_cells(what, gb, memory.device_gb)} for what, gb in told.items()),
    )


def _parts(memory: Memory) -> dict[str, float | None]:
    return {
        "weights": memory.weights_gb,
        "buffers": memory.buffers_gb,
        "gradients that are kept": memory.gradients_gb,
        "what else is there before a step: an optimizer's state, inputs, caches": memory.other_gb,
        "what a step needs on top, at its peak": memory.step_gb,
    }


def _memory_cells(what: str, gb: float, device_gb: float | None) -> dict[str, str]:
    share = f"{gb / device_gb:.0%}".replace("%", " %") if device_gb else ""
    return {"what": what, "GB": f"{gb:,.2f}", "of the GPU": share}
