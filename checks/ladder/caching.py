"""Step caches of diffusers: what does a computed step cost with one, and a skipped one?"""

from __future__ import annotations

from typing import Any

from fp8doctor.checks.ladder.conversions import RefusedError
from fp8doctor.checks.ladder.facts import Rung


def measure(rung: Rung, cache: str, built: Any, step: Any, meter: Any) -> Rung:
    """Measure a computed and a skipped step."""
    raise RefusedError(f"{cache} is not measured yet")
