"""What do the reports of many nodes say together?"""

from __future__ import annotations

import time
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from fp8doctor import store
from fp8doctor.api.assembling import knowledge
from fp8doctor.fleet.record import FleetReport


def merge(reports: Iterable[str | PathLike[str]]) -> FleetReport:
    """Merge reports that nodes wrote (`fp8doctor --json FILE`), thousands of them; milliseconds each.

    Args:
        reports: their files. What is none, or cannot be read, is told among the `missing`.

    Raises:
        ValueError: if no file was named.
    """
    from fp8doctor.fleet import merging

    began_s = time.monotonic()
    paths = [Path(report) for report in reports]
    if not paths:
        raise ValueError("no report was named")
    digests, missing = merging.read_files(paths, knowledge())
    return merging.merge(digests, missing, store.now(), began_s)
