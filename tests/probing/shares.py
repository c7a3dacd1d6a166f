"""Probes that time the GPU with shares of the time, for a workload and from an earlier record. Imported in children."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from fp8doctor.model import Facts, Request
from fp8doctor.registry import probe


@dataclass(frozen=True)
class Small(Facts, key="small"):
    seconds_left: float | None = None


@dataclass(frozen=True)
class Large(Facts, key="large"):
    seconds_left: float | None = None


@dataclass(frozen=True)
class Last(Facts, key="last"):
    seconds_left: float | None = None


@dataclass(frozen=True)
class OfWorkload(Facts, key="of_workload"):
    seconds_left: float | None = None


@dataclass(frozen=True)
class Growing(Facts, key="growing"):
    """Which counts were reached, and by how many processes."""

    counts: tuple[int, ...] = ()
    ended: tuple[str | None, ...] = ()


@probe(runs_in="target", timeout_s=20, times_gpu=True, order=1)
def small(request: Request) -> Small:
    """A small part."""
    return Small(request.seconds_left)


@probe(runs_in="target", timeout_s=1000, times_gpu=True, order=2, share=6.0, for_workload=True)
def of_workload(request: Request) -> OfWorkload:
    """The workload's part."""
    return OfWorkload(request.seconds_left)


@probe(runs_in="target", timeout_s=1000, times_gpu=True, order=3, share=2.0)
def large(request: Request) -> Large:
    """A larger part."""
    return Large(request.seconds_left)


@probe(runs_in="target", timeout_s=1000, times_gpu=True, order=4)
def last(request: Request) -> Last:
    """What is left."""
    return Last(request.seconds_left)


@probe(runs_in="target", timeout_s=60)
def growing(request: Request) -> Iterator[Growing]:
    """Counting on from where it stood; each third number ends the process, and so do all where it is asked for."""
    before = request.so_far or {}
    counts, ended = tuple(before.get("counts", ())), (*before.get("ended", ()), request.so_far_ended)
    most = int(request.workload or 4)
    while len(counts) < most:
        counts = (*counts, len(counts))
        yield Growing(counts, ended)
        if most > 20 or len(counts) % 3 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    yield Growing(counts, ended)
