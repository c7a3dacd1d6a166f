"""docs/ward.md: each fault, what was said of it, and how long that took. Written by the run itself.

python -m tests.ward.table [-j WORKERS]      plants every fault anew and writes the page
python -m tests.ward.table --gpu FOLDER      takes over what tests.ward.on_gpu wrote in FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import fp8doctor
from tests.ward.fault import CannotPlantError, Fault, has_real_torch
from tests.ward.rooms import FAULTS
from tests.ward.visit import OVER_BUDGET_S, complaints, examine, fixes

PAGE = Path(__file__).parent.parent.parent / "docs" / "ward.md"
# What was said on an H200, by tests.ward.on_gpu.
ON_GPU = Path(__file__).with_name("h200.json")
ROOMS = {
    "packages": "Packages",
    "torch": "torch",
    "compiler": "The compiler chain",
    "gpu": "The GPU, played by a stub of NVML",
    "machine": "The machine",
}


@dataclass(frozen=True)
class Row:
    """One line of the page."""

    fault: Fault
    said: str
    fix: str
    seconds: float
    survived: bool
    complaints: tuple[str, ...]

    @property
    def names_a_cause(self) -> bool:
        """Whether something had to be named."""
        return self.fault.first is not None or bool(self.fault.cannot)


def row(fault: Fault) -> Row | None:
    """Plant a fault and write down what was said of it; None where it cannot be planted here."""
    try:
        with tempfile.TemporaryDirectory(prefix="ward-", ignore_cleanup_errors=True) as folder:
            seen, said = examine(fault, Path(folder) / "ground")
    except CannotPlantError as error:
        sys.stderr.write(f"{fault.name}: not planted: {error}\n")
        return None
    wrong = tuple(complaints(fault, seen, said))
    survived = seen.status in (0, 1, 2) and seen.seconds < fault.budget_s + OVER_BUDGET_S
    if said is None:
        return Row(fault, f"status {seen.status}: {seen.errors.strip()[-300:]}", "", seen.seconds, survived, wrong)
    words = f"`{said.first}`: {said.title}" if said.first else "nothing: nothing is wrong for FP8"
    mends = fixes(fault, said) if fault.first else []
    return Row(fault, words, next(iter(mends), ""), seen.seconds, survived, wrong)


def page(rows: dict[str, list[Row]], took_s: float, workers: int) -> str:
    """The whole page."""
    every = [one for room in rows.values() for one in room]
    refused = [one for one in every if one.fault.cannot]
    caused = [one for one in every if one.fault.first is not None]
    harmless = [one for one in every if one.fault.first is None and not one.fault.cannot]
    lines = [
        "# The ward",
        "",
        "This page is proof and no help: for your own box type `fp8doctor`, for an error `fp8doctor read`.",
        "",
        "Boxes that are really broken, and what fp8doctor says of them. Each fault is built for the run: an extension"
        " that lacks a symbol, a library that plays a GPU, a full disk. `fp8doctor --quick` is called to it; where the"
        " fault is one thing of an otherwise healthy box, what it saw is judged among the recorded facts of an H200."
        " The page is written by the run itself (`python -m tests.ward.table`), and CI plants all of them again.",
        "",
        f"fp8doctor {fp8doctor.__version__}: {len(every)} boxes, survived {sum(one.survived for one in every)}."
        f" Of {len(caused)} faults that have a cause for FP8, it came first in"
        f" {sum(not one.complaints for one in caused)}; {sum(not one.complaints for one in refused)} of {len(refused)}"
        " boxes on which nothing can be examined were refused in one clear line; and of"
        f" {len(harmless)} on which nothing is wrong for FP8, nothing was said in"
        f" {sum(not one.complaints for one in harmless)}."
        f" All of them took {took_s / 60:.1f} minutes with {workers} at a time.",
    ]
    for key, title in ROOMS.items():
        if rows.get(key):
            lines += ["", f"## {title}", "", *_table(rows[key])]
    if ON_GPU.exists():
        lines += ["", "## On an H200", "", *_on_gpu(json.loads(ON_GPU.read_text()))]
    return "\n".join(lines) + "\n"


def _table(rows: Iterable[Row]) -> Iterator[str]:
    yield "| planted | said first | what to do | s |"
    yield "|---|---|---|---|"
    for one in rows:
        mark = "" if not one.complaints else " **(not as it should be)**"
        yield f"| {_cell(one.fault.planted)} | {_cell(one.said)}{mark} | {_cell(one.fix)} | {one.seconds:.1f} |"


def _on_gpu(said: list[dict[str, object]]) -> Iterator[str]:
    yield "Planted beside the command on a real GPU (`python -m tests.ward.on_gpu`), and recorded there."
    yield ""
    yield "| planted | said first | what to do | s |"
    yield "|---|---|---|---|"
    for one in said:
        words = f"`{one['first']}`: {one['title']}" if one["first"] else "nothing graver than a lesson"
        actions = one["actions"] if isinstance(one["actions"], list) else []
        wanted = [a for a in actions if re.search(str(one["fix"]), a, re.IGNORECASE)]
        right = one["first"] == one["expected"] and one["in_time"] and not one["left_running"]
        mark = "" if right else " **(not as it should be)**"
        cells = (_cell(str(one["planted"])), _cell(words) + mark, _cell(next(iter(wanted), "")), str(one["seconds"]))
        yield f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    # Where a fault was planted says nothing.
    text = re.sub(r"\S*/ward-\w+/ground", "...", text)
    text = text.replace(sys.executable, "python")  # this machine's own
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def run(workers: int) -> tuple[dict[str, list[Row]], float]:
    """Plant every fault, several at a time; those that wait longest first."""
    possible = [one for one in FAULTS if has_real_torch() or not one.needs_torch]
    started = time.monotonic()
    with ThreadPoolExecutor(max_workers=workers) as pool:
        made = dict(zip(possible, pool.map(row, possible), strict=True))
    rows: dict[str, list[Row]] = {}
    for fault in possible:
        if (one := made[fault]) is None:
            continue
        rows.setdefault(fault.room, []).append(one)
        if one.complaints:
            sys.stderr.write(f"{fault.name}: {'; '.join(one.complaints)}\n")
    return rows, time.monotonic() - started


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-j", type=int, default=2 * (os.cpu_count() or 1), dest="workers")
    parser.add_argument("--gpu", type=Path)
    options = parser.parse_args()
    if options.gpu is not None:
        shutil.copyfile(options.gpu / "ward.json", ON_GPU)
    rows, took_s = run(options.workers)
    PAGE.write_text(page(rows, took_s, options.workers))


if __name__ == "__main__":
    main()
