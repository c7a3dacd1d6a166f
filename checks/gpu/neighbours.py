"""Who else was on the GPU while it was timed?

The reading before the timing sees who is there then; a program that comes later would go unnoticed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from fp8doctor.checks.gpu.nvml import Nvml
from fp8doctor.checks.gpu.one_gpu import COMPUTE_PROCESSES
from fp8doctor.variables import RUN_MARK

# More processes than this on one GPU say no more.
MOST_NEIGHBOURS = 32


@dataclass(frozen=True)
class Neighbour:
    """Another process with a context on the watched GPU."""

    # Seconds since the run began at which it was first and last seen there, and how often it was seen.
    first_t_s: float | None = None
    last_t_s: float | None = None
    looks: int | None = None
    # The most of the SMs' time that NVML put down to it; None where NVML does not tell.
    sm_percent: int | None = None


class Neighbourhood:
    """Looks at the processes of one GPU now and then.

    `seen` is None as long as none of this run's own processes was found among them: in a container NVML may number
    processes as the host does, and then nobody here can be told apart.
    """

    def __init__(self, nvml: Nvml, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._mark = os.environ.get(RUN_MARK)
        self._knows_us = False
        self._found: dict[int, Neighbour] = {}
        self._since_us = 0
        self._work()  # what NVML still knows of the time before

    @property
    def seen(self) -> tuple[Neighbour, ...] | None:
        """The processes that were found which are not this run's; None if they cannot be told apart."""
        return tuple(self._found.values()) if self._knows_us else None

    def look(self, t_s: float) -> None:
        """Look once, `t_s` seconds after the run began."""
        worked = self._work()
        for process in self._nvml.get(COMPUTE_PROCESSES, self._handle) or ():
            ours = self._is_ours(process.pid)
            if ours:
                self._knows_us = True
            elif ours is False and (process.pid in self._found or len(self._found) < MOST_NEIGHBOURS):
                before = self._found.get(process.pid, Neighbour(first_t_s=t_s, looks=0))
                known = [percent for percent in (before.sm_percent, worked.get(process.pid)) if percent is not None]
                self._found[process.pid] = replace(
                    before, last_t_s=t_s, looks=(before.looks or 0) + 1, sm_percent=max(known, default=None)
                )

    def _work(self) -> dict[int, int]:
        """The share of the SMs' time of each process since the last look, in percent."""
        samples = self._nvml.get("nvmlDeviceGetProcessUtilization", self._handle, self._since_us) or ()
        self._since_us = max((sample.timeStamp for sample in samples), default=self._since_us)
        most: dict[int, int] = {}
        for sample in samples:
            if sample.smUtil <= 100:
                most[sample.pid] = max(most.get(sample.pid, 0), int(sample.smUtil))
        return most

    def _is_ours(self, pid: int) -> bool | None:
        """Whether a process belongs to this run; None for one that ended meanwhile, or cannot be seen from here."""
        import psutil

        try:
            return self._mark is not None and psutil.Process(pid).environ().get(RUN_MARK) == self._mark
        except psutil.AccessDenied:  # another user's
            return False
        except (psutil.Error, OSError):
            return None
