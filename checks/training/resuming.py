"""What an earlier child of a timing probe left behind: the record to go on from, and what is not tried again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from fp8doctor.model import Facts, Request
from fp8doctor.plain import from_plain

RecordT = TypeVar("RecordT", bound=Facts)
_ENDED_A_CHILD = ": the child ended by "
CALLS_LOST = "calls and kernels of what was timed before a child ended"


def resumed(fresh: RecordT, request: Request) -> RecordT:
    """The record to go on from: `fresh`, or that of a child that ended early, with what it was trying told.

    The facts have `cases` with `device_us` and `call_us`, `not_measured` and `attempting`.
    """
    if request.so_far is None:
        return fresh
    record: Any = from_plain(type(fresh), request.so_far)
    missing = list(record.not_measured or ())
    if record.attempting:
        missing.append(f"{record.attempting}{_ENDED_A_CHILD}{request.so_far_ended}")
    # The calls themselves were in the memory of the child that ended.
    if CALLS_LOST not in missing and any(case.device_us and not case.call_us for case in record.cases or ()):
        missing.append(CALLS_LOST)
    again: RecordT = replace(record, not_measured=tuple(missing), attempting=None)
    return again


def ended_children(not_measured: Iterable[str]) -> frozenset[str]:
    """What ended a child when it was tried: it is not tried again, whatever ends the next child."""
    told = (words.partition(_ENDED_A_CHILD) for words in not_measured)
    return frozenset(what for what, ended, _ in told if ended)
