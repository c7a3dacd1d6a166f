"""What does the header line of our own report say, where its JSON is not: cut off, or a terminal's text?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fp8doctor.reading.saying import Found, Record, driver_version, gpu, say_torch, torch_version

FORMAT = "fp8doctor-markdown"
_HEADER = re.compile(r" {0,3}(?:#{1,4} )?fp8doctor (\d[\w.+]{0,30}) \u00b7 (.{1,2000})$")
_ITEM = re.compile(r"\s{0,12}(?:[-*•!✗?x]|->) ")
_COUNTED = re.compile(r"(?:(\d{1,3}) x )?(.{1,100})$")
_ARCHITECTURE = re.compile(r"sm_(\d{1,2})(\d)$|(gfx[0-9a-f]{3,5})$")


def read(lines: Sequence[str]) -> Found | None:
    """Read the line, None if it is not there."""
    for place, line in enumerate(lines):
        if "fp8doctor" in line and (match := _HEADER.match(line)):
            found = Found(FORMAT, place, cut=True)
            _pieces(found, [piece.strip(" `") for piece in match[2].split(" \u00b7 ")])
            return found if found.records else None
    return None


def without_report(lines: Sequence[str]) -> list[str]:
    """The lines without what our own report says as items of its lists: what it quotes is no news of this text."""
    start = next((place for place, line in enumerate(lines) if "fp8doctor" in line and _HEADER.match(line)), len(lines))
    return [*lines[:start], *(line for line in lines[start:] if not _ITEM.match(line))]


def _pieces(found: Found, pieces: list[str]) -> None:
    gpus: list[Record] = []
    for place, piece in enumerate(pieces):
        if piece.startswith("driver "):
            number = driver_version(piece.removeprefix("driver "))
            found.say("driver", version=number, installed=True if number else None)
        elif piece.startswith("torch "):
            say_torch(found, torch_version(piece.removeprefix("torch ").replace("`", "")))
        elif piece == "no torch":
            found.say("torch_build", installed=False)
        elif piece == "no GPU visible":
            found.say("gpus", gpus=[], source=FORMAT)
        elif place + 1 < len(pieces) and (counted := _COUNTED.match(piece)):
            # "NAME \u00b7 sm_90"; of unlike GPUs the next name follows a comma: "sm_90, 2 x NAME \u00b7 sm_80".
            after = _ARCHITECTURE.match(pieces[place + 1].partition(", ")[0].strip("`"))
            name = counted[2].rpartition(", ")[2] if _ARCHITECTURE.match(piece.partition(", ")[0]) else counted[2]
            count = re.match(r"(\d{1,3}) x (.+)$", name)
            many, name = (int(count[1]), count[2]) if count else (int(counted[1] or 1), name)
            if after and many <= 64:
                capability = f"{after[1]}.{after[2]}" if after[1] else after[3]
                records = [gpu(len(gpus) + i, name, compute_capability=capability) for i in range(many)]
                gpus += [record for record in records if record]
    if gpus:
        found.say("gpus", gpus=gpus, source=FORMAT)
