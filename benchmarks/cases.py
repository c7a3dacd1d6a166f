"""Does the doctor name the causes of public issues, from what they state alone?

    python -m benchmarks.cases CASES.jsonl [--all]

CASES.jsonl holds a case a line: gpu, cc, env, mode, shapes, symptom, title, and the cause as it was established. Each
is turned into facts without its cause, and diagnosed. Counted are the cases of groups A, B and E (what static facts
settle) whose cause was established and whose record states enough to tell (`cases_left_out.json` says which do not);
with --all what was said of every case is shown.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fp8doctor
from benchmarks.cases_converter import facts_of
from fp8doctor.model import Severity

HERE = Path(__file__).parent
# The causes by the group of their list; the first three are what facts settle without a measurement.
GROUPS: dict[str, list[str]] = json.loads((HERE / "cases_groups.json").read_text())
LEFT_OUT: dict[str, str] = json.loads((HERE / "cases_left_out.json").read_text())
SETTLED_BY_FACTS = ("A", "B", "E")
# Never handed to the converter.
ANSWERS = ("cause", "fix", "revealed_by", "established")


@dataclass(frozen=True)
class Told:
    """What was said of one case: names of findings in their order, and of warnings and errors that none explains."""

    id: str
    group: str
    cause: str
    counted: bool
    names: tuple[str, ...]
    alarms: tuple[str, ...]

    @property
    def first(self) -> bool:
        """The cause leads the report."""
        return self.names[:1] == (self.cause,)

    @property
    def false_alarms(self) -> tuple[str, ...]:
        """Warnings and errors of another name than the cause's."""
        return tuple(name for name in self.alarms if name != self.cause)


def told_of(case: Mapping[str, Any]) -> Told:
    """Diagnose a case without its answers, and set what was said beside them."""
    report = fp8doctor.diagnose(facts_of({key: value for key, value in case.items() if key not in ANSWERS}))
    explained = {id for finding in report.findings for id in finding.explains}
    alarming = [f for f in report.findings if f.severity is not Severity.INFO and f.id not in explained]
    group = next((group for group, causes in GROUPS.items() if case["cause"] in causes), "?")
    return Told(
        id=str(case["id"]),
        group=group,
        cause=case["cause"],
        counted=bool(case.get("established")) and group in SETTLED_BY_FACTS and case["id"] not in LEFT_OUT,
        names=tuple(dict.fromkeys(finding.name for finding in report.findings)),
        alarms=tuple(dict.fromkeys(finding.name for finding in alarming)),
    )


def table(told: Iterable[Told]) -> list[str]:
    """A line a group, and those that are counted together."""
    every = list(told)
    kinds = {
        f"group {group}": [one for one in every if one.group == group] for group in sorted({o.group for o in every})
    }
    kinds |= {"all": every, "A, B and E, established, told enough": [one for one in every if one.counted]}
    lines = [f"{'':38} {'cases':>5} {'first':>5} {'told':>5} {'silent':>6}"]
    for kind, ones in kinds.items():
        numbers = (
            len(ones),
            sum(one.first for one in ones),
            sum(one.cause in one.names for one in ones),
            sum(not one.names for one in ones),
        )
        lines.append(f"{kind:38} {numbers[0]:5} {numbers[1]:5} {numbers[2]:5} {numbers[3]:6}")
    return lines


def main() -> int:
    paths = [one for one in sys.argv[1:] if not one.startswith("--")]
    if len(paths) != 1:
        print(__doc__)
        return 2
    told = [told_of(json.loads(line)) for line in Path(paths[0]).read_text().splitlines() if line.strip()]
    print("\n".join(table(told)))
    counted = [one for one in told if one.counted]
    left_out = sum(one.id in LEFT_OUT for one in told)
    alarmed = [one for one in told if one.false_alarms]
    alarms = sum(len(one.alarms) for one in told)
    false = sum(len(one.false_alarms) for one in told)
    print(f"left out {left_out}; warnings and errors {alarms}, of another name than the cause {false}")
    print("\nmisses among the counted: cause; what was said instead")
    for one in counted:
        if not one.first:
            print(f"  {one.id}: {one.cause}; {', '.join(one.names) or 'nothing'}")
    print("\nwarnings and errors of another name than the cause")
    for one in alarmed:
        print(f"  {one.id}: {one.cause}; {', '.join(one.false_alarms)}")
    if "--all" in sys.argv:
        print("\nevery case")
        for one in told:
            print(
                f"  {one.group} {'+' if one.first else '-'} {one.id}: {one.cause}; {', '.join(one.names) or 'nothing'}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
