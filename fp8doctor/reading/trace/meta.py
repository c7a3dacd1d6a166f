"""What do the head and the tail of a JSON trace say about the box and the run?"""

from __future__ import annotations

from typing import Any

from msgspec import Raw
from msgspec.json import Decoder
from msgspec.json import decode as decode_json

from fp8doctor.reading.trace.recording import Recording
from fp8doctor.reading.trace.refusal import BROKEN_JSON

_FIELDS = Decoder(dict[str, Raw])


def take(recording: Recording, head: bytes, tail: bytes) -> None:
    """Fill in what stands before and behind the events; what is broken there is left out."""
    said: dict[str, Raw] = {}
    for text in (head + b"]}", b'{"traceEvents":[]' + tail, b'{"traceEvents":[]' + tail + b"}"):
        try:
            said.update(_FIELDS.decode(text))
        except BROKEN_JSON:
            continue
    recording.has_shapes = recording.has_shapes or _value(said, "record_shapes") in (1, True)
    recording.has_stacks = recording.has_stacks or _value(said, "with_stack") in (1, True)
    recording.hip = recording.hip or any(key.startswith("hip_") for key in said)
    version = _value(said, "torch_version") or _value(said, "pytorch_version")
    recording.torch_version = version if isinstance(version, str) else None
    distributed = _value(said, "distributedInfo")
    if isinstance(distributed, dict) and type(distributed.get("rank")) is int:
        recording.rank = distributed["rank"]
    devices = _value(said, "deviceProperties")
    for device in devices if isinstance(devices, list) else []:
        if isinstance(device, dict) and isinstance(device.get("name"), str):
            major, minor = device.get("computeMajor"), device.get("computeMinor")
            known = type(major) is int and type(minor) is int
            number = device.get("id")
            if isinstance(number, (int, str)):
                recording.properties[number] = (device["name"][:200], f"{major}.{minor}" if known else None)


def _value(said: dict[str, Raw], key: str) -> Any:
    if key not in said:
        return None
    try:
        return decode_json(said[key])
    except BROKEN_JSON:
        return None


def why_no_events(data: bytes, *, ended: bool) -> str:
    """Why a document that was gone through has no events, to be put behind its path."""
    start = data.lstrip()[:1]
    if start not in (b"{", b"["):
        return "is no JSON: it begins with neither { nor ["
    if ended:
        return "ends before its events begin: the file is cut"
    try:
        fields = _FIELDS.decode(data)
    except BROKEN_JSON:
        return 'is no trace: it is broken JSON without a list "traceEvents"'
    if {"nodes", "schema"} <= fields.keys():
        return "is an execution trace (a graph of operators without GPU times): export the profiler's own trace"
    return 'is JSON, and no trace: it has no list "traceEvents"'
