"""What was measured of several GPUs that work together."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Estimate, Facts


@dataclass(frozen=True)
class Collective:
    """One collective operation among so many GPUs.

    `size_bytes` is the larger of a rank's two arrays: all of what is reduced, gathered, or scattered. The bandwidths
    follow from it as in nccl-tests, doc/PERFORMANCE.md.
    """

    # "all-reduce" | "all-gather" | "reduce-scatter"
    name: str | None = None
    # "bf16" | "uint8": one byte an element, as FP8 is sent.
    dtype: str | None = None
    gpus: int | None = None
    elements: int | None = None
    size_bytes: int | None = None
    # "ok" | "refused" | "error" | "out-of-memory" | "hung" | "crashed"
    outcome: str | None = None
    error: str | None = None
    time_us: Estimate | None = None
    algorithm_gb_s: float | None = None
    bus_gb_s: float | None = None
    # Seconds since the run began.
    started_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True)
class ParallelStep:
    """Forward and backward of a small language model, spread over so many GPUs in one way, in one format."""

    # "single" | "data" | "sharded-data" | "tensor"
    parallelism: str | None = None
    config: str | None = None
    gpus: int | None = None
    # Of one rank. With tensor parallelism all ranks work on the same ones.
    tokens: int | None = None
    # "ok" | "wrong" | "refused" | "error" | "out-of-memory" | "hung" | "crashed"
    outcome: str | None = None
    error: str | None = None
    # On the first GPU, from the end of one step to the end of the next.
    step_ms: Estimate | None = None
    first_call_s: float | None = None
    # Of the first GPU's logits against the first BF16 step's that was run, whatever it was spread over.
    relative_error: float | None = None
    loss: float | None = None
    peak_gb: float | None = None
    # Of one profiled step on the first GPU: how long its kernels took from the first to the last, how much of that some
    # NCCL kernel ran, and how much of it nothing else ran beside. Waiting for a slower GPU is in it.
    profiled_ms: float | None = None
    communication_ms: float | None = None
    exposed_ms: float | None = None
    # NCCL kernels in that step: FP8 scales of tensors that are spread add all-reduces of a few bytes.
    communications: int | None = None
    # Seconds since the run began.
    started_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True)
class Parallel(Facts, key="parallel"):
    """Collectives and steps on several GPUs. `measurable=False`: nothing could be measured, and `why_not` says why."""

    measurable: bool | None = None
    why_not: str | None = None
    device_names: tuple[str, ...] | None = None
    # "nccl" | "gloo"
    backend: str | None = None
    statistic: str | None = None
    # Of the model: what each rank's products come from.
    width: int | None = None
    hidden: int | None = None
    kv_width: int | None = None
    blocks: int | None = None
    collectives: tuple[Collective, ...] | None = None
    steps: tuple[ParallelStep, ...] | None = None
    not_measured: tuple[str, ...] | None = None
    took_s: float | None = None
    # What was being tried when this record was written.
    attempting: str | None = None
