"""What the README shows of reports is what the commands beside it print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

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
