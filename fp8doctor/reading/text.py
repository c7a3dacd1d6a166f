"""What did the person paste, without terminal codes, quoting and the prefixes of log collectors?

Every pattern here starts at a fixed place of a line or at a literal, and every repetition is bounded: the time grows
with the length alone, whatever a stranger pastes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from fp8doctor.pasted import Pasted
from fp8doctor.reading.collapsed import split_collapsed

MAX_CHARACTERS = 2_000_000
MAX_BYTES = 4 * MAX_CHARACTERS
# The longest line that is kept; lscpu's flags, a compiler's symbols and base64 are longer, and say nothing of FP8.
MAX_LINE = 16_000
# Of more empty lines than this in a row the rest is left out.
MAX_EMPTY = 2
# A name in front of lines is a log collector's if at least so many lines bear it.
LEAST_PREFIXED = 3

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]{0,32}[ -/]{0,8}[@-~]|\][^\x07\x1b\n]{0,512}(?:\x07|\x1b\\)?|[^\n])?")
# C0 and C1 controls but newline, soft hyphen, zero-width and direction marks, lone surrogates, specials.
_UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufff0-\uffff]"
)
_BREAKS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
# Other spaces, and the colon of Chinese keyboards.
_SPELLED = str.maketrans({"\u00a0": " ", "\u2007": " ", "\u202f": " ", "\u3000": " ", "\uff1a": ": ", "\t": "    "})
_TAGS = re.compile(
    r"</?(details|summary|pre|code|samp|blockquote|p|div|span|br|b|strong|hr)\b[^<>\n]{0,200}>", re.IGNORECASE
)
_LINE_TAGS = ("details", "summary", "br", "p", "div", "pre", "blockquote", "hr")
_FENCE = re.compile(r"\s{0,8}(`{3,}|~{3,})[^`\n]{0,60}$")
_QUOTES = re.compile(r"(?: {0,3}> ?){1,16}")
_RAY = r"\([A-Za-z_][\w.:<>\- ]{0,100} pid=\d{1,10}(?:, ip=[^)\n]{0,60})?\) ?"
# Where newlines are gone it stands inside a line.
_RAY_INSIDE = re.compile(rf"(?<= ){_RAY}")
# Each stands at the beginning of a line, and means nothing beyond it.
_PREFIXES = tuple(
    re.compile(pattern)
    for pattern in (
        # Ray: "(RayWorkerWrapper pid=4711, ip=10.0.0.1) ", also in colour codes that are gone by now.
        rf" {{0,8}}{_RAY}",
        # kubectl logs --prefix: "[pod/name/container] ".
        r"\[pod/[^\]\n]{1,200}\] ?",
        # docker logs -t, kubectl logs --timestamps, CRI files, GitHub Actions: "2025-01-02T03:04:05.678Z ".
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:?\d\d) (?:std(?:out|err) [FP] )?",
        # journalctl and syslog: "Jan 02 03:04:05 host unit[123]: ".
        r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d [\w.\-]{1,64} [\w.@/\-]{1,64}(?:\[\d{1,10}\])?: ",
    )
)
# docker compose: "service-1  | ".
_SERVICE = re.compile(r"([A-Za-z0-9][\w.\-]{0,62}) +\| ?")


def clean(text: str | bytes) -> Pasted:
    """The lines of a paste.

    Args:
        text: what was pasted; bytes are taken for UTF-8, or for UTF-16 where they begin with its mark.
    """
    lines, cut = unprefixed(text)
    if any("<" in line for line in lines):
        untagged = _TAGS.sub(lambda tag: "\n" if tag[1].lower() in _LINE_TAGS else "", "\n".join(lines))
        lines = untagged.split("\n")
    lines = [line for line in lines if not _FENCE.match(line)]
    return Pasted(tuple(_tidy(split_collapsed(lines))), cut)


def unprefixed(text: str | bytes) -> tuple[list[str], bool]:
    """The lines without terminal codes, quoting and prefixes, of any length, and whether the text was cut."""
    whole, cut = _bounded(text)
    whole = _ESCAPES.sub("", _BREAKS.sub("\n", whole)).translate(_SPELLED)
    lines = [_unquoted(line) for line in _UNSEEN.sub("", whole).split("\n")]
    return _without_services(lines), cut


def _bounded(text: str | bytes) -> tuple[str, bool]:
    """The text as far as it is read, and whether something was cut off."""
    cut = False
    if isinstance(text, bytes):
        cut = len(text) > MAX_BYTES
        text = text[:MAX_BYTES]
        encoding = "utf-16" if text[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
        text = text.decode(encoding, "replace")
    return text[:MAX_CHARACTERS], cut or len(text) > MAX_CHARACTERS


def _unquoted(line: str) -> str:
    """The line without quoting and without what log collectors put in front; each may stand round the other."""
    if line.count(" pid=") > 1:
        line = _RAY_INSIDE.sub("", line)
    for _ in range(3):
        before = line
        if quoted := _QUOTES.match(line):
            line = line[quoted.end() :]
        for prefix in _PREFIXES:
            if found := prefix.match(line):
                line = line[found.end() :]
        if line is before or line == before:
            break
    return line


def _without_services(lines: list[str]) -> list[str]:
    """The lines without "service-1  | ": a name before a bar that several lines share."""
    found = [_SERVICE.match(line) for line in lines]
    counts = Counter(match[1] for match in found if match)
    return [
        line[match.end() :] if match and counts[match[1]] >= LEAST_PREFIXED else line
        for line, match in zip(lines, found, strict=True)
    ]


def _tidy(lines: list[str]) -> Iterator[str]:
    empty = 0
    for line in lines:
        line = line[:MAX_LINE].rstrip()
        empty = 0 if line else empty + 1
        if empty <= MAX_EMPTY:
            yield line
