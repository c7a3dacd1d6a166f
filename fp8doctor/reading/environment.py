"""What do the environment reports in a text say? Plain records for the facts that they fill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fp8doctor.pasted import Pasted, Reading
from fp8doctor.reading import (
    deepspeed_env,
    header,
    listed_env,
    nvidia_smi,
    sglang_env,
    torch_env,
    warnings,
    written,
    xformers_env,
)
from fp8doctor.reading.merging import merge, same_box
from fp8doctor.reading.saying import Found
from fp8doctor.reading.untold import NO_CODE_FORMAT, lacks_code, untold

Blocks = Callable[[Sequence[str]], Iterator[tuple[int, int]]]
Reader = Callable[[Sequence[str], int], Found]
# The tools whose reports are blocks of lines.
TOOLS: tuple[tuple[Blocks, Reader], ...] = (
    (torch_env.blocks, torch_env.read),
    (sglang_env.blocks, sglang_env.read),
    (listed_env.blocks, listed_env.read),
    (deepspeed_env.blocks, deepspeed_env.read),
    (xformers_env.blocks, xformers_env.read),
    (nvidia_smi.blocks, nvidia_smi.read),
)
# What stands anywhere, and fills what no report said.
LOOSE: tuple[Callable[[Sequence[str]], Found | None], ...] = (header.read, warnings.read)
# More reports than this in one text are not looked at: a text of a million of them was made to break readers.
MOST_REPORTS = 16


def read(pasted: Pasted) -> tuple[dict[str, dict[str, Any]], Reading]:
    """The facts that the text states, by key, and what the text was.

    Several reports that do not contradict one another are of one box; else the first box counts, and the others are
    told.
    """
    box: Found | None = None
    others: list[Found] = []
    formats: dict[str, None] = {}
    cut = pasted.cut
    for found in _reports(pasted.lines):
        if not found.records:
            continue
        if box is None:
            box = found
        elif same_box(box.records, found.records):
            merge(box, found)
        elif not found.loose:
            others.append(found)
        else:
            continue
        formats[found.format] = None
        cut = cut or found.cut
    if box is not None:
        _settle(box)
    if lacks_code(pasted.lines):
        formats[NO_CODE_FORMAT] = None
    kinds = tuple(formats)
    records = {} if box is None else {key: record for key, record in box.records.items() if record}
    return records, Reading(kinds, len(others) + 1 if box else 0, untold(box, kinds, others), cut)


def _reports(lines: Sequence[str]) -> Iterator[Found]:
    """The reports in their order, each ending where another one begins; then what stands anywhere, and between them."""
    found = [(start, end, reader) for blocks, reader in TOOLS for start, end in _first(blocks(lines))]
    found.sort(key=lambda one: one[0])
    between: list[str] = []
    reached = 0
    for place, (start, end, reader) in enumerate(found[:MOST_REPORTS]):
        following = found[place + 1][0] if place + 1 < len(found) else end
        end = max(start + 1, min(end, following))
        between += lines[reached:start]
        reached = max(reached, end)
        yield reader(lines[start:end], start)
    between += lines[reached:]
    for said in (*(loose(lines) for loose in LOOSE), nvidia_smi.listed(between), written.read(between)):
        if said is not None:
            said.loose = True
            yield said


def _first(blocks: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for _, block in zip(range(MOST_REPORTS), blocks, strict=False):
        yield block


def _settle(box: Found) -> None:
    """What two records say together."""
    if box.get("machine", "wsl") and box.get("driver", "version"):
        box.say("driver", wsl=True)
    gpus = box.records.get("gpus", {})
    if gpus.get("gpus"):  # another report shows some
        gpus.pop("why_none", None)
        gpus.pop("why_none_detail", None)
