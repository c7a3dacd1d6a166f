"""What changed between two reports, and which change explains a slow-down?"""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.judging.report import Report


@dataclass(frozen=True)
class Difference:
    """What is not alike in two reports."""


def difference(before: Report, after: Report) -> Difference:
    """Compare two reports."""
    raise NotImplementedError
