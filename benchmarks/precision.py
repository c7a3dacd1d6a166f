"""How often is the cause named, and how often is something said that is not so: over all that is recorded.

    python -m benchmarks.precision [CASES.jsonl]

plants the ward (tests/ward), judges the recorded boxes (tests/boxes), and reads public issues (benchmarks/cases.py) if
a file of them is given. Recall: of the faults that have a cause, those whose cause comes first. Precision: of the
warnings and errors said, those that name what is there.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import fp8doctor
from benchmarks.cases import told_of
from fp8doctor.model import Severity
from tests.ward.boxes import TRUE_OF_BOXES
from tests.ward.table import ON_GPU, run

BOXES = Path(__file__).parent.parent / "tests" / "boxes"


@dataclass(frozen=True)
class Count:
    """One line of the table."""

    what: str
    causes: int
    first: int
    alarms: int
    false: int

    def line(self) -> str:
        """The line, in Markdown."""
        recall = f"{self.first / self.causes:.0%}" if self.causes else "-"
        precision = f"{1 - self.false / self.alarms:.0%}" if self.alarms else "-"
        return f"| {self.what} | {self.causes} | {self.first} | {recall} | {self.alarms} | {self.false} | {precision} |"


def ward() -> Count:
    """The ward, planted anew."""
    rows, _ = run(2 * (os.cpu_count() or 1))
    every = [one for room in rows.values() for one in room]
    causes = [one for one in every if one.names_a_cause]
    wrong = [one for one in every if one.complaints]
    right = [one for one in causes if not one.complaints]
    return Count("the ward", len(causes), len(right), len(right) + len(wrong), len(wrong))


def on_gpu() -> Count:
    """The faults recorded on a GPU."""
    said = json.loads(ON_GPU.read_text())
    causes = [one for one in said if one["expected"]]
    alarms = [one for one in said if one["first"]]
    right = [one for one in causes if one["first"] == one["expected"]]
    return Count("faults on an H200", len(causes), len(right), len(alarms), len(alarms) - len(right))


def boxes() -> Count:
    """The recorded boxes: what is wrong there was established by measuring it, and stands in `TRUE_OF_BOXES`."""
    said = [
        (file.stem, finding.name)
        for file in sorted(BOXES.glob("*.json"))
        for finding in fp8doctor.diagnose(file).findings
        if finding.severity is not Severity.INFO
    ]
    true = {(box, name) for box, names in TRUE_OF_BOXES.items() for name in names}
    return Count("recorded boxes", len(true), len(true & set(said)), len(said), sum(one not in true for one in said))


def cases(file: Path) -> Count:
    """Public issues of groups A, B and E that tell enough; of their alarms, those of another name than the cause."""
    told = [told_of(json.loads(line)) for line in file.read_text().splitlines()]
    counted = [one for one in told if one.counted]
    return Count(
        "public issues (A, B, E)",
        len(counted),
        sum(one.first for one in counted),
        sum(len(one.alarms) for one in counted),
        sum(len(one.false_alarms) for one in counted),
    )


def main() -> None:
    """Print the table."""
    rows = [ward(), on_gpu(), boxes()]
    if len(sys.argv) > 1:
        rows.append(cases(Path(sys.argv[1])))
    head = "| | causes | first | recall | warnings and errors | of another name | precision |"
    lines = [head, "| --- | --- | --- | --- | --- | --- | --- |", *(row.line() for row in rows)]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
