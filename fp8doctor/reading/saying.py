"""What does a value in a report say? Versions, booleans, lists, and the many words for "nothing"."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]

# What the tools print where they know nothing. None of it is an observation.
_NOTHING = frozenset(
    (
        *(
            "",
            "n/a",
            "na",
            "none",
            "could not collect",
            "no cuda",
            "unknown",
            "not available",
            "not installed",
            "[n/a]",
        ),
        *("not found", "module not found", "null", "-", "?", "<fill in>", "<fill-in>", "err!", "not set"),
    )
)
_NO_NAMES = ("no cuda", "could not collect", "n/a")
# Longer values are no names and no versions.
MAX_VALUE = 300
_VERSION = re.compile(r"v?(\d{1,6}(?:\.\d{1,8}){1,5}[\w.+\-]{0,80})")
_DRIVER = re.compile(r"\d{1,4}\.\d{1,4}(?:\.\d{1,4})?$")
_TORCH = re.compile(r"\d{1,2}\.\d{1,3}(?:\.\d{1,3})?(?:[.\w\-]{0,40})?(?:\+[\w.\-]{1,80})?$")
_CUDA_TAG = re.compile(r"\+(?:.{0,20}[._])?cu(\d{2,3})(?!\d)")
_ROCM_TAG = re.compile(r"\+rocm(?:sdk)?(\d{1,2}\.\d{1,2}(?:\.\d{1,2})?)?")
# The GPU, and what vendors write behind its name.
_UUID = re.compile(r" *\((?:UUID|uuid):[^)]{0,80}\)?")
_GFX = re.compile(r"\((gfx[0-9a-f]{3,6})(?::[^)]{0,60})?\)")


@dataclass
class Found:
    """One report of one tool in a text: which tool, where it begins, and what it says in plain records."""

    format: str
    line: int
    records: dict[str, Record] = field(default_factory=dict)
    # It names the first GPU alone, however many there are.
    first_gpu_only: bool = False
    # It stands between reports: it fills what they did not say, and is no box of its own beside them.
    loose: bool = False
    # It breaks off.
    cut: bool = False

    def say(self, key: str, **values: Any) -> None:
        """Take up what was said; None is not."""
        said = {name: value for name, value in values.items() if value is not None}
        if said:
            self.records.setdefault(key, {}).update(said)

    def get(self, key: str, name: str) -> Any:
        """What was said of a field, None if nothing."""
        return self.records.get(key, {}).get(name)


def stated(value: str | None) -> str | None:
    """The value without decoration, None if it says nothing."""
    text = (value or "").strip().strip("`*").strip()
    return None if text.lower() in _NOTHING or len(text) > MAX_VALUE else text


def yes(value: str | None) -> bool | None:
    """A boolean; torch before 1.7 printed Yes and No."""
    return {"true": True, "yes": True, "false": False, "no": False}.get((stated(value) or "").lower())


def version(value: str | None) -> str | None:
    """The version at the beginning of a value: "3.12.9" of "3.12.9 (main, ...)"."""
    found = _VERSION.match(stated(value) or "")
    return found[1].rstrip(".-+") if found else None


def driver_version(value: str | None) -> str | None:
    """A driver's version: two or three numbers, nothing else."""
    text = stated(value)
    return text if text and _DRIVER.match(text) else None


def torch_version(value: str | None) -> str | None:
    """torch's version with its local tag; what stands behind it is dropped."""
    words = (stated(value) or "").split()
    return words[0] if words and _TORCH.match(words[0]) else None


def say_torch(found: Found, text: str | None) -> None:
    """Take up torch's version, and what its local tag says of the build."""
    if text is None:
        return
    found.say("torch_build", installed=True, version=text)
    if tag := _CUDA_TAG.search(text):
        found.say("torch_build", accelerator="cuda", cuda=f"{tag[1][:-1]}.{tag[1][-1]}")
    elif tag := _ROCM_TAG.search(text):
        found.say("torch_build", accelerator="hip", hip=tag[1])
    elif text.endswith("+cpu") or "+cpu." in text:
        found.say("torch_build", accelerator="cpu")
    elif "+xpu" in text:
        found.say("torch_build", accelerator="xpu")


def gpu(index: int | None, name: str, **more: Any) -> Record | None:
    """One GPU's record, None if the name is none."""
    text = _UUID.sub("", name).strip().strip("`*").strip()
    if stated(text) is None or text.lower().startswith(_NO_NAMES):
        return None
    record: Record = {"index": index, "name": text, "vendor": vendor(text), **more}
    if (gfx := _GFX.search(text)) and not record.get("compute_capability"):
        record["compute_capability"] = gfx[1]
    return {key: value for key, value in record.items() if value is not None}


_VENDORS = (
    (r"NVIDIA|GeForce|Tesla|Quadro|TITAN|GRID|RTX|GTX", "nvidia"),
    (r"AMD|Radeon|Instinct", "amd"),
    (r"Intel|\bArc\b", "intel"),
)


def vendor(name: str) -> str | None:
    """Who made it, if the name says so."""
    return next((who for pattern, who in _VENDORS if re.search(pattern, name)), None)


def normalised(name: str) -> str:
    """A distribution's name as packaging tools compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def platform_says(found: Found, text: str | None) -> None:
    """Take up what Python's platform string says: "Linux-5.15.0-143-generic-x86_64-with-glibc2.35"."""
    if (name := stated(text)) is None:
        return
    system, _, rest = name.partition("-")
    architecture = next((one for one in ("x86_64", "aarch64", "arm64", "ppc64le", "AMD64") if one in rest), None)
    kernel = re.match(r"(\d[^ ]{0,100}?)-(?:x86_64|aarch64|ppc64le)\b", rest) if system == "Linux" else None
    found.say("machine", architecture=architecture, kernel=kernel[1] if kernel else None)
    if system == "Linux":
        found.say("machine", wsl="microsoft" in rest.lower())
    if system in ("Windows", "macOS", "Darwin") and not found.get("machine", "os"):
        found.say("machine", os=name)


def merged_packages(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Normalised names with their versions; of two of one name the first counts."""
    packages: dict[str, str] = {}
    for name, text in pairs:
        packages.setdefault(normalised(name), text)
    return packages
