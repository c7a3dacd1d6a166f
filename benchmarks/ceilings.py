"""How close does the 5 s search for the ceilings come to a sweep of two minutes, on the same GPU in the same run?

python -m benchmarks.ceilings [--seconds 120] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch

from fp8doctor.checks.linear import ceilings
from fp8doctor.measuring.timer import Timer

STEP = 256
LARGEST = 16384


def sweep(timer: Timer, seconds: float) -> dict[str, list[tuple[float, tuple[int, int, int]]]]:
    """Random shapes in steps of 256 up to 16,384, half of the time near the best so far; sorted, fastest first."""
    found: dict[str, list[tuple[float, tuple[int, int, int]]]] = {"bf16": [], "fp8": []}
    dice = random.Random(0)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for number_format, rates in found.items():
            shape = _near(dice, rates[0][1]) if rates and dice.random() < 0.5 else _anywhere(dice)
            rate = ceilings.burst_tflops(torch, timer, number_format, shape)
            if rate is not None:
                rates.append((round(rate, 1), shape))
                rates.sort(reverse=True)
    return found


def _anywhere(dice: random.Random) -> tuple[int, int, int]:
    m, k, n = (STEP * round((LARGEST / STEP) ** dice.random() * 4) for _ in range(3))
    return min(m, LARGEST), min(k, LARGEST), min(n, LARGEST)


def _near(dice: random.Random, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    m, k, n = (min(LARGEST, max(STEP, size + STEP * dice.randint(-4, 4))) for size in shape)
    return m, k, n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--output")
    options = parser.parse_args()
    timer = Timer(torch, torch.device("cuda", 0))
    timer.warm(ceilings.product(torch, timer.device, "bf16", (4096, 4096, 4096)), 2.0)
    timer.calibrate()
    searched = ceilings.measure(torch, timer, epoch_s=time.monotonic(), with_fp8=True)
    found = sweep(timer, options.seconds)
    print(f"search {searched.took_s} s, sweep {options.seconds:.0f} s")
    for number_format, rates in found.items():
        ceiling = getattr(searched, number_format)
        # The sweep's best is a maximum over noise: it is run again as often as the search runs its own.
        best = max(ceilings.burst_tflops(torch, timer, number_format, rates[0][1]) or 0.0 for _ in range(4))
        share = ceiling.burst_tflops / max(best, 1e-9)
        print(
            f"{number_format}: search {ceiling.burst_tflops} at {ceiling.m}x{ceiling.k}x{ceiling.n} "
            f"(of {ceiling.shapes_tried} shapes), sweep {rates[0][0]} then {best:.1f} at "
            f"{'x'.join(map(str, rates[0][1]))} (of {len(rates)}): {share:.1%}; sustained {ceiling.sustained_tflops}"
        )
    if options.output:
        Path(options.output).write_text(json.dumps({name: rates[:200] for name, rates in found.items()}))


if __name__ == "__main__":
    main()
