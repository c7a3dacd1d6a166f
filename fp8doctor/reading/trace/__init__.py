"""Where did a step's time go, by a profiler's trace?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fp8doctor.model import Kernel
from fp8doctor.traced import Trace


class NotATraceError(Exception):
    """A file that is no trace, or one with nothing to say."""


def add_up(paths: Iterable[Path], kernels: Iterable[Kernel]) -> Trace:
    """The totals of the traces in `paths`."""
    raise NotImplementedError
