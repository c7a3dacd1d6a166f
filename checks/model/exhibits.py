"""What is worth looking at in a model: its layers, in which format each ran, and what they took."""

from __future__ import annotations

from fp8doctor.checks.model.layers import linears, weights, with_rows
from fp8doctor.checks.step.sums import a_step, shown
from fp8doctor.model import Exhibit
from fp8doctor.observed import Layer, Memory, Model
from fp8doctor.registry import exhibit
from fp8doctor.traced import KIND_WORDS, ProductTotal, Trace

LARGEST = 20


@exhibit
def layers_table(model: Model, trace: Trace | None) -> Exhibit | None:
    """The largest groups of linear layers; times are those of the products of their size, forward alone."""
    layers = sorted(with_rows(linears(model), trace), key=lambda layer: -weights([layer]))[:LARGEST]
    if not layers:
        return None
    return Exhibit(
        id="model-layers",
        kind="table",
        title="the linear layers, and the products of their sizes",
        unit="us",
        rows=tuple({"cells": _cells(layer, trace)} for layer in layers),
    )


def _cells(layer: Layer, trace: Trace | None) -> dict[str, str]:
    found = _products(layer, trace)
    us = sum(product.us or 0.0 for product in found)
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
    }


def _products(layer: Layer, trace: Trace | None) -> list[ProductTotal]:
    """The forward's products of the layer's size. Layers of one size share them: they are told in each row."""
    rows = set(layer.rows or ())
    return [
        product
        for product in (trace.products or () if trace is not None else ())
        if (product.k, product.n) == (layer.k, layer.n) and (not rows or product.m in rows)
    ]


@exhibit
def memory_table(model: Model) -> Exhibit | None:
    """What lies on the GPU by what it is for, with what a step needs at its peak."""
    memory = model.memory
    parts = _parts(memory) if memory is not None else {}
    told = {what: gb for what, gb in parts.items() if gb is not None}
    if memory is None or not told:
        return None
    if len(told) == len(parts):  # a sum of parts of which some are unknown would be none
        told["in all, at the peak of a step"] = sum(told.values())
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
