"""What an earlier child of a timing probe left behind: the record to go on from, and what is not tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from fp8doctor.model import Facts, Request
from fp8doctor.plain import from_plain

RecordT = TypeVar("RecordT", bound=Facts)
_ENDED_A_CHILD = ": the child ended by "
KERNELS_LOST = "kernels of what was timed before a child ended"


def resumed(fresh: RecordT, request: Request, has_kernels: Callable[[Any], bool] = lambda case: True) -> RecordT:
    """The record to go on from: `fresh`, or that of a child that ended early, with what it was trying told.

    The facts have `not_measured`, `attempting` and `cases` with `device_us` and `other_kernels`; `has_kernels` says
    whose kernels are looked at.
    """
    if request.so_far is None:
        return fresh
    record: Any = from_plain(type(fresh), request.so_far)
    missing = list(record.not_measured or ())
    if record.attempting:
        missing.append(f"{record.attempting}{_ENDED_A_CHILD}{request.so_far_ended}")
    # The calls to profile were in the memory of the child that ended.
    unseen = [c for c in record.cases or () if c.device_us and c.other_kernels is None and has_kernels(c)]
    if unseen and KERNELS_LOST not in missing:
        missing.append(KERNELS_LOST)
    again: RecordT = replace(record, not_measured=tuple(missing), attempting=None)
    return again


def ended_children(not_measured: Iterable[str]) -> frozenset[str]:
    """What ended a child when it was tried: it is not tried again, whatever ends the next child."""
    told = (words.partition(_ENDED_A_CHILD) for words in not_measured)
    return frozenset(what for what, ended, _ in told if ended)
