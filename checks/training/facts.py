"""What was measured of training a linear layer on this box."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.measuring.timer import Method
from fp8doctor.model import Estimate, Facts


@dataclass(frozen=True)
class TrainingCase:
    """One configuration at one shape: forward and backward of a layer without a bias, from and to BF16.

    The three products are (M x K) times (K x N) for the output, (M x N) times (N x K) for the input's gradient, and
    (N x M) times (M x K) for the weight's.
    """

    config: str | None = None
    m: int | None = None
    k: int | None = None
    n: int | None = None
    # "ok" | "refused" | "error" | "out-of-memory" | "not-measured"
    outcome: str | None = None
    error: str | None = None
    # Of forward and backward together; the host's part is what it spent asking for them.
    device_us: Estimate | None = None
    call_us: Estimate | None = None
    host_us: Estimate | None = None
    # Relative Frobenius errors against FP32, and the most that each product's format explains; no limit where the
    # product is a 16-bit one.
    output_error: float | None = None
    output_limit: float | None = None
    input_grad_error: float | None = None
    input_grad_limit: float | None = None
    weight_grad_error: float | None = None
    weight_grad_limit: float | None = None
    # From one profiled call: how many products of which kind ("fp8-gemm", "bf16-gemm", ...), their time, and the other
    # kernels' number and time.
    products: dict[str, int] | None = None
    gemm_us: float | None = None
    other_kernels: int | None = None
    other_us: float | None = None
    # When it was timed, in seconds from the start of the run: the sensors' samples carry the same clock.
    started_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True)
class TrainingCompilation:
    """One torch.compile of a configuration, forward and backward; `m` is None where M was marked dynamic."""

    config: str | None = None
    m: int | None = None
    k: int | None = None
    n: int | None = None
    first_call_s: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Training(Facts, key="training"):
    """Training a linear layer in BF16 and with torchao's float8 training. `measurable=False`: `why_not` says why."""

    measurable: bool | None = None
    why_not: str | None = None
    method: Method | None = None
    device_name: str | None = None
    compute_capability: str | None = None
    compilations: tuple[TrainingCompilation, ...] | None = None
    cases: tuple[TrainingCase, ...] | None = None
    # What did not fit into the time, or could not be tried, in words.
    not_measured: tuple[str, ...] | None = None
    took_s: float | None = None
    # What was being tried when this record was written.
    attempting: str | None = None
