"""What of a fleet is worth looking at: how fast its GPUs are, side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from fp8doctor.fleet.digest import Digest
from fp8doctor.fleet.odd import relative, speed
from fp8doctor.fleet.record import Group, Measure, Node, OddGpu, Spread
from fp8doctor.model import Exhibit

# A map of more nodes than this, or of one GPU each, is no longer looked at; the distribution is.
MOST_MAPPED = 48
BINS = 12
# Groups of which one node's own measurements are shown.
MOST_EXAMPLES = 3
WORDS: dict[Measure, str] = {
    "compute": "matrix products (BF16 and FP8)",
    "bf16": "matrix products (BF16)",
    "copy": "copies in its memory",
}


def exhibits(nodes: Sequence[Node], spreads: Sequence[Spread], odd: Sequence[OddGpu]) -> tuple[Exhibit, ...]:
    """For each kind of GPU and measure a map of nodes and GPUs, or how many GPUs are how fast; and the odd ones."""
    found = []
    for spread in spreads:
        of = [node for node in nodes if any(gpu.name == spread.gpu for gpu in node.gpus)]
        is_a_map = len(of) <= MOST_MAPPED and spread.gpus >= 2 * len(of)
        found.append(_map(of, spread, odd) if is_a_map else _distribution(of, spread))
    if odd:
        found.append(_outliers(odd))
    return tuple(found)


def of_examples(groups: Sequence[Group], digests: Sequence[Digest]) -> tuple[Exhibit, ...]:
    """What was measured inside of a node, of one node of each of the largest groups."""
    by_name = {digest.node.name: digest for digest in digests}
    return tuple(
        dataclasses.replace(made, id=f"{made.id}-{group.example}", title=f"{group.example}: {made.title}")
        for group in groups[:MOST_EXAMPLES]
        for made in by_name[group.example].exhibits
    )


def _map(nodes: Sequence[Node], spread: Spread, odd: Sequence[OddGpu]) -> Exhibit:
    """Rows of GPUs, in percent of the median of their kind."""
    named = {(one.node, one.index) for one in odd if one.measure == spread.measure}
    rows: list[dict[str, Any]] = []
    for node in nodes:
        gpus = [gpu for gpu in node.gpus if gpu.name == spread.gpu]
        for gpu, percent in zip(gpus, relative(gpus, spread.median, spread.measure), strict=True):
            is_odd = (node.name, gpu.index) in named
            note = "not measured" if percent is None else "odd" if is_odd else None
            # The interval says what is a difference: of one that is not odd it holds 1.
            share = None if percent is None else percent / 100
            reach = 0.0 if is_odd else 1.0
            rows.append(
                {
                    "x": f"GPU {gpu.index}",
                    "y": node.name,
                    "value": share,
                    "low": None if share is None else share - reach,
                    "high": None if share is None else share + reach,
                    "note": note,
                }
            )
    title = (
        f"how fast each {spread.gpu} is, by {WORDS[spread.measure]}, of the median ({spread.median:,} {spread.unit})"
    )
    return Exhibit(f"fleet-map-{spread.measure}-{spread.gpu}", "heatmap", title, "x", tuple(rows))


def _distribution(nodes: Sequence[Node], spread: Spread) -> Exhibit:
    """How many GPUs are how fast, as bars over percent of the median."""
    percents = [
        100 * value / spread.median
        for node in nodes
        for gpu in node.gpus
        if gpu.name == spread.gpu and (value := speed(gpu, spread.measure)) is not None
    ]
    low, high = min(percents), max(percents)
    wide = max((high - low) / BINS, 0.1)
    counts: dict[int, int] = {}
    for percent in percents:
        place = min(math.floor((percent - low) / wide), BINS - 1)
        counts[place] = counts.get(place, 0) + 1
    rows = tuple(
        {
            "label": f"{low + place * wide:.1f} to {low + (place + 1) * wide:.1f} %",
            "value": counts.get(place, 0), "start": 0, "ratio": None, "low": None, "high": None,
        }
        for place in range(max(counts) + 1)
    )  # fmt: skip
    median = f"{spread.median:,} {spread.unit}"
    title = f"{spread.gpus:,} {spread.gpu} by {WORDS[spread.measure]}, in percent of the median ({median})"
    return Exhibit(f"fleet-spread-{spread.measure}-{spread.gpu}", "bars", title, "GPUs", rows)


def _outliers(odd: Sequence[OddGpu]) -> Exhibit:
    rows = tuple(
        {
            "cells": {
                "node": one.node,
                "GPU": f"{one.index} ({one.gpu})",
                "measured by": WORDS[one.measure],
                "slower by": f"{one.slower_percent:.1f} %",
                "of its kind's spread": "too few to say" if one.spreads is None else f"{one.spreads:.1f} times",
                "its rate": f"{one.value:,} {one.unit}",
                "median": f"{one.median:,} {one.unit}",
                "what else differs there": "; ".join(one.differs),
            }
        }
        for one in odd
    )
    return Exhibit("fleet-odd", "table", "GPUs that are slower than their kind", "", rows)
