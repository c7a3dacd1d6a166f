"""What did the last examination on this machine find? It is kept for `fp8doctor explain`."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fp8doctor.judging.report import FindingRecord, OutcomeRecord, SilencedRecord

if TYPE_CHECKING:
    from fp8doctor.judging.report import Report

FILE = "last-report.json"
# A report of a large box is under 2 MB.
LARGEST_BYTES = 16 << 20
# Writing one takes less than this: a temporary file that is older was left by a run that was killed.
WRITTEN_IN_S = 60


@dataclass(frozen=True)
class _Gpu:
    name: str | None = None


@dataclass(frozen=True)
class _Gpus:
    gpus: tuple[_Gpu, ...] | None = None


@dataclass(frozen=True)
class _Facts:
    gpus: _Gpus | None = None


@dataclass(frozen=True)
class _Kept:
    """What is read of a kept report; anything else in it is passed over."""

    schema: str
    created: str
    findings: tuple[FindingRecord, ...]
    outcomes: tuple[OutcomeRecord, ...]
    facts: _Facts
    silenced: tuple[SilencedRecord, ...] = ()


def keep(report: Report) -> None:
    """Keep a report, redacted, in place of the one before; where that cannot be done nothing is kept."""
    from fp8doctor.probing.cache import own_folder

    with contextlib.suppress(Exception):  # whatever is wrong with it, the report itself was delivered
        place = own_folder() / FILE
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(place)
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=FILE)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(report.to_json())
            Path(name).replace(place)  # whole or not at all, whoever reads meanwhile
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _remove_leftovers(place: Path) -> None:
    """Remove the temporary files of runs that were killed while they wrote one."""
    for left in place.parent.glob(f"{FILE}?*"):
        if time.time() - left.stat().st_mtime > WRITTEN_IN_S:
            left.unlink(missing_ok=True)


def read() -> dict[str, Any] | None:
    """The judgement of the report that was kept, as plain values with its `gpus`; None if there is none to be read."""
    import msgspec

    from fp8doctor import store
    from fp8doctor.probing.cache import own_folder

    try:
        place = own_folder() / FILE
        if not place.is_file():
            return None
        with place.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
        kept = msgspec.json.decode(data, type=_Kept) if len(data) <= LARGEST_BYTES else None
    except (OSError, RuntimeError, ValueError, RecursionError):
        return None
    if kept is None or kept.schema != store.REPORT_SCHEMA:
        return None
    plain: dict[str, Any] = msgspec.to_builtins(kept)
    gpus = (kept.facts.gpus.gpus if kept.facts.gpus else None) or ()
    return {**plain, "gpus": [gpu.name for gpu in gpus if gpu.name]}
