"""Finding one's way in the measured grouped products."""

from __future__ import annotations

from typing import NamedTuple

from fp8doctor.checks.grouped_gemm.facts import GroupedCase, GroupedGemm
from fp8doctor.checks.linear.cases import time_of, us
from fp8doctor.model import Estimate, Evidence, NotApplicable, Unknown


class Shape(NamedTuple):
    """Rows (M x K) sorted by expert, times each expert's matrix (K x N)."""

    experts: int
    m: int
    k: int
    n: int


class Grouped:
    """The cases of one record, by configuration, kind and shape, in the order of measuring."""

    def __init__(self, grouped_gemm: GroupedGemm) -> None:
        self._cases: dict[tuple[str, str, Shape], GroupedCase] = {}
        for case in grouped_gemm.cases or ():
            if case.config and case.kind and case.experts and case.m and case.k and case.n:
                self._cases[case.config, case.kind, Shape(case.experts, case.m, case.k, case.n)] = case

    def shapes(self) -> list[Shape]:
        """All shapes that were tried."""
        return list(dict.fromkeys(shape for _, _, shape in self._cases))

    def case(self, config: str, kind: str, shape: Shape) -> GroupedCase | None:
        """A case, timed or not."""
        return self._cases.get((config, kind, shape))

    def us(self, config: str, kind: str, shape: Shape) -> Estimate | None:
        """A case's device time in microseconds."""
        case = self.case(config, kind, shape)
        return time_of(case.device_us) if case else None


def unmeasured(grouped_gemm: GroupedGemm) -> NotApplicable | Unknown | None:
    """Why nothing can be said of these facts, None if a grouped FP8 product was timed."""
    if grouped_gemm.measurable is False:
        return NotApplicable(grouped_gemm.why_not or "nothing could be timed")
    in_fp8 = [c for c in grouped_gemm.cases or () if "fp8" in (c.config or "")]
    if any(c.outcome == "refused" for c in in_fp8) and not any(c.device_us for c in in_fp8):
        return NotApplicable("torch has no grouped FP8 product for this GPU")
    return None if any(c.device_us for c in in_fp8) else Unknown("no grouped FP8 product was timed")


def shape_text(shape: Shape) -> str:
    """ "16384x7168x2048 (MxKxN), 8 experts"."""
    return f"{shape.m}x{shape.k}x{shape.n} (MxKxN), {shape.experts} experts"


def rows_text(shape: Shape) -> str:
    """ "16,384 rows over 8 experts"."""
    return f"{shape.m:,} rows over {shape.experts} experts"


def line(what: str, value: Estimate, more: str = "") -> Evidence:
    """A time as evidence."""
    return Evidence(f"{what}: {us(value)}{more}", value.median, "us", "grouped_gemm.cases")
