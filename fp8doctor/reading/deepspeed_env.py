"""What does DeepSpeed's `ds_report` say? It never names a GPU or a driver."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from fp8doctor.reading.saying import Found, say_torch, stated, torch_version, version

_MARK = re.compile(r"DeepSpeed (?:C\+\+/CUDA extension op report|general environment info)")
_KEY = re.compile(r" {0,8}([a-z][\w /().]{2,50}?) ?\.{2,40} {0,4}(.{1,300})$")


def blocks(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where the report begins and ends."""
    starts = [place for place, line in enumerate(lines) if "eep" in line and _MARK.search(line)]
    if not starts:
        return
    keys = [place for place in range(starts[0], len(lines)) if ".." in lines[place] and _KEY.match(lines[place])]
    yield starts[0], (keys[-1] + 1 if keys else starts[-1] + 1)


def read(lines: Sequence[str], start: int) -> Found:
    """Read one report; `start` is the number of its first line in the text."""
    found = Found("ds-report", start)
    values: dict[str, str] = {}
    for line in lines:
        if ".." in line and (match := _KEY.match(line)):
            values.setdefault(match[1].strip(), match[2].strip())
    said = torch_version(values.get("torch version"))
    say_torch(found, said)
    if said:
        cuda = version(values.get("torch cuda version"))
        hip = version(values.get("torch hip version"))
        if cuda:
            found.say("torch_build", cuda=cuda, accelerator="cuda")
        if hip:
            found.say("torch_build", hip=hip, accelerator="hip")
    info = stated((values.get("deepspeed info") or "").split(",")[0])
    if info and (number := version(info)):
        found.say("libraries", installed={"deepspeed": number}, complete=False)
    found.cut = "torch version" not in values
    return found
