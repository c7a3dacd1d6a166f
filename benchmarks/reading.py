"""How long does `fp8doctor.read` take for one pasted text, imports aside?

    python -m benchmarks.reading FOLDER

FOLDER holds texts (*.txt). Each is read and judged several times in this process; its quickest time counts.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

from fp8doctor import api
from fp8doctor.store import NotAFactsFileError

REPEATS = 5


def quickest_ms(text: bytes) -> float:
    """The quickest of several readings."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        with contextlib.suppress(api.NothingRecognisedError, NotAFactsFileError):
            api.read(text)
        times.append((time.perf_counter() - start) * 1e3)
    return min(times)


def main() -> int:
    files = sorted(Path(sys.argv[1]).glob("*.txt"))
    if not files:
        print(f"{sys.argv[1]}: no texts")
        return 2
    api.read(files[0].read_bytes())  # the imports, and the patterns' first compilation
    timed = sorted((quickest_ms(file.read_bytes()), file.name) for file in files)
    times = [one for one, _ in timed]
    at = [times[min(len(times) - 1, int(len(times) * share))] for share in (0.5, 0.9, 0.99)]
    print(
        f"{len(times)} texts: median {at[0]:.1f} ms, p90 {at[1]:.1f} ms, p99 {at[2]:.1f} ms, slowest {times[-1]:.1f} ms"
    )
    print(f"    slowest: {timed[-1][1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
