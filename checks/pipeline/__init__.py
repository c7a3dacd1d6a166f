"""A pipeline on this disk: what does an image take, end to end, and how far is it from the one in BF16?"""

from fp8doctor.checks.pipeline.facts import ImageRung, Likeness, Part, PipelineRun

__all__ = ["ImageRung", "Likeness", "Part", "PipelineRun"]
