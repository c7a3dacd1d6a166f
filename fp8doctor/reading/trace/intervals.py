"""How long do stretches of time last together, and where do two kinds of them overlap?

A stretch is (start, end). What a function here returns is in order and does not overlap itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable


class Stretches:
    """Stretches of time in order, none touching another, in two columns. Microseconds."""

    def __init__(self) -> None:
        self.starts = array("d")
        self.ends = array("d")

    def add(self, start: float, end: float) -> None:
        """Add one that begins no earlier than those before it; what overlaps becomes one."""
        ends = self.ends
        if ends and start <= ends[-1]:
            if end > ends[-1]:
                ends[-1] = end
        elif end > start:
            self.starts.append(start)
            ends.append(end)

    @property
    def total_us(self) -> float:
        """How long they last together."""
        return sum(self.ends) - sum(self.starts) if len(self.ends) < 2 else sum(map(_minus, self.ends, self.starts))

    def closed(self, shorter_than_us: float) -> Stretches:
        """The same with the gaps that are shorter than this filled."""
        filled = Stretches()
        for start, end in zip(self.starts, self.ends, strict=True):
            if filled.ends and start - filled.ends[-1] < shorter_than_us:
                filled.ends[-1] = end
            else:
                filled.add(start, end)
        return filled

    def shorter(self, than_us: float) -> Stretches:
        """Those that last less."""
        return self._those(lambda us: us < than_us)

    def longer(self, than_us: float) -> Stretches:
        """Those that last at least so long."""
        return self._those(lambda us: us >= than_us)

    def _those(self, wanted: Callable[[float], bool]) -> Stretches:
        kept = Stretches()
        for start, end in zip(self.starts, self.ends, strict=True):
            if wanted(end - start):
                kept.add(start, end)
        return kept

    def gaps(self) -> Stretches:
        """What lies between them."""
        between = Stretches()
        between.starts, between.ends = self.ends[:-1], self.starts[1:]
        return between


def _minus(end: float, start: float) -> float:
    return end - start


def union(several: Iterable[Stretches]) -> Stretches:
    """What lies in at least one of them."""
    merged = list(several)
    while len(merged) > 1:  # two by two, so that each is gone through as often as there are doublings
        merged = [
            _union_of_two(merged[at], merged[at + 1]) if at + 1 < len(merged) else merged[at]
            for at in range(0, len(merged), 2)
        ]
    return merged[0] if merged else Stretches()


def _union_of_two(a: Stretches, b: Stretches) -> Stretches:
    result = Stretches()
    add = result.add
    i = j = 0
    while i < len(a.starts) or j < len(b.starts):
        if j >= len(b.starts) or (i < len(a.starts) and a.starts[i] <= b.starts[j]):
            add(a.starts[i], a.ends[i])
            i += 1
        else:
            add(b.starts[j], b.ends[j])
            j += 1
    return result


def without(a: Stretches, b: Stretches) -> Stretches:
    """What lies in `a` and not in `b`."""
    result = Stretches()
    j = 0
    for start, end in zip(a.starts, a.ends, strict=True):
        while j < len(b.ends) and b.ends[j] <= start:
            j += 1
        k = j
        while k < len(b.starts) and b.starts[k] < end:
            if b.starts[k] > start:
                result.add(start, b.starts[k])
            start = max(start, b.ends[k])
            k += 1
        if start < end:
            result.add(start, end)
    return result


def overlap_us(a: Stretches, b: Stretches) -> float:
    """How long both last at once, in microseconds."""
    total = 0.0
    i = j = 0
    while i < len(a.starts) and j < len(b.starts):
        start, end = max(a.starts[i], b.starts[j]), min(a.ends[i], b.ends[j])
        if end > start:
            total += end - start
        if a.ends[i] <= b.ends[j]:
            i += 1
        else:
            j += 1
    return total


class Overlap:
    """How much of single stretches lies in `within`; fast for those asked in order."""

    def __init__(self, within: Stretches) -> None:
        self.within = within

    def us(self, start: float, end: float) -> float:
        """Microseconds of (start, end) that lie within."""
        from bisect import bisect_right

        starts, ends = self.within.starts, self.within.ends
        at = bisect_right(ends, start)
        total = 0.0
        while at < len(starts) and starts[at] < end:
            total += min(end, ends[at]) - max(start, starts[at])
            at += 1
        return total
