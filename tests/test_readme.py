"""What the README shows of reports is what the commands beside it print."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fp8doctor import api
from tests.cli.test_commands import doctor

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
# A block of a report, and the command named last before it.
SHOWN = [
    (re.findall(r"`fp8doctor ((?:demo|trace)[^`]*)`", TEXT[: found.start()])[-1], found[1])
    for found in re.finditer(r"^```text\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize(("command", "block"), SHOWN, ids=[command for command, _ in SHOWN])
def test_a_report_in_the_readme_is_what_is_printed_but_for_what_is_left_out(command: str, block: str) -> None:
    printed = iter(doctor(*shlex.split(command), COLUMNS="80").stdout.splitlines())
    for line in block.splitlines():
        if line.strip() != "...":
            assert any(line.rstrip() == one.rstrip() for one in printed), line


def test_three_reports_are_shown() -> None:
    assert len(SHOWN) == 3


def test_the_python_in_the_readme_runs_as_it_stands() -> None:
    section = TEXT.partition("\n## From Python\n")[2].partition("\n## ")[0]
    (snippet,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    run = subprocess.run([sys.executable, "-c", snippet], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    assert "FP8 pays on this box" in run.stdout
    assert "Where the GPU's time went" in run.stdout
    assert "nothing in that text is known" not in run.stdout


def test_the_readme_explains_every_mark_and_every_rules_letters() -> None:
    marks, _, subjects = TEXT.partition("- Marks: ")[2].partition("\n")[0].partition("subject: ")
    assert all(mark in marks for mark in "✗!•?✓")
    letters = {id.rstrip("0123456789") for id in api.knowledge().rules}
    assert letters == set(re.findall(r"(?:^|, )([A-Z]{2,4})(?=[ ,])", subjects))
