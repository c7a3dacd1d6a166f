"""What was measured of grouped products on this box."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.measuring.timer import Method
from fp8doctor.model import Estimate, Facts


@dataclass(frozen=True)
class GroupedCase:
    """One configuration at one shape: rows (M x K), sorted by expert, times each expert's own matrix (K x N).

    The groups are uneven, and no multiples of 16 unless they were padded.
    """

    config: str | None = None
    # "layer": from BF16 rows to BF16 rows, the weights being FP8 already; "gemm": from operands that are FP8 already;
    # "pad", "unpad": what lining up the groups at multiples of 16 takes, without asking for their sizes;
    # "pad-by-list": the same with the sizes read back to the host
    kind: str | None = None
    experts: int | None = None
    m: int | None = None
    k: int | None = None
    n: int | None = None
    # "ok" | "refused" | "error" | "out-of-memory" | "not-measured"
    outcome: str | None = None
    error: str | None = None
    device_us: Estimate | None = None
    call_us: Estimate | None = None
    # The part of the call time that the host spent asking.
    host_us: Estimate | None = None
    # Relative Frobenius error against FP32 of the expert that is most wrong, and the most that the format explains.
    relative_error: float | None = None
    relative_error_limit: float | None = None
    # From one profiled call, as in a linear layer's case.
    gemm_kernel: str | None = None
    gemm_kind: str | None = None
    gemm_us: float | None = None
    other_kernels: int | None = None
    other_us: float | None = None
    # When it was timed, in seconds from the start of the run: the sensors' samples carry the same clock.
    started_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True)
class GroupedGemm(Facts, key="grouped_gemm"):
    """Grouped products in BF16 and FP8. `measurable=False`: `why_not` says why."""

    measurable: bool | None = None
    why_not: str | None = None
    method: Method | None = None
    device_name: str | None = None
    compute_capability: str | None = None
    # Seconds of compiling the FP8 layer, the first call included; by layer ("8x7168x2048").
    compile_s: dict[str, float] | None = None
    cases: tuple[GroupedCase, ...] | None = None
    # What did not fit into the time, or could not be tried, in words.
    not_measured: tuple[str, ...] | None = None
    took_s: float | None = None
    # What was being tried when this record was written.
    attempting: str | None = None
