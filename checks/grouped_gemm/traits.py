"""How were the times of layers of experts taken?"""

from __future__ import annotations

from fp8doctor.checks.grouped_gemm.advice import TASK
from fp8doctor.checks.grouped_gemm.facts import GroupedGemm
from fp8doctor.measuring.comparing import method_trait
from fp8doctor.model import Trait
from fp8doctor.registry import traits


@traits
def how_timed(grouped_gemm: GroupedGemm) -> list[Trait]:
    """The method."""
    return method_trait("a layer of experts", grouped_gemm.method, "grouped_gemm.method", (TASK,))
