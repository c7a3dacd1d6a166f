"""Which lines of what was printed or pasted settle a rule by themselves?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from fp8doctor.model import ErrorText, Message

# A longer line is no message.
LONGEST_LINE = 4_000
# As much of a line is kept.
LONGEST_MESSAGE = 400
# More lines that say the same thing say no more.
MOST_MESSAGES = 20
# What an exception's line bears before its message.
_RAISED = ("Error: ", "Exception: ")


def known_lines(error_texts: Sequence[ErrorText], lines: Iterable[str], source: str) -> Iterator[Message]:
    """The lines in their order, each for every literal message that it holds; of equal ones the first.

    A question is somebody's about a message, unless an exception asks it ("Did you mean: 'float8'?").
    """
    lines = [line for line in lines if len(line) < LONGEST_LINE and not _asks(line)]
    whole = "\n".join(lines)
    # What is found nowhere in the whole is found in none of its lines: one search instead of one for each line.
    possible = [text for text in error_texts if _looks_beyond(text.pattern) or _compiled(text.pattern).search(whole)]
    found: set[Message] = set()
    counts: Counter[str] = Counter()
    for line in lines if possible else ():
        for text in possible:
            if counts[text.pattern] < MOST_MESSAGES and _compiled(text.pattern).search(line):
                message = Message(text.rule, line.strip()[:LONGEST_MESSAGE], source)
                if message not in found:
                    found.add(message)
                    counts[text.pattern] += 1
                    yield message


def _asks(line: str) -> bool:
    return line.rstrip("\"'`*_) ").endswith("?") and not any(mark in line for mark in _RAISED)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


@lru_cache(maxsize=4096)
def _looks_beyond(pattern: str) -> bool:
    """Whether a pattern looks beyond what it matches, so that it may match a line where it does not match the whole."""
    outside = re.sub(r"\\[^AZ]|\[\^?\]?(?:\\.|[^\]\\])*\]", "", pattern)
    return any(mark in outside for mark in ("^", "$", "\\A", "\\Z", "(?!", "(?<", "(?="))
