"""The doctor is called to a broken box: what did it say, in which time, and what did it leave behind?"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

import fp8doctor
from tests.ward.fault import HEALTHY, SECRETS, CannotPlantError, Fault, Ground, may_mount

BOXES = Path(__file__).parent.parent / "boxes"
# Over its budget: what the command may take to end what hangs, to judge and to print (see `checks` in the issue form).
OVER_BUDGET_S = 10
# The probes that end well in a quick run where nothing is wrong but what a machine without a GPU lacks.
HEALTHY_PROBES = ("machine", "driver", "gpus", "compiler", "libraries", "torch_build")
# Written into the environment of the command, and so of all that it starts, to find what it left behind.
MARK = "FP8DOCTOR_WARD"


@dataclass(frozen=True)
class Visit:
    """One call of the command."""

    status: int
    seconds: float
    output: str
    errors: str
    report: dict[str, Any] | None
    left_running: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """What was said of a fault, on the box in which it was judged."""

    first: str | None
    severity: str | None
    title: str | None
    actions: tuple[str, ...]
    # Rules that the fault does not concern and whose outcome it changed, and probes likewise.
    disturbed: tuple[str, ...]
    headline: str


def visit(ground: Ground, budget_s: int = 15) -> Visit:
    """Call `fp8doctor --quick --json` to this ground."""
    mark = uuid.uuid4().hex
    saved = ground.folder / "report.json"
    command = [sys.executable, "-m", "fp8doctor", "--quick", "--budget", str(budget_s), "--python", ground.python]
    command += ["-o", str(saved)] if ground.no_output else ["--json"]
    script = "\n".join([*ground.before, "exec " + shlex.join(command + ground.arguments)])
    started = time.monotonic()
    done = subprocess.run(
        [*(["unshare", "-m"] if ground.mounts else []), "sh", "-c", script],
        env={**ground.environment, MARK: mark},
        cwd=ground.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=budget_s + 60,
        check=False,
    )
    seconds = time.monotonic() - started
    output, errors = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    text = saved.read_text() if ground.no_output and saved.exists() else output
    report = json.loads(text) if text.lstrip().startswith("{") else None
    return Visit(done.returncode, seconds, output, errors, report, left_running(mark))


def left_running(mark: str) -> tuple[str, ...]:
    """The processes that still bear the mark of a call that has ended; they are ended here."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if process.environ().get(MARK) == mark:
                found.append(" ".join(process.info["cmdline"] or [])[:100])
                process.kill()
        except psutil.Error:
            continue
    return tuple(found)


def examine(fault: Fault, folder: Path) -> tuple[Visit, Diagnosis | None]:
    """Plant a fault, call the doctor, and judge what it saw on the box that the fault is judged in."""
    ground = Ground(folder)
    fault.plant(ground)
    if ground.mounts and not may_mount():
        raise CannotPlantError("this user may have no mount namespace")
    seen = visit(ground, fault.budget_s)
    return seen, None if seen.report is None else diagnose(fault, seen.report)


SHARED, ASIDE = "gpu-shared-or-mig", "times-put-aside"


def diagnose(fault: Fault, report: dict[str, Any]) -> Diagnosis:
    """What is said first of a fault: by the command itself, or of its bed with the facts that the command saw."""
    disturbed = [key for key in HEALTHY_PROBES if _ended_otherwise(key, fault, report)]
    if fault.bed is not None:
        bed = box(fault.bed)
        untouched = {rule["id"]: rule["outcome"] for rule in _judged(bed)["outcomes"]}
        report = _judged(_in_bed(fault, bed, report))
        concerned = set(fault.seen_by) | set(fault.quiet_probes)
        if fault.first == SHARED and any(one["name"] == ASIDE for one in report["findings"]):
            concerned |= {"linear"}  # what was timed beside somebody else is not used
        by_messages = {one["rule"] for one in report["facts"]["messages"]["messages"]}
        for rule in report["outcomes"]:
            if (
                rule["id"] not in by_messages
                and not concerned & _needs(rule["id"])
                and untouched.get(rule["id"]) != rule["outcome"]
            ):
                disturbed.append(f"{rule['id']}: {untouched.get(rule['id'])} -> {rule['outcome']}")
    grave = [one for one in report["findings"] if one["severity"] != "info" or fault.first == one["name"]]
    leading = grave[0] if grave else None
    return Diagnosis(
        first=leading["name"] if leading else None,
        severity=leading["severity"] if leading else None,
        title=leading["title"] if leading else None,
        actions=tuple(f"{one['text']} {one['command'] or ''}".strip() for one in leading["actions"]) if leading else (),
        disturbed=tuple(disturbed),
        headline=report["verdict"]["headline"],
    )


def box(name: str = HEALTHY) -> dict[str, Any]:
    """A recorded box."""
    document: dict[str, Any] = json.loads((BOXES / f"{name}.json").read_text())
    return document


def _in_bed(fault: Fault, bed: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    facts, probes = dict(bed["facts"]), dict(bed["probes"])
    for key in fault.quiet_probes:
        facts.pop(key, None)
        probes.pop(key, None)
    for key in fault.seen_by:
        facts[key] = report["facts"].get(key)
        probes[key] = report["probes"][key]
    said = [one for one in report["facts"]["messages"]["messages"] if one["source"] in fault.seen_by]
    facts["messages"] = {"messages": said}
    return {**bed, "facts": facts, "probes": probes}


def _judged(document: dict[str, Any]) -> dict[str, Any]:
    judged: dict[str, Any] = json.loads(fp8doctor.diagnose(document).to_json())
    return judged


@cache
def _needs(rule_id: str) -> frozenset[str]:
    from fp8doctor.api.assembling import knowledge

    found = [rule for rule in knowledge().rules.values() if rule.id == rule_id]
    return frozenset(need.key for rule in found for need in rule.needs.values())


def _ended_otherwise(key: str, fault: Fault, report: dict[str, Any]) -> bool:
    return key not in fault.seen_by and report["probes"][key]["outcome"] != "ok"


def secrets_in(seen: Visit) -> list[str]:
    """The planted secrets that stand in anything that was printed."""
    return [name for name, value in SECRETS.items() if value in seen.output or value in seen.errors]


def user_is_named(seen: Visit) -> bool:
    """Whether the home folder's path stands in the output as it is."""
    return os.environ.get("HOME", "/nowhere") + "/" in seen.output


def complaints(fault: Fault, seen: Visit, said: Diagnosis | None) -> list[str]:
    """What was not as it should be when the doctor was called to a fault: nothing, if it did well."""
    checks = {
        f"it took {seen.seconds:.0f} s with a budget of {fault.budget_s}": seen.seconds
        >= fault.budget_s + OVER_BUDGET_S,
        f"it left processes behind: {seen.left_running}": bool(seen.left_running),
        f"it printed {', '.join(secrets_in(seen))}": bool(secrets_in(seen)),
    }
    if fault.cannot:
        line = rf"fp8doctor: .*{fault.cannot}.*\n"
        ended_well = (seen.status, seen.report) == (2, None) and re.fullmatch(line, seen.errors)
        checks[f"status {seen.status}: {seen.errors[-2000:]}"] = not ended_well
    elif said is None:
        checks[f"no report: status {seen.status}, {seen.errors[-2000:]}"] = True
    else:
        checks[f"status {seen.status}"] = seen.status not in (0, 1)
        checks[f"said first: {said.first}, {said.title}"] = said.first != fault.first
        checks[f"disturbed: {', '.join(said.disturbed)}"] = bool(said.disturbed)
        checks[f"no action says how to mend it: {said.actions}"] = fault.first is not None and not fixes(fault, said)
    return [words for words, wrong in checks.items() if wrong]


def fixes(fault: Fault, said: Diagnosis) -> list[str]:
    """The actions of the leading finding that mend the fault."""
    return [action for action in said.actions if re.search(fault.fix, action, re.IGNORECASE)]
