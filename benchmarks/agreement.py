"""Do two runs of the doctor on one machine agree?

    fp8doctor --json a.json; fp8doctor --json b.json; python -m benchmarks.agreement a.json b.json

For every layer that both runs timed: its speed-up over BF16 at the same shape, on the device's clock and on the call's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# A ratio wavers as its shorter time does: with one under 50 us it may differ by 8 %, else by 3 % (device time).
LONG_US = 50.0
LIMITS = {"50 us and more": 0.03, "shorter": 0.08}
BASELINE = "torch-bf16"


def ratios(path: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """{case: its device ratio, device time and call-ratio interval} of one report."""
    cases = json.loads(Path(path).read_text())["facts"]["linear"]["cases"]
    timed = {(c["kind"], c["config"], c["m"], c["k"], c["n"]): c for c in cases if c["device_us"]}
    found = {}
    for key, case in timed.items():
        twin = timed.get((key[0], BASELINE, *key[2:]))
        if twin is None or key[1] == BASELINE:
            continue
        times = [twin["device_us"]["median"], case["device_us"]["median"]]
        entry = {"ratio": times[0] / times[1], "us": min(times)}
        if case["call_us"] and twin["call_us"]:
            entry["call"] = (
                twin["call_us"]["low"] / case["call_us"]["high"],
                twin["call_us"]["high"] / case["call_us"]["low"],
            )
        found[key] = entry
    return found


def main() -> int:
    first, second = (ratios(path) for path in sys.argv[1:3])
    common = sorted(first.keys() & second.keys(), key=str)
    worst: dict[str, list[tuple[float, Any]]] = {name: [] for name in LIMITS}
    overlapping = calls = 0
    for key in common:
        a, b = first[key], second[key]
        group = "50 us and more" if min(a["us"], b["us"]) >= LONG_US else "shorter"
        worst[group].append((abs(a["ratio"] / b["ratio"] - 1), key))
        if "call" in a and "call" in b:
            calls += 1
            overlapping += a["call"][0] <= b["call"][1] and b["call"][0] <= a["call"][1]
    failed = False
    for group, differences in worst.items():
        differences.sort(reverse=True, key=lambda d: d[0])
        over = [d for d in differences if d[0] > LIMITS[group]]
        failed |= bool(over)
        middle = differences[len(differences) // 2][0] if differences else 0.0
        print(
            f"device-time ratios, {group}: {len(differences)} cases, median difference {middle:.1%}, "
            f"largest {differences[0][0]:.1%}, {len(over)} over {LIMITS[group]:.0%}"
        )
        for difference, key in differences[:5]:
            print(f"    {difference:.1%}  {key}")
    print(f"call-time ratios: intervals overlap in {overlapping} of {calls} cases")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
