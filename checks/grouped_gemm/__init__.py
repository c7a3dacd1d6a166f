"""Mixture of experts: does torch's grouped product gain from FP8 here, and what does lining up the groups cost?"""

from fp8doctor.checks.grouped_gemm.facts import GroupedGemm

__all__ = ["GroupedGemm"]
