"""Made traces, read with what the subjects know."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from fp8doctor import registry
from fp8doctor.model import Kernel
from fp8doctor.reading.trace import add_up
from fp8doctor.traced import KernelTotal, Trace
from tests.reading.trace.made import Made


@lru_cache(maxsize=1)
def kernels() -> tuple[Kernel, ...]:
    return tuple(registry.load().kernels)


def read(made: Made, folder: Path, name: str = "trace.json", **head: Any) -> Trace:
    return add_up([made.write(folder, name, **head)], kernels())


def total(trace: Trace, name: str) -> KernelTotal:
    """The total of the one kernel whose name has this in it."""
    (found,) = [kernel for kernel in trace.kernels or () if name in (kernel.name or "")]
    return found
