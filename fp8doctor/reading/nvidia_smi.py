"""What does the table of `nvidia-smi` say, or the list of `nvidia-smi -L`?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from fp8doctor.reading.saying import Found, Record, driver_version, gpu

_HEADER = re.compile(
    r"NVIDIA-SMI (?:version )?\S{1,20} {1,40}(?:KMD )?Driver Version: (\S{1,20}) {1,40}"
    r"CUDA (?:UMD )?Version: {1,8}(\S{1,12})"
)
# "|   0  NVIDIA H20                     On  | 00000000:03:00.0 Off |": the name ends before two spaces or the column.
_ROW = re.compile(
    r"\| {1,6}(\d{1,3}) {1,4}(\S.{0,60}?) {1,40}(On|Off|N/A|WDDM|TCC|MCDM) {0,4}\| {0,4}"
    r"([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d)"
)
_USAGE = re.compile(r"(\d{1,5})W {0,4}/ {0,4}(\d{1,5})W {0,4}\|")
_MEMORY = re.compile(r"\| {0,12}\d{1,8}MiB {0,4}/ {0,4}(\d{1,8})MiB {0,4}\|")
_MIG = re.compile(r"\| {0,40}(Enabled|Disabled)\*? {0,4}\|? {0,4}$")
# nvidia-smi -L; people take the UUID out.
_LISTED = re.compile(
    r" {0,40}GPU (\d{1,3}): ((?:NVIDIA|GeForce|Tesla|Quadro|TITAN|GRID) .{1,120}?)(?: \(UUID: ?[^)]{0,80}\))?$"
)
# A GPU takes three lines.
_LINES_OF_A_GPU = 3


def blocks(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where each of these tables begins and ends; a header of the next one ends it."""
    starts = [place for place, line in enumerate(lines) if "NVIDIA-SMI" in line and _HEADER.search(line)]
    for start, limit in pairwise([*starts, len(lines)]):
        bars = [place for place in range(start, limit) if "|" in lines[place] or "+--" in lines[place]]
        yield start, bars[-1] + 1


def read(lines: Sequence[str], start: int) -> Found:
    """Read one table; `start` is the number of its first line in the text."""
    found = Found("nvidia-smi", start)
    header = next((match for line in lines if (match := _HEADER.search(line))), None)
    if header:
        cuda = header[2] if re.fullmatch(r"\d{1,2}\.\d", header[2]) else None
        number = driver_version(header[1])
        found.say("driver", version=number, cuda_version=cuda, installed=True if number else None)
    records: dict[int, Record] = {}
    for place, line in enumerate(lines):
        for match in _ROW.finditer(line) if "|" in line else ():
            record = gpu(int(match[1]), match[2])
            if record is None or record["index"] in records:
                continue
            # Only NVIDIA's boards stand in this table, whatever they are called.
            record["vendor"] = "nvidia"
            record.update(_below(lines[place : place + _LINES_OF_A_GPU]))
            records[record["index"]] = record
    if records:
        found.say("gpus", gpus=list(records.values()), source="nvidia-smi")
    found.cut = not records
    return found


def _below(lines: Sequence[str]) -> Record:
    """What the lines of one GPU say; what only holds for that moment (use, temperature) is left out."""
    said: Record = {}
    for line in lines:
        if usage := _USAGE.search(line):
            said.setdefault("power_limit_w", float(usage[2]))
        if memory := _MEMORY.search(line):
            said.setdefault("memory_total_mib", float(memory[1]))
        if mig := _MIG.search(line):
            said.setdefault("mig_enabled", mig[1] == "Enabled")
    return said


def listed(lines: Sequence[str]) -> Found | None:
    """A list of `nvidia-smi -L` by itself, None if there is none."""
    found: Found | None = None
    records: dict[int, Record] = {}
    for place, line in enumerate(lines):
        match = _LISTED.match(line) if "GPU " in line else None
        if match is None:
            continue
        if int(match[1]) in records:
            break
        found = found or Found("nvidia-smi", place)
        if record := gpu(int(match[1]), match[2]):
            records[int(match[1])] = {**record, "vendor": "nvidia"}
    if found is not None:
        found.say("gpus", gpus=list(records.values()) or None, source="nvidia-smi -L")
    return found
