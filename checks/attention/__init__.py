"""torch's own attention: which of its backends run on this GPU, which one does it pick, and are they right?"""

from fp8doctor.checks.attention.facts import Attention, AttentionBackend, AttentionSwitch

__all__ = ["Attention", "AttentionBackend", "AttentionSwitch"]
