"""What do `transformers env`, `accelerate env` and `diffusers-cli env` say? Markdown lists of `- key: value`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from fp8doctor.reading.saying import (
    Found,
    gpu,
    normalised,
    platform_says,
    say_torch,
    stated,
    torch_version,
    version,
    yes,
)

_ITEM = re.compile(r" {0,8}[-*\u2022] {0,4}([`\w\U0001f917][^:\n]{0,60}?) {0,4}: ?(.{0,300})$")
# The torch line in the three ages of it: "(GPU?)", "(accelerator?)", and none.
_TORCH = re.compile(r"pytorch version(?: \((?:gpu\?|accelerator\?)\))?$")
_VALUE = re.compile(r"(\S{1,120})(?: {1,8}\(([A-Za-z/]{1,12})\))?")
# What in parentheses behind torch's version says that CUDA starts; "NA" is no accelerator.
_AVAILABLE = {"true": True, "false": False, "cuda": True, "na": False, "n/a": False}
_SIZED = re.compile(r"(.{1,120}?), {0,4}(\d{1,8}) MiB(?: VRAM)?$")
# Lines of versions that name a distribution by another name, or by none.
_NO_PACKAGES = frozenset(("python", "pytorch", "cuda", "tensorflow", "flax", "jax", "jaxlib"))
_MARKS = {"transformers": "transformers-env", "accelerate": "accelerate-env", "diffusers": "diffusers-cli-env"}


def blocks(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where each of these lists begins and ends: at the Platform or the tool's own version, or where a key returns."""
    start: int | None = None
    seen: set[str] = set()
    for place, line in enumerate(lines):
        key, _ = _item(line)
        if key is None:
            continue
        again = key in seen and (_TORCH.match(key) or key == "platform")
        if start is None or again:
            if start is not None and _is_one(seen):
                yield start, place
            start, seen = place, set()
        seen.add(key)
    if start is not None and _is_one(seen):
        yield start, len(lines)


def _is_one(keys: set[str]) -> bool:
    """Whether these keys are those of one of the three tools."""
    torch = any(_TORCH.match(key) for key in keys)
    own = {
        "platform",
        "gpu type",
        "huggingface_hub version",
        "safetensors version",
        "system ram",
        "pytorch accelerator",
    }
    own |= {"accelerate version", "transformers version", "diffusers version", "accelerate default config"}
    return torch and bool(keys & own)


def _item(line: str) -> tuple[str | None, str]:
    if ":" not in line or len(line) > 500:
        return None, ""
    found = _ITEM.match(line)
    if found is None:
        return None, ""
    key = found[1].replace("`", "").replace("*", "").replace("\U0001f917", "")
    return " ".join(key.lower().split()), found[2].strip()


def read(lines: Sequence[str], start: int) -> Found:
    """Read one list; `start` is the number of its first line in the text."""
    found = Found(_MARKS["transformers"], start)
    values: dict[str, str] = {}
    for line in lines:
        key, value = _item(line)
        if key is not None:
            values.setdefault(key, value)
    found.format = _tool(values)
    _torch(found, values)
    platform_says(found, values.get("platform"))
    if memory := re.match(r"(\d{1,6}(?:\.\d{1,3})?) GB$", values.get("system ram", "")):
        # Computed with 1024^3 (accelerate/commands/env.py).
        found.say("machine", memory_total_mib=round(float(memory[1]) * 1024, 1))
    _gpus(found, values, lines)
    _packages(found, values)
    return found


def _tool(values: dict[str, str]) -> str:
    if "diffusers version" in values or "running on google colab?" in values:
        return _MARKS["diffusers"]
    if "system ram" in values or "accelerate default config" in values or "accelerate bash location" in values:
        return _MARKS["accelerate"]
    return _MARKS["transformers"]


def _torch(found: Found, values: dict[str, str]) -> None:
    told = next((value for key, value in values.items() if _TORCH.match(key)), "")
    parts = _VALUE.match(told)
    said = torch_version(parts[1]) if parts else None
    if said is None:
        return
    assert parts is not None
    say_torch(found, said)
    word = (parts[2] or stated(values.get("pytorch accelerator")) or "").lower()
    if not word and "pytorch accelerator" in values:
        word = "na"
    other = [key for key in values if re.fullmatch(r"pytorch (?:xpu|npu|mlu|musa|hpu|sdaa) available", key)]
    if word in _AVAILABLE and not any(yes(values[key]) for key in other):
        found.say("torch_build", cuda_available=_AVAILABLE[word])
    if word == "xpu":
        found.say("torch_build", accelerator="xpu")
    elif word == "cuda" or (word == "true" and _names_nvidia(values)):
        found.say("torch_build", accelerator=found.get("torch_build", "accelerator") or "cuda")
    found.say("torch_build", python=version(values.get("python version")))


def _names_nvidia(values: dict[str, str]) -> bool:
    """Whether the list names a GPU of NVIDIA."""
    return any("NVIDIA" in values.get(key, "") for key in ("gpu type", "accelerator"))


def _gpus(found: Found, values: dict[str, str], lines: Sequence[str]) -> None:
    if name := stated(values.get("gpu type")):
        record = gpu(0, name)
        found.say("gpus", gpus=[record] if record else None, source="torch")
        found.first_gpu_only = True
    elif stated(values.get("accelerator")) and not _is_mac(values):
        # diffusers: "NAME, 81920 MiB", and a line without a key for each further GPU.
        start = next(place for place, line in enumerate(lines) if _item(line)[0] == "accelerator")
        told = [values["accelerator"]]
        for line in lines[start + 1 :]:
            if not _SIZED.match(line.strip()):
                break
            told.append(line.strip())
        records = []
        for index, text in enumerate(told):
            sized = _SIZED.match(text)
            record = gpu(index, sized[1] if sized else text, memory_total_mib=float(sized[2]) if sized else None)
            if record:
                records.append(record)
        found.say("gpus", gpus=records or None, source="nvidia-smi in diffusers-cli env")


def _is_mac(values: dict[str, str]) -> bool:
    return values.get("platform", "").lower().startswith(("macos", "darwin"))


def _packages(found: Found, values: dict[str, str]) -> None:
    installed: dict[str, str] = {}
    absent: list[str] = []
    for key, value in values.items():
        name = key.removesuffix(" version")
        if name == key or " " in name or name in _NO_PACKAGES or "(" in name:
            continue
        name = normalised(name)
        if value.strip().lower() == "not installed":
            absent.append(name)
        elif number := version(value):
            installed[name] = number
    if installed or absent:
        found.say("libraries", installed=installed, absent=absent or None, complete=False)
