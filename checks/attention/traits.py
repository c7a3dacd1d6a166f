"""By which attention are two reports compared?"""

from __future__ import annotations

from fp8doctor.checks.attention.facts import Attention
from fp8doctor.model import Trait
from fp8doctor.registry import traits


@traits
def of_attention(attention: Attention) -> list[Trait]:
    """Which of its backends torch takes for a plain call."""
    why = "torch takes another kernel for attention"
    return [
        Trait(
            "software", "attention that torch picks", attention.default_backend, None, "attention.default_backend",
            why=why, affects=("attention", "step"),
        )
    ]  # fmt: skip
