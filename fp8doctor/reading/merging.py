"""Are two reports in one text about the same box, and what do they say together?"""

from __future__ import annotations

from typing import Any

from fp8doctor.reading.saying import Found, Record

Records = dict[str, Record]


def same_box(one: Records, other: Records) -> bool:
    """Nothing that both state differs: GPUs, driver, torch."""
    return _same_gpus(one, other) and _same_driver(one, other) and _same_torch(one, other)


def _same_gpus(one: Records, other: Records) -> bool:
    ours, theirs = _names(one), _names(other)
    if ours is None or theirs is None:
        return True
    if not ours or not theirs:
        return ours == theirs
    return any(_alike(a, b) for a in ours for b in theirs)


def _names(records: Records) -> list[str] | None:
    gpus = records.get("gpus", {}).get("gpus")
    return None if gpus is None else [str(gpu.get("name")) for gpu in gpus]


def _alike(one: str, other: str) -> bool:
    """Equal, or one is the other as nvidia-smi cuts it, or as a vendor's prefix makes it longer."""
    a, b = (name.partition(" (gfx")[0].removesuffix("...").lower() for name in (one, other))
    shorter, longer = sorted((a, b), key=len)
    return longer.startswith(shorter) or longer.endswith(shorter)


def _same_driver(one: Records, other: Records) -> bool:
    ours, theirs = (records.get("driver", {}).get("version") for records in (one, other))
    return ours is None or theirs is None or ours == theirs


def _same_torch(one: Records, other: Records) -> bool:
    ours, theirs = (str(records.get("torch_build", {}).get("version") or "") for records in (one, other))
    if not ours or not theirs:
        return True
    # Lists of packages drop the local tag.
    (a, _, tag), (b, _, other_tag) = ours.partition("+"), theirs.partition("+")
    return a == b and (not tag or not other_tag or tag == other_tag)


def merge(into: Found, other: Found) -> None:
    """Take up what the other report says and this one does not."""
    for key, record in other.records.items():
        mine = into.records.setdefault(key, {})
        for name, value in record.items():
            if key == "gpus" and name == "gpus":
                continue
            if isinstance(value, dict) and isinstance(mine.get(name), dict):
                mine[name] = {**value, **mine[name]}
            elif name not in mine:
                mine[name] = value
    if "gpus" in other.records:
        _merge_gpus(into, other)
    libraries = into.records.get("libraries", {})
    if "absent" in libraries:
        libraries["absent"] = [name for name in libraries["absent"] if name not in libraries.get("installed", {})]


def _merge_gpus(into: Found, other: Found) -> None:
    mine: list[dict[str, Any]] | None = into.records["gpus"].get("gpus")
    theirs: list[dict[str, Any]] | None = other.records["gpus"].get("gpus")
    if theirs is None:
        return
    # A list of all GPUs says more than the first one's name.
    if mine is None or (into.first_gpu_only and not other.first_gpu_only):
        into.records["gpus"]["gpus"], theirs = [dict(gpu) for gpu in theirs], mine or []
        into.records["gpus"]["source"] = other.records["gpus"].get("source")
        into.first_gpu_only = other.first_gpu_only
        mine = into.records["gpus"]["gpus"]
    for gpu in mine:
        twin = next((one for one in theirs if one.get("index") == gpu.get("index") and _twins(one, gpu)), None)
        # The capability is the same for all of one name, whatever their numbers.
        named = twin or next((one for one in theirs if _twins(one, gpu)), {})
        if named.get("compute_capability"):
            gpu.setdefault("compute_capability", named["compute_capability"])
        for name, value in (twin or {}).items():
            gpu.setdefault(name, value)
        if str(gpu.get("name")).endswith("...") and named.get("name"):
            gpu["name"] = named["name"]


def _twins(one: Record, other: Record) -> bool:
    return _alike(str(one.get("name")), str(other.get("name")))
