"""In which environment does a command of an action run?

A person whose FP8 lives in another environment than fp8doctor pastes `python -m pip install ...` and changes the wrong
one: where the two differ, the command names the examined interpreter.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping

from fp8doctor.judging.report import FindingRecord
from fp8doctor.model import Action, Facts, ProbeRun

# `python` where a shell looks for a command, running a module or a line of code.
_PYTHON = re.compile(r"(?m)(^|[;&|(]\s*|\b[A-Z_]+=\S+\s+)python(?=\s+-[mc]\s)")

# A stranger's facts may name anything as the interpreter.
_A_PYTHON = re.compile(r"[\w./~<> +@:-]*\bpython[\d.]*t?")


def for_examined(findings: tuple[FindingRecord, ...], runs: Mapping[str, ProbeRun[Facts]]) -> tuple[FindingRecord, ...]:
    """The findings, their commands as they have to be pasted where the doctor's own interpreter is another one."""
    paths = [run.interpreter for run in runs.values() if run.interpreter]
    most = max(dict.fromkeys(paths), key=paths.count, default="")  # most probes run in the examined one
    if len(set(paths)) < 2 or not _A_PYTHON.fullmatch(most):
        return findings
    examined = shlex.quote(most)
    return tuple(
        dataclasses.replace(finding, actions=tuple(_named(action, examined) for action in finding.actions))
        for finding in findings
    )


def _named(action: Action, python: str) -> Action:
    if action.command is None:
        return action
    return dataclasses.replace(action, command=_PYTHON.sub(lambda found: f"{found[1]}{python}", action.command))
