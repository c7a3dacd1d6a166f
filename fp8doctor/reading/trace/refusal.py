"""Why is a file no trace that can be read?"""

from __future__ import annotations


class NotATraceError(Exception):
    """A file that is no trace, or one with nothing to say; the message is one sentence that names the file."""
