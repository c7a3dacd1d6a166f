"""Where did a step's time go, by a profiler's trace?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from fp8doctor.model import Kernel
from fp8doctor.reading.trace import kineto, nsight
from fp8doctor.reading.trace.kinds import Kinds
from fp8doctor.reading.trace.opening import MAX_UNPACKED_BYTES, SQLITE, first_bytes
from fp8doctor.reading.trace.refusal import NotATraceError
from fp8doctor.reading.trace.totals import add_up as add_up_one
from fp8doctor.traced import RankTotal, Trace

__all__ = ["NotATraceError", "add_up"]


def add_up(paths: Iterable[Path], kernels: Iterable[Kernel], *, max_bytes: int = MAX_UNPACKED_BYTES) -> Trace:
    """The totals of the traces in `paths`: one file, or one for each rank of a run.

    Of several, the totals are those of the lowest rank, and `ranks` compares them all; of several devices in one file
    the one counts on which most time was spent.

    Args:
        paths: files of PyTorch's profiler, gzipped or not, or SQLite exports of Nsight Systems.
        kernels: what the subjects know of kernels, the first hit first.
        max_bytes: the most that a file may hold unpacked.

    Raises:
        NotATraceError: if one is no trace, or has nothing in it.
    """
    kinds = Kinds(kernels)
    found = [_one(Path(path), kinds, max_bytes) for path in paths]
    if not found:
        raise NotATraceError("no trace was named")
    if len(found) == 1:
        return found[0][1]
    ranked = sorted(
        ((at if rank is None else rank, trace) for at, (rank, trace) in enumerate(found)), key=lambda item: item[0]
    )
    return dataclasses.replace(ranked[0][1], ranks=tuple(_rank(rank, trace) for rank, trace in ranked))


def _one(path: Path, kinds: Kinds, max_bytes: int) -> tuple[int | None, Trace]:
    sqlite = first_bytes(path).startswith(SQLITE)
    recording = nsight.read(path) if sqlite else kineto.read(path, max_bytes)
    if not len(recording.activities) and not len(recording.host):
        if recording.events:
            why = "has no operator and no GPU activity among its events"
        elif recording.cut:
            why = "ends before its first event"
        else:
            why = "is an empty trace"
        raise NotATraceError(
            f"{path} {why}: the profiler's schedule never reached its active steps, or nothing ran while it recorded"
        )
    return recording.rank, add_up_one(recording, kinds)


def _rank(rank: int, trace: Trace) -> RankTotal:
    return RankTotal(rank, trace.span_us, trace.busy_us, trace.communication_us, trace.exposed_communication_us)
