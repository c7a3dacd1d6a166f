"""Read what the workload that was asked for calls in one step."""

from __future__ import annotations

from fp8doctor.checks.workload.facts import WorkloadSeen
from fp8doctor.measuring.workloads import built_in, names
from fp8doctor.model import Request
from fp8doctor.registry import probe


@probe(runs_in="target", timeout_s=60)
def gather(request: Request) -> WorkloadSeen:
    """Reading the workload."""
    asked = request.workload
    if asked is None:
        return WorkloadSeen()
    if asked in names():
        return WorkloadSeen(asked=asked, workload=built_in(asked))
    return WorkloadSeen(asked=asked, why_not=f"{asked} is no workload; there is {', '.join(names())}")
