"""Strings from strangers, made safe to print: no control characters, and ASCII where nothing else can be shown."""

from __future__ import annotations

import re

_ESCAPE_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]{0,32}[ -/]{0,8}[@-~]|\][^\x07\x1b]{0,512}(?:\x07|\x1b\\)?|.)?")
# C0 and C1 controls but tab and newline, zero-width and direction marks (they can reorder a line), lone surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufff0-\uffff]"
)
# What the report itself draws, as terminals show it that have ASCII alone.
_ASCII = str.maketrans(
    {
        "·": "-",
        "•": "*",
        "✓": "ok",
        "✗": "x",
        "█": "#",
        "▁": "_",
        "▂": ".",
        "▃": "-",
        "▄": "=",
        "▅": "+",
        "▆": "*",
        "▇": "%",
        "▏": "|",
        "░": ".",
        "▒": ":",
        "▓": "+",
        "→": "->",
        "×": "x",
        "µ": "u",
        "μ": "u",
        "…": "...",
        "–": "-",
        "—": "-",
        "≥": ">=",
        "≤": "<=",
        "’": "'",
    }
)


# No sentence of a report is half as long; an error of some compiler is a hundred times.
LONGEST_LINE = 2_000


def clean(value: object) -> str:
    """The value as text without escape sequences, control characters and whatever else disturbs a terminal."""
    return _UNPRINTABLE.sub("", _ESCAPE_SEQUENCES.sub("", str(value)).replace("\r\n", "\n")).replace("\t", "    ")


def one_line(value: object) -> str:
    """The value as one line of clean text, cut where it is longer than anybody reads."""
    text = str(value)
    # More than that is looked at, since what is taken out may be long; what is shown is cut to length.
    return cut(" ".join(clean(text[: 4 * LONGEST_LINE]).split()), LONGEST_LINE)


def cut(text: str, most: int) -> str:
    """The text, of at most `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def to_ascii(text: str) -> str:
    """The text with the report's own signs spelled in ASCII, and a question mark for what has no spelling."""
    return text.translate(_ASCII).encode("ascii", "replace").decode()


def can_show(encoding: str | None) -> bool:
    """Whether a stream of this encoding can carry the signs that the report draws with."""
    try:
        "·•✓✗█░…×µ".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def number(value: float) -> str:
    """A figure as a person reads it: three significant digits, thousands apart, no trailing zeros."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"


def factor(value: float) -> str:
    """A speed-up: "1.83x"."""
    return f"{value:.2f}x"
