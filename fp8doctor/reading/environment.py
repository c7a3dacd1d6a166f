"""What do the environment reports in a text say? Plain records for the facts that they fill."""

from __future__ import annotations

from typing import Any

from fp8doctor.pasted import Pasted, Reading


def read(pasted: Pasted) -> tuple[dict[str, dict[str, Any]], Reading]:
    """The facts that the text states, by key, and what the text was."""
    raise NotImplementedError
