"""Rewrites what docs/commands.md shows of each --help: python -m tests.docs.refresh; look at the difference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.snippets import ROOT, commands_of, snippets_of

PAGE = ROOT / "docs" / "commands.md"


def refreshed(page: str, text: str) -> str:
    """The page with what its commands print now."""
    lines = text.splitlines()
    for snippet in reversed(list(snippets_of(page, text))):
        for command in reversed(commands_of(snippet)):
            lines[command.line : command.line + len(command.shown)] = printed(command.text)
    return "\n".join(lines) + "\n"


def printed(command: str) -> list[str]:
    """What a command prints in a terminal of 80 columns."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PATH": path, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"},
    )
    return [line.rstrip() for line in ended.stdout.splitlines()]


if __name__ == "__main__":
    PAGE.write_text(refreshed(PAGE.name, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
