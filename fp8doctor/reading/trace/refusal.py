"""Why is a file no trace that can be read?"""

from __future__ import annotations

from msgspec import DecodeError

# What decoding broken JSON raises: bad syntax or types, bytes that are no UTF-8, lists a thousand deep.
BROKEN_JSON = (DecodeError, UnicodeDecodeError, RecursionError)


class NotATraceError(Exception):
    """A file that is no trace, or one with nothing to say; the message is one sentence that names the file."""
