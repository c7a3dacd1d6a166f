"""What did the person write by hand: a GPU, a driver, a torch, in a list or in one plain sentence?

Prose names machines that the problem is not about, so that only a key with a value counts, or a sentence that says
what is in the machine and nothing else; and that only where no tool said it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fp8doctor.reading.saying import Found, Record, driver_version, gpu, say_torch, stated, torch_version

_ITEM = re.compile(
    r" {0,8}(?:[-*\u2022+] {0,4})?\*{0,3}([A-Za-z][A-Za-z /()]{1,30}?)(?: model| name| type| version)?\*{0,3} ?:"
    r" ?\*{0,3} {0,4}(\S.{0,160})$",
    re.IGNORECASE,
)
_KEYS = {
    "gpu": "gpu",
    "gpus": "gpu",
    "gpu(s)": "gpu",
    "graphics card": "gpu",
    "video card": "gpu",
    "graphics": "gpu",
    "driver": "driver",
    "gpu driver": "driver",
    "nvidia driver": "driver",
    "cuda driver": "driver",
    "pytorch": "torch",
    "torch": "torch",
}
_COUNTED = re.compile(r"(?:(\d{1,2}) ?[x\u00d7\*] ?)?(.{3,100}?)(?: ?[x\u00d7\*] ?(\d{1,2}))?$")
# What people write behind a name: its memory, remarks.
_BEHIND = re.compile(r"(?:,| \(|\s[-\u2013\u2014] | with ).*$|[\s,]*\b\d{1,3} ?Gi?B\b.*$")
# "Single NVIDIA A40 GPU with 46068 MiB VRAM.", a line by itself.
_SENTENCE = re.compile(
    r" {0,8}(?:[-*] )?(Single|One|Two|Four|Eight|\d{1,2}) ?x? (NVIDIA .{1,60}?) GPUs?"
    r"(?: with \d{1,7} ?[MG]i?B.{0,30})?\.?$"
)
_COUNTS = {"single": 1, "one": 1, "two": 2, "four": 4, "eight": 8}
# A product has a number in its name, and one of the names that vendors give.
_PRODUCT = re.compile(
    r"(?:NVIDIA|GeForce|RTX|GTX|Tesla|Quadro|TITAN|Radeon|Instinct|AMD|\b[AHLBTV]\d{1,4}|GH200|GB\d{2,3}).{0,60}\d|\b[AHLBTV]\d{1,4}S?\b"
)
MOST_GPUS = 64


def read(lines: Sequence[str]) -> Found | None:
    """Read what was written by hand, None if nothing was."""
    found = Found("hand-written", 0)
    gpus: list[Record] = []
    for place, line in enumerate(lines):
        if not 6 < len(line) < 240:
            continue
        before = len(gpus), len(found.records)
        if ":" in line and (match := _ITEM.match(line)):
            _item(found, gpus, match[1].strip().lower(), match[2])
        elif " GPU" in line and not gpus and (match := _SENTENCE.match(line)):
            count = _COUNTS.get(match[1].lower()) or int(match[1])
            gpus += _several(match[2], count)
        if before == (0, 0) and (gpus or found.records):
            found.line = place
    if gpus:
        found.say("gpus", gpus=gpus, source="what was written by hand")
    return found if found.records else None


def _item(found: Found, gpus: list[Record], key: str, value: str) -> None:
    kind = _KEYS.get(key)
    if kind == "gpu" and not gpus and stated(value):
        counted = _COUNTED.match(_BEHIND.sub("", value.strip().strip("*`")).strip())
        if counted and len(_PRODUCT.findall(counted[2])) == 1 and not re.search(r"[/;?]| or | and ", counted[2]):
            gpus += _several(counted[2].strip(), int(counted[1] or counted[3] or 1))
    elif kind == "driver" and not found.get("driver", "version"):
        words = value.split()
        number = driver_version(words[0]) if words else None
        # A driver's branch has three digits; CUDA's version, which people write there too, has two.
        if number and re.match(r"[3-9]\d\d\.", number):
            found.say("driver", version=number, installed=True)
    elif kind == "torch" and not found.get("torch_build", "version"):
        say_torch(found, torch_version(value))


def _several(name: str, count: int) -> list[Record]:
    if not 0 < count <= MOST_GPUS:
        return []
    records = [gpu(index, name) for index in range(count)]
    return [record for record in records if record]
