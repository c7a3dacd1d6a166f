"""Runs a step many times: how long from one end to the next?

torch comes in as an argument. On a machine without a GPU the host's clock stands in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fp8doctor.measuring.statistics import estimate, quantile

# What a rung's steps take at the least, and their number: enough for a P90, and a first look at a P99.
STEPS_S = 2.0
FEWEST_STEPS, MOST_STEPS = 12, 100
FOR_A_P99 = 50
# Steps before that, which are not counted: clocks and caches settle.
WARM_STEPS = 3
HOST_SAMPLES = 5
# A spinning kernel counts clock cycles: by the fastest clock it lasts as long as is asked at least; here twice as long.
SPIN, FASTEST_CLOCK_HZ = 2.0, 2.6e9
# How often a sample is taken whose spin was over too early, each time behind one twice as long.
HELD_TRIES = 3


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
        self._record(ends[0])
        for end in ends[1:]:
            call()
            self._record(end)
        self.wait()
        return [before.elapsed_time(after) for before, after in pairwise(ends)]

    def device_alone_ms(self, call: Callable[[], Any], steps: int, host_ms: float) -> list[float]:
        """Milliseconds that the device works for a step when the host has asked for all of it beforehand.

        A kernel that spins holds the stream meanwhile. Where a step waits for the device itself, or has more launches
        than the queue holds, some of the host's time is in it.

        Args:
            call: one step.
            steps: how often it is timed.
            host_ms: until the host has asked for one.
        """
        if not self.on_gpu:
            return self.steps_ms(call, steps)
        found = []
        spin_ms, tries = SPIN * host_ms, HELD_TRIES
        for _ in range(steps):
            spin_now = spin_ms
            for _ in range(tries):
                took_ms, held = self._behind_a_spin(call, spin_now)
                if held:
                    spin_ms = spin_now  # what was too short once would be so again
                    break
                spin_now *= 2
            else:
                tries = 1  # no spin is long enough where the host waits for the device
            found.append(took_ms)
        return found

    def _behind_a_spin(self, call: Callable[[], Any], spin_ms: float) -> tuple[float, bool]:
        """Milliseconds of a step that waited behind a spin, and whether the host had asked for it in time."""
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.wait()
        with self.torch.cuda.device(self.device):
            self.torch.cuda._sleep(int(spin_ms * 1e-3 * FASTEST_CLOCK_HZ))
        self._record(begin)
        call()
        held = not begin.query()
        self._record(end)
        self.wait()
        return float(begin.elapsed_time(end)), held

    def _record(self, event: Any) -> None:
        """Mark where the device's stream is: an event is the current device's, which may be another one."""
        with self.torch.cuda.device(self.device):
            event.record()

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
