"""How long may each probe take, so that the run keeps its budget whatever hangs?"""

from __future__ import annotations

import time
from collections.abc import Sequence

from fp8doctor.specs import Probe

# A probe gets this much over the time it was told, to end by itself. With what ending a stuck child takes (KILL_GRACE_S
# and DRAIN_S of process.py), judging and printing, a run ends within ten seconds of its budget.
OVERTIME_S = 7.0
# Under this, starting another timing probe would tell nothing: importing torch alone takes as long.
LEAST_S = 6.0
# The part of the budget after which what is looked at side by side must make room for what is timed. On an H200 it
# took 17 of 60 s (tests/boxes/h200-everything.json, files read for the first time).
TOGETHER_PART = 0.6


class Deadlines:
    """The clock of one run of `budget_s` seconds, started when it is made."""

    def __init__(self, budget_s: float) -> None:
        self.budget_s = budget_s
        self._started = time.monotonic()

    def left_s(self) -> float:
        """Seconds of the budget that are left; negative once it is spent."""
        return self.budget_s - (time.monotonic() - self._started)

    def together_s(self, probe: Probe, awaited: bool, timing_follows: bool) -> float:
        """Seconds that a probe may take beside others.

        Args:
            probe: the probe.
            awaited: whether others wait for it: they want their time, too, so it gets no overtime.
            timing_follows: whether probes that time the GPU come after these.
        """
        part = TOGETHER_PART if timing_follows else 1.0
        share_s = self.left_s() - (1.0 - part) * self.budget_s + (0.0 if awaited else OVERTIME_S)
        return min(probe.timeout_s, max(share_s, LEAST_S), self.left_s() + OVERTIME_S)

    def alone_s(self, probe: Probe, part: float) -> float:
        """Seconds that a timing probe may take which was told that it may use `part` of the time left."""
        return min(probe.timeout_s, part * self.left_s() + OVERTIME_S)

    def watching_s(self) -> float:
        """Seconds after which a watching probe is ended if nobody stopped it."""
        return self.left_s() + 2 * OVERTIME_S


def part_of(probe: Probe, others: Sequence[Probe]) -> float:
    """The part of the time left that a timing probe may use, so that those after it get theirs."""
    shares = probe.share + sum(other.share for other in others)
    return probe.share / shares if shares > 0 else 1.0
