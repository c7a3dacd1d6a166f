"""Runs a step many times: how long from one end to the next, and how much memory meanwhile?

Runs in the child; torch comes in as an argument. On a machine without a GPU the host's clock stands in.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from fp8doctor.checks.ladder.facts import MemoryPoint
from fp8doctor.measuring.statistics import estimate, quantile

# What a rung's steps take at the least, and their number: enough for a P90, and a first look at a P99.
STEPS_S = 2.0
# In a run of a minute: most of it goes to compiling.
SHORT_STEPS_S = 0.8
FEWEST_STEPS, MOST_STEPS = 12, 100
# Where a benchmark has the time, steps get this part of a rung's even share, up to the seconds below.
STEPS_PART, MOST_STEPS_S = 1 / 6, 10.0
FOR_A_P99 = 50
# Steps before that, which are not counted: clocks and caches settle.
WARM_STEPS = 3
# How often the memory is looked at, and how many points of it are kept.
MEMORY_EVERY_S = 0.01
MEMORY_POINTS = 40
HOST_SAMPLES = 5


@dataclass
class Meter:
    """The clock and the memory of one device."""

    torch: Any
    device: Any
    # Seconds of steps that are timed for one configuration.
    steps_s: float = STEPS_S

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU to ask; otherwise the host does the work."""
        return bool(self.device.type == "cuda")

    def wait(self) -> None:
        """Until the device has done all that it was asked for."""
        if self.on_gpu:
            self.torch.cuda.synchronize(self.device)

    def allocated_bytes(self) -> int:
        """What torch's allocator has given out now."""
        return int(self.torch.cuda.memory_allocated(self.device)) if self.on_gpu else 0

    def l2_bytes(self) -> int:
        """The size of the device's L2 cache; 0 where it is not known."""
        if not self.on_gpu:
            return 0
        return int(getattr(self.torch.cuda.get_device_properties(self.device), "L2_cache_size", 0))

    def forget_peak(self) -> None:
        """Count the peak from here."""
        if self.on_gpu:
            self.torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int:
        """The most that was given out since `forget_peak`."""
        return int(self.torch.cuda.max_memory_allocated(self.device)) if self.on_gpu else 0

    def first(self, call: Callable[[], Any]) -> float:
        """Seconds of one call until its work is done."""
        self.wait()
        began = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - began

    def steps_ms(self, call: Callable[[], Any], steps: int) -> list[float]:
        """Milliseconds from the end of each step to the end of the next; none is waited for in between."""
        for _ in range(WARM_STEPS):
            call()
        if not self.on_gpu:
            return [1e3 * self.first(call) for _ in range(steps)]
        ends = [self.torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
        ends[0].record()
        for end in ends[1:]:
            call()
            end.record()
        self.wait()
        return [before.elapsed_time(after) for before, after in pairwise(ends)]

    def host_ms(self, call: Callable[[], Any]) -> list[float]:
        """Milliseconds until the host has asked for a step, of a device that is idle when it begins.

        An upper bound: a stream holds about a thousand launches that wait, after which the host waits for the device.
        """
        found = []
        for _ in range(HOST_SAMPLES):
            self.wait()
            began = time.perf_counter()
            call()
            found.append(1e3 * (time.perf_counter() - began))
        self.wait()
        return found


def how_many(step_s: float, left_s: float) -> int:
    """How many steps to time, when one takes `step_s` and there are `left_s` seconds at most."""
    fitting = int(min(STEPS_S, max(left_s, 0.0)) / max(step_s, 1e-6))
    return max(FEWEST_STEPS, min(MOST_STEPS, fitting))


def summary_of(times_ms: list[float]) -> dict[str, Any]:
    """How the times of one configuration's steps are spread; milliseconds."""
    ordered = sorted(times_ms)
    return {
        "step_ms": estimate(times_ms),
        "mean_ms": round(sum(times_ms) / len(times_ms), 3),
        "least_ms": round(ordered[0], 3),
        "p90_ms": round(quantile(ordered, 0.9), 3),
        # Of fewer steps it would be the slowest one.
        "p99_ms": round(quantile(ordered, 0.99), 3) if len(ordered) >= FOR_A_P99 else None,
    }


@dataclass
class MemoryWatch:
    """Looks at the allocator from a thread beside the work, phase by phase; never while steps are timed."""

    meter: Meter
    points: list[MemoryPoint] = field(default_factory=list)
    _began: float = field(default_factory=time.perf_counter)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Watch for the time of a block."""
        stop = threading.Event()
        thread = threading.Thread(target=self._watch, args=(name, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._look(name)

    def _watch(self, name: str, stop: threading.Event) -> None:
        while not stop.wait(MEMORY_EVERY_S):
            self._look(name)

    def _look(self, name: str) -> None:
        gb = round(self.meter.allocated_bytes() / 1e9, 3)
        self.points.append(MemoryPoint(name, round(time.perf_counter() - self._began, 3), gb))

    def kept(self) -> tuple[MemoryPoint, ...]:
        """The points at which the memory changed most, thinned out to those that a drawing can show."""
        changed = [p for i, p in enumerate(self.points) if i == 0 or p.allocated_gb != self.points[i - 1].allocated_gb]
        every = max(1, -(-len(changed) // MEMORY_POINTS))
        kept = changed[::every]
        return tuple(kept if not changed or kept[-1] is changed[-1] else [*kept, changed[-1]])
