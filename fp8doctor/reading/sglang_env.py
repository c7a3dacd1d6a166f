"""What does `python -m sglang.check_env` say?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from fp8doctor.reading.saying import (
    Found,
    Record,
    driver_version,
    gpu,
    normalised,
    say_torch,
    stated,
    torch_version,
    version,
    yes,
)

_FIRST = re.compile(r" {0,8}(?:- )?(Python|CUDA available|ROCM available) ?: ?(.{0,200})$")
_KEY = re.compile(r" {0,8}(?:- )?([A-Za-z][\w\- ]{0,40}?) ?: ?(.{0,300})$")
_GPU = re.compile(r" {0,8}(?:- )?GPU (\d{1,3}(?:, ?\d{1,3}){0,255})( Compute Capability)? ?: ?(.{1,160})$")
# A row of the topology below it.
_ROW = re.compile(r" {0,8}(?:GPU|NIC)\d{1,3} {1,12}\S")
# One of them beside the GPUs makes it this report.
OWN = frozenset(
    ("cuda available", "rocm available", "cuda driver version", "cuda driver versions", "rocm driver version")
)
# How far behind the key `Python` the rest of a report can begin.
NEAR = 6
# Modules by the name of their distribution, where that is another.
_DISTRIBUTIONS = {"flashinfer": "flashinfer-python", "zmq": "pyzmq", "multipart": "python-multipart"}
_MISSING = "module not found"
# The capability is the gfx number there. Source: LLVM's targets; 9.4 is CDNA 3, 9.5 CDNA 4. 9.0 is gfx900 to gfx90a.
_GFX = {"9.4": "gfx942", "9.5": "gfx950"}
# What is no package among the keys.
_NO_PACKAGES = frozenset(
    (
        *("python", "cuda available", "rocm available", "cuda_home", "rocm_home", "nvcc", "hipcc", "pytorch", "torch"),
        *("cuda driver version", "cuda driver versions", "rocm driver version", "nvidia topology", "amd topology"),
        *("hypervisor vendor", "ulimit soft", "legend"),
    )
)


def blocks(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where each of these reports begins and ends: two nodes are pasted one after the other."""
    starts: list[int] = []
    for place, line in enumerate(lines):
        found = _FIRST.match(line) if "ython" in line or "available" in line else None
        if found is None or (found[1] == "Python" and not _goes_on(lines, place)):
            continue
        if (
            found[1] != "Python"
            and starts
            and place - starts[-1] <= NEAR
            and not _has_available(lines, starts[-1], place)
        ):
            continue
        if found[1] == "Python" or yes(found[2]) is not None:
            starts.append(place)
    for start, end in pairwise([*starts, len(lines)]):
        keys = {match[1].lower() for line in lines[start:end] if len(line) < 200 and (match := _KEY.match(line))}
        if keys & OWN and keys & {"pytorch", "nvcc", "sglang", "cuda_home", "rocm_home", "hipcc", "flashinfer"}:
            last = max(place for place in range(start, end) if _KEY.match(lines[place]) or _ROW.match(lines[place]))
            yield start, last + 1


def _goes_on(lines: Sequence[str], place: int) -> bool:
    return _has_available(lines, place, min(place + NEAR, len(lines)))


def _has_available(lines: Sequence[str], start: int, end: int) -> bool:
    return any((found := _FIRST.match(line)) and found[1] != "Python" for line in lines[start:end])


def read(lines: Sequence[str], start: int) -> Found:
    """Read one report; `start` is the number of its first line in the text."""
    found = Found("sglang-check-env", start)
    values: dict[str, str] = {}
    for line in lines:
        if len(line) < 400 and (match := _KEY.match(line)):
            values.setdefault(match[1].lower(), match[2])
    rocm = "rocm available" in values or "hipcc" in values
    said = torch_version(values.get("pytorch"))
    say_torch(found, said)
    if said:
        found.say(
            "torch_build",
            python=version(values.get("python")),
            cuda_available=yes(values.get("rocm available" if rocm else "cuda available")),
        )
    if rocm:
        build = found.records.get("torch_build", {})
        hip = re.search(r"HIP version: ?(\d{1,2}\.\d{1,3})", values.get("hipcc", ""))
        if said and build.get("accelerator") is None:
            found.say("torch_build", accelerator="hip", hip=hip[1] if hip else None)
        found.say("driver", version=driver_version(values.get("rocm driver version")))
    else:
        told = values.get("cuda driver version") or values.get("cuda driver versions") or ""
        number = driver_version(told.split(",")[0])
        found.say("driver", version=number, installed=True if number else None)
    _gpus(found, lines, rocm)
    found.say("machine", virtual_machine=True if stated(values.get("hypervisor vendor")) else None)
    _packages(found, values)
    # It prints the GPUs and the driver where CUDA is available; their absence beside it is a cut.
    found.cut = yes(values.get("cuda available")) is True and said is None
    return found


def _gpus(found: Found, lines: Sequence[str], rocm: bool) -> None:
    """One line for each distinct name, and one for each distinct capability, with the indices joined by commas."""
    names: dict[int, str] = {}
    capabilities: dict[int, str] = {}
    for line in lines:
        match = _GPU.match(line) if "GPU " in line else None
        if match is None:
            continue
        indices = [int(part) for part in match[1].split(",")]
        told = capabilities if match[2] else names
        if any(index in told for index in indices):
            break  # another node
        told.update(dict.fromkeys(indices, match[3].strip()))
    records: list[Record] = []
    for index in sorted(names):
        capability = capabilities.get(index)
        if rocm:
            capability = _GFX.get(capability or "")
        elif not re.fullmatch(r"\d{1,2}\.\d", capability or ""):
            capability = None
        if record := gpu(index, names[index], compute_capability=capability):
            record["vendor"] = "amd" if rocm else record.get("vendor", "nvidia")
            records.append(record)
    if records:
        found.say("gpus", gpus=records, source="torch in sglang.check_env")


def _packages(found: Found, values: dict[str, str]) -> None:
    installed: dict[str, str] = {}
    absent: list[str] = []
    for key, value in values.items():
        if key in _NO_PACKAGES or " " in key or key.startswith("gpu"):
            continue
        name = normalised(_DISTRIBUTIONS.get(key, key))
        if value.strip().lower() == _MISSING:
            absent.append(name)
        elif number := version(value):
            installed.setdefault(name, number)
    absent = [name for name in absent if name not in installed]
    if installed or absent:
        found.say("libraries", installed=installed, absent=absent or None, complete=False)
