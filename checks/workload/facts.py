"""What was asked for with --for or bench, and what one step of it calls."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.measuring.workloads import Workload
from fp8doctor.model import Facts


@dataclass(frozen=True)
class WorkloadSeen(Facts, key="workload"):
    """The workload; `asked` is None where none was named, and then there is nothing else."""

    # The name, or the path of a configuration file.
    asked: str | None = None
    workload: Workload | None = None
    # Why it could not be read or traced, in words.
    why_not: str | None = None
