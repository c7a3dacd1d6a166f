"""What was measured of attention on this box."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.measuring.timer import Method
from fp8doctor.model import Estimate, Facts


@dataclass(frozen=True)
class AttentionCase:
    """One route (a way to compute attention) at one shape, from BF16 operands to a BF16 result."""

    # See `lookup.NAMES`.
    route: str | None = None
    # Forward and backward; otherwise the forward alone, without gradients.
    trains: bool | None = None
    batch: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    queries: int | None = None
    keys: int | None = None
    head_dim: int | None = None
    causal: bool | None = None
    # How often one step of the workload makes this call; None where no workload was named.
    calls: int | None = None
    # "ok", "wrong" (ran, not right), "refused" (said that it does not do this), "unavailable" (its package says so of
    # this GPU or build before it is called), "error", "out-of-memory", "crashed", "timeout", "not-measured"
    outcome: str | None = None
    # Its reason, or what it said.
    error: str | None = None
    # What torch's dispatcher ("cudnn") or Transformer Engine ("FusedAttention (sub-backend 1)") says that it took.
    backend: str | None = None
    device_us: Estimate | None = None
    call_us: Estimate | None = None
    # The part of the call time that the host spent asking; where that is nearly all, the device waited for it.
    host_us: Estimate | None = None
    # Of the median device time: see `shapes.flops`.
    tflops: float | None = None
    # Relative error of a sample of rows against FP64, each row weighing the same, and the most that the format
    # explains. `bf16_error_limit` is what BF16 explains: an FP8 route that is as exact as that did not round to FP8.
    relative_error: float | None = None
    relative_error_limit: float | None = None
    bf16_error_limit: float | None = None
    # The same of the queries' gradient, where there was a backward.
    gradient_error: float | None = None
    gradient_error_limit: float | None = None
    # From one profiled call: the kernel that took longest, and how many there were.
    kernel: str | None = None
    kernels: int | None = None
    # When it was timed, in seconds from the start of the run: the sensors' samples carry the same clock.
    started_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True)
class AttentionTimes(Facts, key="attention_times"):
    """Attention by route and shape. `measurable=False`: there is no GPU that torch can use."""

    measurable: bool | None = None
    why_not: str | None = None
    method: Method | None = None
    device_name: str | None = None
    compute_capability: str | None = None
    cases: tuple[AttentionCase, ...] | None = None
    # What did not fit into the time, or could not be tried, in words.
    not_measured: tuple[str, ...] | None = None
    warm_up_s: float | None = None
    took_s: float | None = None
    # What was being tried when this record was written.
    attempting: str | None = None
