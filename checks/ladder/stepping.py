"""How much memory is given out while a configuration works, and for how long are its steps timed?

Runs in the child.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from fp8doctor.checks.ladder.facts import MemoryPoint
from fp8doctor.measuring.stepping import Meter

# In a run of a minute: most of it goes to compiling.
SHORT_STEPS_S = 0.8
# Where a benchmark has the time, steps get this part of a rung's even share, up to the seconds below.
STEPS_PART, MOST_STEPS_S = 1 / 6, 10.0
# How often the memory is looked at, and how many points of it are kept.
MEMORY_EVERY_S = 0.01
MEMORY_POINTS = 40


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
