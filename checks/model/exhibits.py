"""What is worth looking at in a model: its layers, in which format each ran, and what they took."""

from __future__ import annotations

from fp8doctor.checks.model.layers import linears, weights, with_rows
from fp8doctor.checks.step.sums import a_step, shown
from fp8doctor.model import Exhibit
from fp8doctor.observed import Layer, Model
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
