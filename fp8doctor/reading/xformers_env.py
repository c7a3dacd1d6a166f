"""What does `python -m xformers.info` say? The capability of the current GPU, from torch itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from fp8doctor.reading.saying import Found, gpu, say_torch, stated, torch_version, version

_MARK = re.compile(r" {0,8}xFormers (\d[\w.+\-]{0,60})$")
_KEY = re.compile(r" {0,8}([a-z_][\w.@+\-]{2,80}): {1,80}(.{1,300})$")


def blocks(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where each of these reports begins and ends."""
    starts = [place for place, line in enumerate(lines) if "xFormers" in line and _MARK.match(line)]
    keys = [place for place, line in enumerate(lines) if starts and "." in line and _KEY.match(line)]
    for start, limit in pairwise([*starts, len(lines)]):
        mine = [place for place in keys if start < place < limit]
        if mine:
            yield start, mine[-1] + 1


def read(lines: Sequence[str], start: int) -> Found:
    """Read one report; `start` is the number of its first line in the text."""
    found = Found("xformers-info", start)
    values = {match[1]: match[2].strip() for line in lines if (match := _KEY.match(line))}
    say_torch(found, torch_version(values.get("pytorch.version")))
    if "torch_build" in found.records:
        told = values.get("pytorch.cuda")
        found.say("torch_build", cuda_available={"available": True, "not available": False}.get(told or ""))
        found.say("torch_build", python=version(values.get("build.python_version")))
    capability = stated(values.get("gpu.compute_capability"))
    name = stated(values.get("gpu.name"))
    if name:
        fits = capability if capability and re.fullmatch(r"\d{1,2}\.\d", capability) else None
        record = gpu(0, name, compute_capability=fits)
        if record and record.get("vendor") == "amd":  # the gfx number, which looks like NVIDIA's
            record.pop("compute_capability", None)
        found.say("gpus", gpus=[record] if record else None, source="torch in xformers.info")
        found.first_gpu_only = True
    mark = _MARK.match(lines[0]) if lines else None
    if mark and (number := version(mark[1])):
        found.say("libraries", installed={"xformers": number}, complete=False)
    return found
