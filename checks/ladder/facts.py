"""What was measured of a workload's steps, rung by rung."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Estimate, Facts


@dataclass(frozen=True)
class MemoryPoint:
    """Memory that torch's allocator held at one moment of a rung."""

    # "build" | "convert" | "first call" | "steps"
    phase: str | None = None
    at_s: float | None = None
    allocated_gb: float | None = None


@dataclass(frozen=True)
class SkippedStep:
    """A step cache: what a step costs that is computed, and one that is skipped, in milliseconds."""

    full_ms: Estimate | None = None
    skipped_ms: Estimate | None = None
    # Relative Frobenius error of a skipped step's output against the computed one, on the next step's inputs.
    skipped_error: float | None = None


@dataclass(frozen=True)
class Rung:
    """One configuration of the whole model, at one step of the workload."""

    config: str | None = None
    step: str | None = None
    # "ok" | "wrong" | "refused" | "error" | "out-of-memory" | "crashed" | "too-long" | "not-measured"
    outcome: str | None = None
    error: str | None = None
    # From the end of one step to the end of the next, back to back.
    step_ms: Estimate | None = None
    mean_ms: float | None = None
    least_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    # What the host takes to ask for a step, the device being idle at its begin.
    host_ms: Estimate | None = None
    first_call_s: float | None = None
    # What torch.compile made of it: graphs compiled, and breaks.
    graphs: int | None = None
    graph_breaks: int | None = None
    # Steady peak of the steps and peak while loading and converting, weights of the blocks that were not built added.
    peak_gb: float | None = None
    load_peak_gb: float | None = None
    weights_gb: float | None = None
    memory: tuple[MemoryPoint, ...] | None = None
    # Relative Frobenius error of the step's output against BF16's, and the most that the format explains in one layer.
    relative_error: float | None = None
    relative_error_limit: float | None = None
    # The same of the gradients of the first and the last block's weights, where the step trains.
    gradient_error: float | None = None
    # Linear layers that were converted, and linear layers in the model; in the blocks that were built.
    converted: int | None = None
    linears: int | None = None
    skipping: SkippedStep | None = None
    # Blocks of each kind that were built; the step visits them in turn to the true depth. None: all were built.
    blocks_built: int | None = None
    # Seconds since the run began.
    started_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True)
class Ladder(Facts, key="ladder"):
    """All rungs of a workload. `measurable=False`: nothing could be measured here, and `why_not` says why."""

    workload: str | None = None
    title: str | None = None
    model_class: str | None = None
    parameters: int | None = None
    # Tokens that each step works on, by the step's name.
    tokens: dict[str, int] | None = None
    measurable: bool | None = None
    why_not: str | None = None
    device_name: str | None = None
    # True depth instead of a few blocks that stand for it.
    full: bool | None = None
    statistic: str | None = None
    rungs: tuple[Rung, ...] | None = None
    # BF16 once more at the end: what drifted meanwhile.
    again: tuple[Rung, ...] | None = None
    # Share of the step caches' steps that are skipped, where a person said so.
    hit_rate: float | None = None
    not_measured: tuple[str, ...] | None = None
    # Rungs that failed in an earlier run and were not tried again yet, "config @ step".
    untried: tuple[str, ...] | None = None
    # What was being tried when this record was written: "config @ step".
    attempting: str | None = None
