"""The workload: which model does the person run, and what does one step of it call?"""

from fp8doctor.checks.workload.facts import WorkloadSeen

__all__ = ["WorkloadSeen"]
