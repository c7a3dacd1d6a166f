"""Is this a report of our own, as JSON or as pasted Markdown?"""

from __future__ import annotations

import json
import re

from fp8doctor.reading import header
from fp8doctor.reading.text import MAX_BYTES, unprefixed

# A larger one is refused by whoever judges it (the limit of `fp8doctor.store`).
LARGEST = 64 << 20
_OURS = re.compile(r'\{\s{0,20}"schema"\s{0,4}:\s{0,4}"fp8doctor\.(?:report|facts)"')
_OURS_BYTES = re.compile(_OURS.pattern.encode())
# A file of ours may have been written by another program, with its names in another order.
_FILE = re.compile(rb"(?:\xef\xbb\xbf)?\s{0,64}\{")
_SCHEMA = re.compile(rb'"schema"\s{0,4}:\s{0,4}"fp8doctor\.(?:report|facts)"')


def find(text: str | bytes) -> bytes | None:
    """The JSON of our own report or facts in the text, None if there is none.

    A file is given back as it is. Of pasted Markdown the block is found again under quoting and the prefixes of logs;
    where the block is cut off and the header line of the report is there, it counts as none: that line is read instead.
    """
    text = text[: LARGEST + 1]
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if b"fp8doctor." not in data:
        return None
    if place := _OURS_BYTES.search(data):
        whole = _whole(data[place.start() :].decode("utf-8", "replace"))
        if whole is not None:
            return whole
    if _FILE.match(data) and _SCHEMA.search(data):
        return data.removeprefix(b"\xef\xbb\xbf")
    return _in_quotes(data[:MAX_BYTES])


def _whole(text: str) -> bytes | None:
    """The JSON value that the text begins with, None if it is not whole."""
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return text[:end].encode("utf-8", "replace")


def _in_quotes(data: bytes) -> bytes | None:
    """The block under quoting, or as far as it goes if nothing else of the report is there to be read."""
    lines, _ = unprefixed(data)
    joined = "\n".join(lines)
    found = _OURS.search(joined)
    if found is None:
        return None
    rest = joined[found.start() :]
    if whole := _whole(rest) or _whole(rest.replace("\n", "")):
        return whole
    return None if header.read(lines) is not None else rest.encode("utf-8", "replace")
