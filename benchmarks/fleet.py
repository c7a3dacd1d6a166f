"""How small a slow-down is found among many GPUs, how many false alarms that costs, and how long merging takes.

    python -m benchmarks.fleet             # odd ones among 1,000 simulated GPUs, by the spread of the healthy ones
    python -m benchmarks.fleet --limits    # the quantiles that `fp8doctor.fleet.odd.limit` is fitted to (needs numpy)
    python -m benchmarks.fleet --merge N   # N reports, made of a recorded box, written and merged

The healthy GPUs' rates are those of the recorded H200 times a normal factor of each GPU (its spread), one for all its
products, times another of 0.3 % for each measurement, both together as wide as is said; copies have a third of it.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fp8doctor
from fp8doctor.fleet.odd import find_odd
from fp8doctor.fleet.record import GpuSeen, Node

BOX = Path(__file__).parent.parent / "tests" / "boxes" / "h200.json"
GPUS, PER_NODE, TRIALS = 1000, 8, 200
SPREADS = (0.005, 0.01, 0.02)
PLANTED = (0.03, 0.05, 0.10)
REPEAT = 0.003
FOUND_IN = 0.95


def rates() -> tuple[float, float, float]:
    """BF16 and FP8 rates held for a second, and the copy rate, of the recorded H200."""
    best = json.loads(BOX.read_text())["facts"]["linear"]["ceilings"]
    return best["bf16"]["sustained_tflops"], best["fp8"]["sustained_tflops"], best["copy_gb_s"]


def fleet(chance: random.Random, spread: float, slow: Sequence[float]) -> list[Node]:
    """1,000 GPUs in nodes of 8; the first of some nodes are slower by `slow`, in their products."""
    bf16, fp8, copies = rates()
    nodes = []
    for number in range(GPUS // PER_NODE):
        gpus = []
        for index in range(PER_NODE):
            # With the measurements' own share it is the spread that is asked for.
            chip = chance.gauss(1, math.sqrt(spread**2 - REPEAT**2 / 2))
            if index == 0 and number < len(slow):
                chip *= 1 - slow[number]
            gpus.append(
                GpuSeen(
                    index,
                    "NVIDIA H200",
                    None,
                    bf16 * chip * chance.gauss(1, REPEAT),
                    fp8 * chip * chance.gauss(1, REPEAT),
                    copies * chance.gauss(1, spread / 3) * chance.gauss(1, REPEAT),
                )
            )
        nodes.append(Node(f"node-{number}", "", "", "ready", "", gpus=tuple(gpus)))
    return nodes


def found(spread: float, slow: float, trials: int, seed: int) -> float:
    """The share of trials in which the one planted slow GPU is named."""
    chance = random.Random(seed)
    hits = 0
    for _ in range(trials):
        _, odd = find_odd(fleet(chance, spread, [slow]))
        hits += any((one.node, one.index) == ("node-0", 0) for one in odd)
    return hits / trials


def false_alarms(spread: float, trials: int, seed: int) -> float:
    """Healthy GPUs that are named, for each 1,000."""
    chance = random.Random(seed)
    return sum(len({(o.node, o.index) for o in find_odd(fleet(chance, spread, []))[1]}) for _ in range(trials)) / trials


def smallest(spread: float, trials: int) -> float:
    """The smallest slow-down, in steps of 0.1 %, that is found in 95 % of the trials."""
    low, high = 0.0, 0.2
    while high - low > 0.001:
        middle = (low + high) / 2
        low, high = (low, middle) if found(spread, middle, trials, 7) >= FOUND_IN else (middle, high)
    return high


def simulated(trials: int) -> None:
    """Print the table."""
    head = ["spread", "false alarms in 1,000", *(f"{one:.0%} slower found in" for one in PLANTED)]
    print("|", " | ".join([*head, f"smallest found in {FOUND_IN:.0%}", "at most wanted"]), "|")
    print("|", " | ".join(["---"] * (len(head) + 2)), "|")
    for spread in SPREADS:
        hits = [f"{found(spread, slow, trials, 3):.0%}" for slow in PLANTED]
        least = f"{100 * smallest(spread, trials):.1f} %"
        most = f"{100 * max(0.05, 5 * spread):.1f} %"
        print("|", " | ".join([f"{spread:.1%}", f"{false_alarms(spread, trials, 5):.2f}", *hits, least, most]), "|")


def limits() -> None:
    """Print by what the quantile 0.9995 of (median - x) / (1.4826 MAD) exceeds a normal one, beside the formula."""
    import numpy as np

    from fp8doctor.measuring.odd_ones import FALSE_ALARMS, limit

    chance = np.random.default_rng(1)
    for count in (8, 10, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1000):
        x = chance.normal(size=(3_000_000 // count, count))
        median = np.median(x, axis=1, keepdims=True)
        spread = 1.4826 * np.median(np.abs(x - median), axis=1, keepdims=True)
        seen = float(np.quantile((median - x) / spread, 1 - 5e-4))
        print(f"{count:5}  {seen / 3.29:5.2f}  {limit(count) / FALSE_ALARMS:5.2f}")


def merged(count: int) -> None:
    """Write `count` reports and merge them in a process of its own."""
    document = json.loads(fp8doctor.diagnose(BOX).to_json())
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            one = _node(document, chance, number)
            Path(folder, f"node-{number:05}.json").write_text(json.dumps(one))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "fp8doctor", "fleet", folder, "--json", f"{folder}/fleet.out"], check=True
        )
        took = time.monotonic() - began
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{count:,} reports, {size / 1e6:,.0f} MB: {took:.1f} s, at most {most:,.0f} MiB in one process")


def _node(document: dict[str, Any], chance: random.Random, number: int) -> dict[str, Any]:
    """The recorded box as another node: its rates vary, one in a hundred has another driver."""
    facts = dict(document["facts"])
    best = copy.deepcopy(facts["linear"]["ceilings"])
    chip = chance.gauss(1, 0.01)
    for name in ("bf16", "fp8"):
        best[name]["sustained_tflops"] *= chip
    facts["linear"] = {**facts["linear"], "ceilings": best}
    if number % 100 == 1:
        facts["driver"] = {**facts["driver"], "version": "570.86.15"}
    return {**document, "facts": facts}


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", action="store_true")
    parser.add_argument("--merge", type=int, metavar="N")
    parser.add_argument("--trials", type=int, default=TRIALS)
    options = parser.parse_args()
    if options.limits:
        limits()
    elif options.merge:
        merged(options.merge)
    else:
        simulated(options.trials)


if __name__ == "__main__":
    main()
