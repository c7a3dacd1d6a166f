"""FlashAttention 2, 3 and 4: which of the packages are here, do they run on this GPU, and do they take FP8?"""

from fp8doctor.checks.flash_attention.facts import FlashAttention, Generation

__all__ = ["FlashAttention", "Generation"]
