"""An import that came to no end: broken, or slow on a cold disk? The doctor cannot tell, and says so."""

from __future__ import annotations

from fp8doctor.model import NO_ANSWER, NO_END, Action


def hung(words: str | None) -> bool:
    """Whether what ended a step says that it was ended because it took too long."""
    return any(end in (words or "") for end in (NO_ANSWER, NO_END))


def patience(module: str) -> Action:
    """How to find out whether an import is slow or stuck."""
    return Action(
        "Import it by hand and give it time: from a cold or networked disk it can take minutes. If it ends, run the"
        " doctor again, with --budget 300 if need be.",
        f"time python -c 'import {module}'",
    )
