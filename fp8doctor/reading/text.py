"""What did the person paste, without terminal codes, quoting and the prefixes of log collectors?"""

from __future__ import annotations

from fp8doctor.pasted import Pasted

MAX_CHARACTERS = 2_000_000
MAX_BYTES = 4 * MAX_CHARACTERS


def clean(text: str | bytes) -> Pasted:
    """The lines of a paste."""
    raise NotImplementedError
