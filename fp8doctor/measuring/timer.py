"""How long does a call take, on the device and at the call?

Torch is imported by the caller's process, not here: every function takes the `torch` module.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Call = Callable[[], Any]

# Raised with every change of method that moves numbers; it stands in each record that holds times.
METHOD_VERSION = 1
# Samples a batch: few enough to fit the driver's launch queue, which blocks the host at about 1,000 entries.
SAMPLES_A_BATCH = 5
# One event pair costs about 2 us itself; calls that are shorter than this share a pair, up to the number below.
PAIR_US = 200.0
MOST_CALLS_A_PAIR = 6
# Work of this length draws enough power to be followed by a pause.
LONG_BATCH_S = 0.001
# The loop of the call clock lasts about this long, within these numbers of calls; the fewest also warm it up.
CALL_LOOP_S = 0.005
CALLS_A_LOOP = (8, 200)
# The clock is steady when successive tenths of a second agree to 1 %.
STEADY = 0.01
WARM_STEP_S = 0.1
# What queueing a flush, or recording an event, takes the host: only for planning.
EVENT_US = 10.0
# L2 on parts whose size torch does not tell.
UNKNOWN_L2_BYTES = 64 << 20
# AMD's large GPUs have 256 MB of cache behind L2 (AMD, "CDNA 3 white paper").
HIP_FLUSH_BYTES = 512 << 20


@dataclass(frozen=True)
class Method:
    """How the numbers of a record were made."""

    version: int | None = None
    flush_bytes: int | None = None
    samples: int | None = None
    statistic: str | None = None


@dataclass(frozen=True)
class Pace:
    """Roughly how long a call takes the device, and the host to launch it: what the sampling is planned by."""

    device_us: float
    host_us: float


@dataclass
class Timer:
    """Times calls on one GPU, with L2 flushed before each and launches hidden behind a spinning kernel."""

    torch: Any
    device: Any
    flush_bytes: int = 0
    _flush: Any = field(default=None, repr=False)
    _flush_us: float = 0.0
    _cycles_per_s: float = 1.5e9

    def __post_init__(self) -> None:
        """Allocate the flush buffer: twice the L2 cache."""
        properties = self.torch.cuda.get_device_properties(self.device)
        self.flush_bytes = 2 * (getattr(properties, "L2_cache_size", 0) or UNKNOWN_L2_BYTES)
        if self.torch.version.hip:
            self.flush_bytes = max(self.flush_bytes, HIP_FLUSH_BYTES)
        self._flush = self.torch.empty(self.flush_bytes, dtype=self.torch.int8, device=self.device)

    def calibrate(self) -> None:
        """Time the spin and the flush, on a GPU that is warm: an idle one may clock its memory low."""
        self._calibrate_spin()
        self._flush_us = self._time_flush()

    def method(self, samples: int) -> Method:
        """The method, for the record."""
        return Method(METHOD_VERSION, self.flush_bytes, samples, "median")

    def warm(self, call: Call, limit_s: float) -> float:
        """Repeat `call` until its time is steady or the limit is reached; returns the seconds it took."""
        began = time.perf_counter()
        before = math.inf
        while time.perf_counter() - began < limit_s:
            step_began, calls = time.perf_counter(), 0
            while time.perf_counter() - step_began < WARM_STEP_S:
                for _ in range(4):
                    call()
                self.torch.cuda.synchronize(self.device)
                calls += 4
            now = (time.perf_counter() - step_began) / calls
            if abs(now - before) < STEADY * now:
                break
            before = now
        return time.perf_counter() - began

    def device_samples(self, call: Call, samples: int, pace: Pace) -> list[float]:
        """Microseconds of device time per call, one value a sample, L2 cold before every call; empty if launches show.

        The samples are queued while a spinning kernel holds the stream, so that no launch shows. Calls shorter than
        `PAIR_US` share an event pair, and the flushes between them are taken off at their own measured time.
        """
        calls = max(1, min(MOST_CALLS_A_PAIR, math.ceil(PAIR_US / max(pace.device_us, 1.0))))
        found: list[float] = []
        while len(found) < samples:
            batch = min(SAMPLES_A_BATCH, samples - len(found))
            # Half of the time idle, so that the power limit does not bend what is a burst: an H200 at its limit was
            # seen to take 3 to 8 % longer for the same product from one run to the next.
            work_s = batch * calls * pace.device_us * 1e-6
            if work_s > LONG_BATCH_S:
                time.sleep(work_s)
            taken = self._batch(call, batch, calls, pace.host_us)
            if not taken:
                break
            found += taken
        return found

    def call_us(self, call: Call) -> tuple[float, float]:
        """Microseconds per call on the host's clock, as a user's loop has it: not synchronised between calls.

        One value of a short loop, and the part of it that the host spent asking: where that is nearly all, the device
        waited for the host. Taken several times with other work between, the values also tell how the host wavers.
        """
        rough_s, _ = self._loop(call, CALLS_A_LOOP[0])
        calls = max(CALLS_A_LOOP[0], min(CALLS_A_LOOP[1], math.ceil(CALL_LOOP_S / max(rough_s, 1e-6))))
        total_s, asking_s = self._loop(call, calls)
        return total_s * 1e6, asking_s * 1e6

    def _loop(self, call: Call, calls: int) -> tuple[float, float]:
        """Seconds per call of a loop: to the end of the last one's work, and until the host had asked for it."""
        self.torch.cuda.synchronize(self.device)
        began = time.perf_counter()
        for _ in range(calls):
            call()
        asked = time.perf_counter()
        self.torch.cuda.synchronize(self.device)
        return (time.perf_counter() - began) / calls, (asked - began) / calls

    def flush(self) -> None:
        """Put other data into L2: one pass over twice its size."""
        self._flush.zero_()

    def pace(self, call: Call) -> Pace:
        """A first idea of a call's device and host time."""
        self.torch.cuda.synchronize(self.device)
        began = time.perf_counter()
        call()
        host_us = (time.perf_counter() - began) * 1e6
        self.torch.cuda.synchronize(self.device)
        return Pace(min(self._batch(call, 2, 1, host_us), default=host_us), host_us)

    def _batch(self, call: Call, samples: int, calls: int, host_us: float) -> list[float]:
        """Queue `samples` event pairs of `calls` flushed calls behind a spin, and read them.

        If the device had begun before the host had queued everything, launches may show: spin longer and try again.
        Empty if they cannot be hidden (launches that block, as CUDA_LAUNCH_BLOCKING=1 makes them).
        """
        spin_s = 0.0002 + samples * (2 * EVENT_US + calls * (host_us + EVENT_US)) * 1e-6
        for _ in range(4):
            pairs, took_s, held = self._queue(call, samples, calls, spin_s)
            if held:
                times = [start.elapsed_time(end) * 1e3 / calls for start, end in pairs]
                between_us = self._flush_us if calls > 1 else 0.0
                return [us - between_us for us in times if us > between_us]
            spin_s = 2 * max(spin_s, took_s)
        return []

    def _queue(self, call: Call, samples: int, calls: int, spin_s: float) -> tuple[list[tuple[Any, Any]], float, bool]:
        event = self.torch.cuda.Event
        pairs = [(event(enable_timing=True), event(enable_timing=True)) for _ in range(samples)]
        spun = event()
        self.torch.cuda.synchronize(self.device)
        began = time.perf_counter()
        self._spin(spin_s)
        spun.record()
        for start, end in pairs:
            if calls == 1:
                self._flush.zero_()
            start.record()
            for _ in range(calls):
                if calls > 1:
                    self._flush.zero_()
                call()
            end.record()
        took_s = time.perf_counter() - began
        held = not spun.query()
        self.torch.cuda.synchronize(self.device)
        return pairs, took_s, held

    def _spin(self, seconds: float) -> None:
        # Private, and the only spinning kernel that torch has; CUDA and HIP builds both carry it.
        self.torch.cuda._sleep(int(seconds * self._cycles_per_s))

    def _calibrate_spin(self) -> None:
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        cycles = 2_000_000
        for _ in range(2):  # the first launch loads the module
            start.record()
            self.torch.cuda._sleep(cycles)
            end.record()
            self.torch.cuda.synchronize(self.device)
        self._cycles_per_s = cycles / (start.elapsed_time(end) * 1e-3)

    def _time_flush(self) -> float:
        values = []
        for _ in range(3):
            pairs, _, _ = self._queue(lambda: None, SAMPLES_A_BATCH, 8, 0.01)
            values += [start.elapsed_time(end) * 1e3 / 8 for start, end in pairs]
        return float(sorted(values)[len(values) // 2])
