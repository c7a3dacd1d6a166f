"""Which command was meant, where a file is none that the command reads?"""

from __future__ import annotations

import contextlib
import re
import shlex
import zlib
from pathlib import Path
from typing import Literal

from fp8doctor.cli.options import STDOUT

Kind = Literal["trace", "report", "text"]
# A trace begins with the properties of its devices; its events follow within this.
_HEAD_BYTES = 1 << 16
_GZIP, _SQLITE = b"\x1f\x8b", b"SQLite format 3\x00"
_REPORT = re.compile(rb'\s*\{\s*"schema":\s*"fp8doctor\.(?:report|facts)"')
_READS = {
    "trace": "it is a profiler's trace, which {command} reads",
    "report": "it is a report of fp8doctor, which {command} reads",
    "text": "if somebody pasted it, {command} reads it",
}
_COMMANDS = {"trace": "trace", "report": "diagnose", "text": "read"}
PASTES = (
    "; what can be pasted: what `python -m torch.utils.collect_env` or `nvidia-smi` prints, a start-up log of vLLM or"
    " SGLang, a traceback, a report of fp8doctor"
)


def meant(file: str, asked: Kind) -> str:
    """The command for this file, as the end of a complaint; "" if it is the one that was asked, or none is known."""
    kind = kind_of(file)
    if kind is None or kind == asked:
        return ""
    return f"; {_READS[kind].format(command=f'`fp8doctor {_COMMANDS[kind]} {shlex.quote(file)}`')}"


def report_first(file: str) -> str:
    """That a trace becomes a report before it is compared, as the end of a complaint; "" of anything else."""
    if kind_of(file) != "trace":
        return ""
    saved = re.sub(r"(\.pt)?(\.trace)?(\.(json|sqlite|db))?(\.gz)?$", "", Path(file).name) + ".report.json"
    command = f"`fp8doctor trace {shlex.quote(file)} --json {shlex.quote(saved)}`"
    return f"; it is a profiler's trace: make a report of each first, {command}, and compare those"


def kind_of(file: str) -> Kind | None:
    """What a file is by its beginning; None if that is not known."""
    if file == STDOUT:
        return None
    try:
        with Path(file).open("rb") as source:
            head = source.read(_HEAD_BYTES)
    except (OSError, ValueError):
        return None
    if head.startswith(_GZIP):
        with contextlib.suppress(zlib.error):
            head = zlib.decompressobj(wbits=31).decompress(head, _HEAD_BYTES)
    if head.startswith(_SQLITE) or b'"traceEvents"' in head:
        return "trace"
    if _REPORT.match(head):
        return "report"
    return None if b"\0" in head or head.lstrip()[:1] in (b"", b"{", b"[") else "text"
