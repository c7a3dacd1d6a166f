"""What did one GPU do, and when was it idle?"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fp8doctor.reading.trace.host import Host
from fp8doctor.reading.trace.intervals import Stretches
from fp8doctor.reading.trace.names import OTHER
from fp8doctor.reading.trace.recording import CALL, FROM_HOST, TO_HOST, Recording

# (category, name, context, kind that its neighbours tell or "").
Key = tuple[int, int, int, str]
# Quantising in eager code is a row of operators of which only the last is told by its types. Written as the parts that
# may stand before it on the same stream, the nearest first: a missing one ends the row.
# Source: `Float8Tensor.from_hp` of torchao 0.17, recorded: to float32, divided by the scale, clamped, cast.
_ROWS = {"cast": ("quantize", ("clamp", "scale", "copy")), "amax": ("amax", ("abs",))}
# Of dequantising only the first is: from FP8 to float32, then scaled, then cast to 16 bits, these in order behind it.
# Source: `_dequantize_affine_float8` of torchao 0.17, recorded.
_BEHIND = ("scale", "copy")
# Between the two products of an attention by hand: masks, scaling and a softmax in so many kernels at most.
MOST_BETWEEN = 16
MAX_KEYS = 1_000_000
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
    # What was launched before the recording began, and is left out.
    before: int = 0
    before_us: float = 0.0
    # What stood between two batched products with a softmax among it, that softmax left out.
    between_products_us: float = 0.0
    # When the last step ended, if the host was still in it after the last activity.
    end: float | None = None

    @property
    def gaps(self) -> Stretches:
        """When nothing ran, up to the end of the last step."""
        gaps = self.busy.gaps()
        if self.end is not None and len(self.busy.ends):
            gaps.add(self.busy.ends[-1], self.end)
        return gaps

    @property
    def span_us(self) -> float:
        """From the first activity to the end of the last, or of the last step."""
        if not len(self.busy.starts):
            return 0.0
        return max(self.busy.ends[-1], self.end or self.busy.ends[-1]) - self.busy.starts[0]


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
        part: what an activity is a part of: "communication", a part of `_ROWS`, "dequantize", "batched" (a product) or
            "softmax"; None for all else.
    """
    kept = recording.activities
    device = Device(number)
    totals = device.totals
    operator_above, call_above, graphs = host.by_operator.get, host.by_call.get, host.graph_calls
    parts: dict[Key, str | None] = {}
    mine = [at for at, found in enumerate(kept.device) if found == number]
    low, high = _sane(array("d", [kept.start[at] for at in mine]))
    names, dur, start = kept.name, kept.dur, kept.start
    streams: dict[int, _Stream] = {}
    if low > -float("inf"):
        mine = [at for at in mine if low <= start[at] <= high]
    mine.sort(key=start.__getitem__)
    first = first_calls(recording)
    if all(_earlier(kept.correlation[at], first) for at in mine):
        first = {}  # then these calls are not those that launched it
    for at in mine:
        correlation = kept.correlation[at]
        if _earlier(correlation, first):
            device.before += 1
            device.before_us += dur[at]
            continue
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
        stream = streams.get(kept.stream[at])
        if stream is None:
            stream = streams[kept.stream[at]] = _Stream()
        last = stream.last
        if found in _ROWS:
            _relabel(totals, parts, last, *_ROWS[found])
        device.between_products_us += stream.between(found, dur[at])
        if stream.behind(found):
            _move(totals, key, "dequantize", dur[at])
        last.append((key, dur[at]))
        del last[:-3]
    device.streams = len(streams)
    device.activities = len(mine) - device.before
    ended = max((end for _, end in recording.steps.values()), default=0.0)
    device.end = ended if len(device.busy.ends) and ended > device.busy.ends[-1] else None
    return device


@dataclass
class _Stream:
    """What stood just before on one stream."""

    last: list[tuple[Key, float]] = field(default_factory=list)
    # Of a row behind a cast from FP8: what may come next.
    _awaited: int = len(_BEHIND)
    # Since the last batched product: kernels, their time, whether a softmax was among them; -1: there was no product.
    _kernels: int = -1
    _us: float = 0.0
    _softmax: bool = False

    def behind(self, found: str | None) -> bool:
        """Whether an activity goes on with a row of dequantising."""
        if found == "dequantize":
            self._awaited = 0
            return False
        if self._awaited < len(_BEHIND) and found == _BEHIND[self._awaited]:
            self._awaited += 1
            return True
        self._awaited = len(_BEHIND)
        return False

    def between(self, found: str | None, us: float) -> float:
        """At a batched product the time since the one before it, if those two are an attention's; else 0."""
        if found == "batched":
            paired = self._softmax and 0 <= self._kernels <= MOST_BETWEEN
            since = self._us if paired else 0.0
            self._kernels, self._us, self._softmax = (-1 if paired else 0), 0.0, False
            return since
        if self._kernels >= 0:
            self._kernels += 1
            if found == "softmax":
                self._softmax = True
            else:
                self._us += us
        return 0.0


def _earlier(correlation: int, first: dict[int, int]) -> bool:
    return 0 < correlation < first.get(correlation >> 40, 0)


def first_calls(recording: Recording) -> dict[int, int]:
    """The first call that was recorded of each process: what has a lower number was launched before the recording.

    CUPTI numbers the calls of a process in their order. Without recorded calls nothing is known.
    """
    first: dict[int, int] = {}
    for sort, link in zip(recording.host.what, recording.host.link, strict=True):
        if sort == CALL and link > 0 and link < first.get(link >> 40, 1 << 62):
            first[link >> 40] = link
    return first


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
        _move(totals, key, kind, dur)


def _move(totals: dict[Key, list[float]], key: Key, kind: str, dur: float) -> None:
    """Count one activity as of the kind that its neighbours tell."""
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
