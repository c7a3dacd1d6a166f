"""How long does `fp8doctor trace` take to read a large trace, and how much memory, beside `json.load` of the same file?

    python -m benchmarks.trace_reading                     1 GB made of training steps
    python -m benchmarks.trace_reading TRACE --megabytes 20     a recorded trace, repeated

Each reader runs in a process of its own; the memory is the most that was resident.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def repeated(events: list[dict[str, Any]], path: Path, size_bytes: int) -> int:
    """Write the events again and again, each time later and with new ids, laid out as Kineto does; how many."""
    ids = ("External id", "external id", "correlation")
    last_us = max((e["ts"] + e.get("dur", 0) for e in events if "ts" in e), default=0)
    first_us = min((e["ts"] for e in events if "ts" in e), default=0)
    top = 1 + max((e.get("args", {}).get(key, 0) for e in events for key in ids), default=0)
    pieces, written, count, times = [], 0, 0, 0
    with path.open("w") as file:
        file.write('{\n  "schemaVersion": 1,\n  "deviceProperties": [],\n  "traceEvents": [')
        while written < size_bytes:
            for event in events:
                moved = dict(event)
                if "ts" in event:
                    moved["ts"] = round(event["ts"] + times * (last_us - first_us + 100), 3)
                if args := event.get("args"):
                    moved["args"] = {key: value + times * top if key in ids else value for key, value in args.items()}
                pieces.append(json.dumps(moved).replace(', "args": ', ',\n    "args": '))
            text = ",".join(f"\n  {piece}" for piece in pieces)
            file.write(("," if written else "") + text)
            written += len(text)
            count += len(pieces)
            pieces = []
            times += 1
        file.write('\n  ],\n  "traceName": "repeated"\n}')
    return count


def one(reader: str, path: Path) -> None:
    """Run one reader and print seconds and megabytes."""
    started = time.perf_counter()
    if reader == "json":
        with path.open() as file:
            json.load(file)
    else:
        from fp8doctor import registry
        from fp8doctor.reading.trace import add_up

        kernels = registry.load().kernels
        started = time.perf_counter()
        trace = add_up([path], kernels)
        print(f"{trace.events:,} events, {trace.us_by_kind}", file=sys.stderr)
    seconds = time.perf_counter() - started
    print(json.dumps({"s": round(seconds, 2), "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", type=Path)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--one", choices=("json", "fp8doctor"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        one(chosen.one, chosen.trace)
        return
    if chosen.trace:
        text = chosen.trace.read_bytes()
        events = json.loads(gzip.decompress(text) if text[:2] == b"\x1f\x8b" else text)["traceEvents"]
    else:
        from tests.reading.trace.made import Made, training_step

        made = Made()
        training_step(made, 1000.0, 1)
        events = made.events
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        count = repeated(events, path, chosen.megabytes * 1_000_000)
        print(f"{path.stat().st_size / 1e6:,.0f} MB, {count:,} events")
        for reader in ("json", "fp8doctor"):
            command = [sys.executable, "-m", "benchmarks.trace_reading", str(path), "--one", reader]
            said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            print(f"{reader:10} {said['s']:8.2f} s {said['mb']:8,} MB")


if __name__ == "__main__":
    main()
