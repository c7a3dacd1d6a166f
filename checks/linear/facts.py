"""What was measured of the linear layer on this box."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.measuring.timer import Method
from fp8doctor.model import Estimate, Facts


@dataclass(frozen=True)
class Case:
    """One configuration at one shape.

    A layer's case goes from a BF16 activation (M x K) to a BF16 output (M x N); a GEMM's case starts from operands
    that are quantised already.
    """

    config: str | None = None
    kind: str | None = None  # "layer" | "gemm"
    m: int | None = None
    k: int | None = None
    n: int | None = None
    # "ok" | "refused" | "error" | "out-of-memory" | "crashed" | "not-measured"
    outcome: str | None = None
    error: str | None = None
    device_us: Estimate | None = None
    call_us: Estimate | None = None
    # The part of the call time that the host spent asking; where that is nearly all, the device waited for it.
    host_us: Estimate | None = None
    # Relative Frobenius error of the output against FP32, and the most that the format explains.
    relative_error: float | None = None
    relative_error_limit: float | None = None
    sqnr_db: float | None = None
    # From one profiled call: the GEMM kernel by name, what it multiplies ("fp8-gemm", "bf16-gemm", ...; "none" if no
    # kernel was recognised as a GEMM), its time, and the other kernels' number and time.
    gemm_kernel: str | None = None
    gemm_kind: str | None = None
    gemm_us: float | None = None
    other_kernels: int | None = None
    other_us: float | None = None
    # When it was timed, in seconds from the start of the run: the sensors' samples carry the same clock.
    started_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True)
class Compilation:
    """One torch.compile of a configuration, M marked dynamic."""

    config: str | None = None
    k: int | None = None
    n: int | None = None
    first_call_s: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Ceiling:
    """The best rate found for one number format: short bursts, and held for a second and more."""

    format: str | None = None  # "bf16" | "fp8"
    m: int | None = None
    k: int | None = None
    n: int | None = None
    burst_tflops: float | None = None
    sustained_tflops: float | None = None
    # When the sustained rate was held, on the sensors' clock.
    started_s: float | None = None
    ended_s: float | None = None
    shapes_tried: int | None = None


@dataclass(frozen=True)
class Ceilings:
    """What this box can do at best, measured."""

    bf16: Ceiling | None = None
    fp8: Ceiling | None = None
    # Device-to-device copy, bytes read plus bytes written.
    copy_gb_s: float | None = None
    # Host time of one eager addition of a few numbers: what each launched operation costs the host.
    launch_us: Estimate | None = None
    took_s: float | None = None
    # When all of it was measured, in seconds from the start of the run.
    started_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True)
class Linear(Facts, key="linear"):
    """A linear layer in BF16 and in FP8, by shape. `measurable=False`: there is no GPU that torch can use."""

    measurable: bool | None = None
    why_not: str | None = None
    method: Method | None = None
    device_name: str | None = None
    compute_capability: str | None = None
    ceilings: Ceilings | None = None
    compilations: tuple[Compilation, ...] | None = None
    cases: tuple[Case, ...] | None = None
    # What did not fit into the time, or could not be tried, in words.
    not_measured: tuple[str, ...] | None = None
    warm_up_s: float | None = None
    took_s: float | None = None
    # What was being tried when this record was written.
    attempting: str | None = None
