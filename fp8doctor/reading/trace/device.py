"""What did one GPU do, and when was it idle?"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fp8doctor.reading.trace.host import Host
from fp8doctor.reading.trace.intervals import Stretches, overlap_us, union, without
from fp8doctor.reading.trace.names import OTHER
from fp8doctor.reading.trace.recording import FROM_HOST, TO_HOST, Recording

# (category, name, context, kind that its neighbours tell or "").
Key = tuple[int, int, int, str]
# Quantising in eager code is a row of operators of which only the last is told by its types. Written as the parts that
# may stand before it on the same stream, the nearest first: a missing one ends the row.
# Source: `Float8Tensor.from_hp` of torchao 0.17, recorded: to float32, divided by the scale, clamped, cast.
_ROWS = {"cast": ("quantize", ("clamp", "scale", "copy")), "amax": ("amax", ("abs",))}
MAX_KEYS = 1_000_000
# Eager Python takes some tens of microseconds from one operator to the next, more under a profiler; who sleeps, reads a
# file or prints takes longer. A choice, not a measurement.
SHORTLY_US = 100.0
# A GPU activity further than a day from the others has a wrong time.
_DAY_US = 86_400e6


@dataclass
class Device:
    """The activities of one device, added up. Microseconds."""

    number: int
    totals: dict[Key, list[float]] = field(default_factory=dict)
    streams: int = 0
    activities: int = 0
    busy: Stretches = field(default_factory=Stretches)
    # While anything ran that is no communication.
    working: Stretches = field(default_factory=Stretches)
    communication: Stretches = field(default_factory=Stretches)
    # Copies from the host, and whatever is neither a copy between GPU and host nor communication.
    copies: Stretches = field(default_factory=Stretches)
    computing: Stretches = field(default_factory=Stretches)


def busiest(recording: Recording) -> int:
    """The device on which most time was spent; of two alike the first."""
    spent: dict[int, float] = {}
    for device, dur in zip(recording.activities.device, recording.activities.dur, strict=True):
        spent[device] = spent.get(device, 0.0) + dur
    return max(spent, key=lambda device: (spent[device], -device))


def follow(recording: Recording, host: Host, number: int, part: Callable[[Key], str | None]) -> Device:
    """Go through the activities of one device.

    Args:
        recording: what was read.
        host: what stands above each launch.
        number: the device's.
        part: what an activity is a part of: "communication", or a part of `_ROWS`; None for all else.
    """
    kept = recording.activities
    device = Device(number)
    totals = device.totals
    operator_above, call_above, graphs = host.by_operator.get, host.by_call.get, host.graph_calls
    parts: dict[Key, str | None] = {}
    mine = [at for at, found in enumerate(kept.device) if found == number]
    low, high = _sane(array("d", [kept.start[at] for at in mine]))
    names, dur, start = kept.name, kept.dur, kept.start
    before: dict[int, list[tuple[Key, float]]] = {}
    if low > -float("inf"):
        mine = [at for at in mine if low <= start[at] <= high]
    mine.sort(key=start.__getitem__)
    for at in mine:
        correlation = kept.correlation[at]
        if correlation and correlation in graphs:
            context = 0
        else:
            external = kept.external[at]
            context = (operator_above(external) if external else 0) or (call_above(correlation) if correlation else 0)
        key: Key = (kept.category[at], names[at], context, "")
        total = totals.get(key)
        if total is None:
            if len(totals) >= MAX_KEYS:
                key = (kept.category[at], OTHER, 0, "")
            total = totals.setdefault(key, [0, 0.0])
            parts[key] = part(key)
        total[0] += 1
        total[1] += dur[at]
        begin, end = start[at], start[at] + dur[at]
        device.busy.add(begin, end)
        found = parts[key]
        if found == "communication":
            device.communication.add(begin, end)
            continue
        device.working.add(begin, end)
        if kept.category[at] == FROM_HOST:
            device.copies.add(begin, end)
        elif kept.category[at] != TO_HOST:
            device.computing.add(begin, end)
        last = before.get(kept.stream[at])
        if last is None:
            last = before[kept.stream[at]] = []
        if found in _ROWS:
            _relabel(totals, parts, last, *_ROWS[found])
        last.append((key, dur[at]))
        del last[:-3]
    device.streams = len({kept.stream[at] for at in mine})
    device.activities = len(mine)
    return device


def _relabel(
    totals: dict[Key, list[float]],
    parts: dict[Key, str | None],
    last: list[tuple[Key, float]],
    kind: str,
    row: tuple[str, ...],
) -> None:
    """Count what stands before the end of such a row as a part of it."""
    for wanted, (key, dur) in zip(row, reversed(last), strict=False):
        if parts[key] != wanted:
            return
        totals[key][0] -= 1
        totals[key][1] -= dur
        total = totals.setdefault((*key[:3], kind), [0, 0.0])
        total[0] += 1
        total[1] += dur


def _sane(starts: Sequence[float]) -> tuple[float, float]:
    """The limits between which a start is believed; infinite unless they spread over more than a day."""
    if not starts or max(starts) - min(starts) < _DAY_US:
        return -float("inf"), float("inf")
    middle = sorted(starts)[len(starts) // 2]
    return middle - _DAY_US / 2, middle + _DAY_US / 2


@dataclass(frozen=True)
class Idle:
    """What the host did while the device had nothing to do. Microseconds."""

    gaps: Stretches
    launching_us: float
    waiting_us: float
    elsewhere_us: float
    # Of the last, in a data loader, and between two operators that follow shortly upon one another.
    loading_us: float
    between_us: float


def idle(device: Device, host: Host) -> Idle | None:
    """Where the idle time went; None if the trace has no host events.

    Those threads count that launched something. While one of them works, what another waits for is that one's work.
    """
    gaps = device.busy.gaps()
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
    # Python that leads from one operator to the next.
    known = union((launching, waiting, loading))
    leading = union(without(thread.busy.closed(SHORTLY_US), known) for thread in threads)
    in_loading = min(elsewhere, in_loading)
    between = min(elsewhere - in_loading, overlap_us(gaps, leading))
    return Idle(gaps, in_launching, max(0.0, in_either - in_launching), elsewhere, in_loading, between)
