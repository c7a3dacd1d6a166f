"""Which ways of calling te.Linear compete, for inference and for training?"""

from __future__ import annotations

from fp8doctor.checks.linear.advice import TASK as INFERENCE
from fp8doctor.checks.linear.cases import cases_of, waits_for_host
from fp8doctor.checks.linear.facts import Linear
from fp8doctor.checks.transformer_engine.configurations import (
    BF16,
    CACHED,
    TE_BF16,
    Configuration,
    how,
    is_graph,
    label,
    scaling_of,
)
from fp8doctor.checks.transformer_engine.times import FORWARD, TRAINING, LayerTime, TransformerEngineTimes, passes_of
from fp8doctor.checks.workload import WorkloadSeen
from fp8doctor.model import Candidate
from fp8doctor.registry import candidates

TRAINING_TASK = "linear-training"


@candidates
def inference(times: TransformerEngineTimes, linear: Linear | None, seen: WorkloadSeen | None) -> list[Candidate]:
    """te.Linear's forward in FP8, where the linear layer's own subject has a baseline to compare it with.

    None for a workload that only trains, and none of `training` for one that never does.
    """
    if linear is None or FORWARD not in passes_of(seen.workload if seen else None):
        return []
    own = cases_of(linear)
    return [
        _candidate(case, INFERENCE)
        for case in times.cases or ()
        if case.passes == FORWARD
        and case.device_us
        and scaling_of(case.config) is not None
        and own.get(BF16, case.m or 0, (case.k or 0, case.n or 0)) is not None
    ]


@candidates
def training(times: TransformerEngineTimes, seen: WorkloadSeen | None) -> list[Candidate]:
    """te.Linear's forward and backward, and nn.Linear's in BF16, which is the baseline.

    A weight that was cast before does not compete: it holds for all microbatches but the first.
    """
    if TRAINING not in passes_of(seen.workload if seen else None):
        return []
    return [
        _candidate(case, TRAINING_TASK)
        for case in times.cases or ()
        if case.passes == TRAINING
        and case.device_us
        and case.config
        and CACHED not in case.config.split("+")
        and Configuration(case.config, TRAINING).base != TE_BF16
    ]


def _candidate(case: LayerTime, task: str) -> Candidate:
    """A timed case as a candidate. A CUDA graph holds a whole model, so there the device's time counts."""
    config, passes = case.config or "", case.passes or FORWARD
    scaling = scaling_of(config)
    error, limit = _worse_error(case)
    return Candidate(
        task=task,
        config=config,
        label=label(config),
        format=_format(config),
        how=how(config, passes),
        shape={"k": case.k or 0, "n": case.n or 0},
        sweep=case.m,
        device_us=case.device_us,
        call_us=case.call_us,
        waits_for_host=waits_for_host(case) and not is_graph(config),
        error=error,
        error_limit=limit,
        requires=("torch",) if scaling is None else ("transformer-engine",),
        baseline=scaling is None,
        doing="training" if passes == TRAINING else None,
        kernel=case.gemm_kernel,
    )


def _format(config: str) -> str:
    """The number format of a slug: "te-fp8-current" is "fp8", "te-nvfp4+cudagraph" is "nvfp4"."""
    _, _, rest = config.partition("+")[0].partition("-")
    return rest.partition("-")[0]


def _worse_error(case: LayerTime) -> tuple[float | None, float | None]:
    """The error that exceeds its limit by more, and that limit: the output's or a gradient's.

    A result that is not finite has no error, and is then never advised.
    """
    output = (case.relative_error, case.relative_error_limit)
    gradient = (case.gradient_error, case.gradient_error_limit)
    if case.error or case.passes != TRAINING:
        return (None if case.error else output[0]), output[1]
    return max((output, gradient), key=lambda pair: (pair[0] or 0.0) / (pair[1] or 1.0))
