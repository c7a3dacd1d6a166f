"""Read what the workload that was asked for calls in one step."""

from __future__ import annotations

from fp8doctor.checks.workload.config_file import NoModelError, read_plan
from fp8doctor.checks.workload.facts import WorkloadSeen
from fp8doctor.measuring.workloads import built_in, names
from fp8doctor.model import Request
from fp8doctor.registry import probe


@probe(runs_in="target", timeout_s=60, for_workload=True)
def gather(request: Request) -> WorkloadSeen:
    """Reading what the workload calls."""
    asked = request.workload or ""
    if asked in names():
        return WorkloadSeen(asked=asked, workload=built_in(asked))
    try:
        plan = read_plan(asked)
    except NoModelError as error:
        return WorkloadSeen(asked=asked, why_not=str(error))
    # Imported here: of the built-in workloads nothing is built.
    from fp8doctor.checks.workload.build import CannotBuildError
    from fp8doctor.checks.workload.inputs import UnknownInputsError
    from fp8doctor.checks.workload.trace import trace

    try:
        return WorkloadSeen(asked=asked, workload=trace(plan))
    except (CannotBuildError, UnknownInputsError) as error:
        return WorkloadSeen(asked=asked, why_not=str(error))
    except ImportError as error:
        words = f"{plan.class_name} cannot be built: {type(error).__name__}: {error}"
        return WorkloadSeen(asked=asked, why_not=words[:400])
    except Exception as error:  # whatever a model's own code raises when it is called
        return WorkloadSeen(asked=asked, why_not=f"{plan.class_name} failed: {type(error).__name__}: {error}"[:400])
