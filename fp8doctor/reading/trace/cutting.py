"""Where does one event of a JSON array end and the next begin, without decoding it?"""

from __future__ import annotations

import re
from dataclasses import dataclass

# What can matter outside of strings; a string is one token, so that braces in a kernel's name count for nothing.
# The loop is unrolled: as (?:[^"\\]|\\.)* a string of 70 MB takes 5 GB.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]|"', re.DOTALL)
_BETWEEN = re.compile(rb"\}\s*,\s*\{")
# Boundaries that are tried from the end of a chunk before it is gone through token by token.
_TRIES = 4
_WINDOW_BYTES = 1 << 14


@dataclass(frozen=True)
class Head:
    """The start of a document: `events_at` is the offset behind the "[" of its events, -1 if not reached yet."""

    events_at: int
    is_list: bool = False
    # The document ended, or is none.
    hopeless: bool = False


def find_events(data: bytes) -> Head:
    """Where the events begin in the start of a document: a list, or an object with the key "traceEvents"."""
    start = len(data) - len(data.lstrip())
    if data[start : start + 1] == b"[":
        return Head(start + 1, is_list=True)
    if data[start : start + 1] != b"{":
        return Head(-1, hopeless=start < len(data))
    depth, key = 0, b""
    for token in _TOKEN.finditer(data, start):
        text = token.group()
        if text[0] == 34:  # a quotation mark
            key = text if depth == 1 else b""
        elif text in (b"{", b"["):
            if depth == 1 and text == b"[" and key == b'"traceEvents"':
                return Head(token.end())
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                return Head(-1, hopeless=True)
    return Head(-1)


def likely_cuts(data: bytes) -> list[int]:
    """Offsets, the last first, behind which a new event may begin; one in a string or below an event does not parse."""
    for window in (_WINDOW_BYTES, 16 * _WINDOW_BYTES):
        found = [match.end() - 1 for match in _BETWEEN.finditer(data, max(0, len(data) - window))]
        if found:
            return found[: -_TRIES - 1 : -1]
    return []


@dataclass(frozen=True)
class Events:
    """The whole events at the start of some data: where each lies, and the end of the list if it is reached."""

    spans: list[tuple[int, int]]
    # Behind the last whole event.
    rest_at: int
    # Behind the "]" that ends the list.
    end_at: int | None


def whole_events(data: bytes) -> Events:
    """Go through data that begins between two events, token by token: slow, and right whatever a string holds."""
    spans: list[tuple[int, int]] = []
    depth, begin, rest = 0, 0, 0
    for token in _TOKEN.finditer(data):
        first = data[token.start()]
        if first == 34:  # a quotation mark
            if token.end() - token.start() == 1:
                break  # a string that does not end
        elif first in b"{[":
            if depth == 0:
                begin = token.start()
            depth += 1
        else:
            depth -= 1
            if depth < 0:
                return Events(spans, rest, token.end())
            if depth == 0:
                rest = token.end()
                spans.append((begin, rest))
    return Events(spans, rest, None)
