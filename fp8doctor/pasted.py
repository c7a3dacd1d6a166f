"""What is a pasted text, and what can it not tell?

Only the standard library is imported here: this module also runs inside the examined environment.
"""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Facts


@dataclass(frozen=True)
class Pasted:
    """A text that somebody pasted, cleaned and bounded: no terminal codes, quoting or prefixes of log collectors."""

    lines: tuple[str, ...] = ()
    # It was longer than what is read.
    cut: bool = False


@dataclass(frozen=True)
class Untold:
    """What a text cannot tell, why, and the one command that would settle it."""

    what: str
    why: str
    command: str | None = None
    # It is no question where the hardware has no FP8.
    of_fp8: bool = False


@dataclass(frozen=True)
class Reading(Facts, key="reading"):
    """What a text was: the engine's own record."""

    # What wrote it, as far as it was recognised: "torch-collect-env", "vllm-collect-env", "nvidia-smi", ...
    formats: tuple[str, ...] | None = None
    # Boxes or environments that are in it; the first is judged.
    boxes: int | None = None
    untold: tuple[Untold, ...] | None = None
    # Something was cut off: the text was longer than what is read, or breaks off inside a report.
    cut: bool | None = None
