"""What did the host do while one GPU had nothing to do?"""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.reading.trace.device import Device
from fp8doctor.reading.trace.host import Host, Thread
from fp8doctor.reading.trace.intervals import Stretches, overlap_us, union, without

# Eager Python takes some tens of microseconds from one operator to the next, more under a profiler; who sleeps, reads a
# file or prints takes longer. Inside of a module's forward, which stacks show, Python of the model itself is on its way
# to the next operator for longer (torchao's layers search the Python path), up to a pause. Choices, no measurements.
SHORTLY_US = 100.0
PAUSE_US = 1000.0


@dataclass(frozen=True)
class Idle:
    """What the host did while the device had nothing to do. Microseconds."""

    gaps: Stretches
    launching_us: float
    waiting_us: float
    elsewhere_us: float
    # Of the last, in a data loader, and in Python that leads from one operator to the next.
    loading_us: float
    between_us: float
    # What took most of the rest: (function, the function of somebody's own that called it; 0: none) -> microseconds.
    functions: dict[tuple[int, int], float]


def idle(device: Device, host: Host) -> Idle | None:
    """Where the idle time went; None if the trace has no host events.

    Those threads count that launched something. While one of them works, what another waits for is that one's work.
    """
    gaps = device.gaps
    threads = [thread for thread in host.threads.values() if thread.launches]
    threads = threads or sorted(host.threads.values(), key=lambda thread: len(thread.busy.starts))[-1:]
    if not threads:
        return None
    loading = union(thread.loading for thread in threads)
    launching = union(without(without(thread.busy, thread.waits), thread.loading) for thread in threads)
    waiting = union(without(thread.waits, thread.loading) for thread in threads)
    in_launching = overlap_us(gaps, launching)
    in_either = overlap_us(gaps, union((launching, waiting)))
    elsewhere = max(0.0, gaps.total_us - in_either)
    in_loading = overlap_us(without(gaps, launching), loading)
    known = union((launching, waiting, loading))
    rest = without(gaps, known)
    leading = union(without(thread.busy.closed(SHORTLY_US), known) for thread in threads)
    in_modules = overlap_us(rest.shorter(PAUSE_US), union(without(thread.modules, leading) for thread in threads))
    in_loading = min(elsewhere, in_loading)
    between = min(elsewhere - in_loading, overlap_us(gaps, leading) + in_modules)
    waited = max(0.0, in_either - in_launching)
    return Idle(gaps, in_launching, waited, elsewhere, in_loading, between, _functions(rest.longer(PAUSE_US), threads))


def _functions(pauses: Stretches, threads: list[Thread]) -> dict[tuple[int, int], float]:
    """The innermost Python function round the middle of each pause, by the thread that has one."""
    found: dict[tuple[int, int], float] = {}
    for thread in threads:
        open_: list[tuple[float, int]] = []
        frames = iter(thread.frames)
        upcoming = next(frames, None)
        for start, end in zip(pauses.starts, pauses.ends, strict=True):
            middle = (start + end) / 2
            while upcoming is not None and upcoming[0] <= middle:
                while open_ and open_[-1][0] <= upcoming[0]:
                    open_.pop()
                open_.append((upcoming[1], upcoming[2]))
                upcoming = next(frames, None)
            around = [name for until, name in open_ if until > middle]
            if around:
                key = (around[-1], around[-2] if len(around) > 1 else 0)
                found[key] = found.get(key, 0.0) + end - start
    return found
