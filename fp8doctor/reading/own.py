"""Is this a report of our own, as JSON or as pasted Markdown?"""

from __future__ import annotations


def find(text: str | bytes) -> bytes | None:
    """The JSON of our own report or facts in the text, None if there is none."""
    raise NotImplementedError
