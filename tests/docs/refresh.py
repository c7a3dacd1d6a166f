"""Rewrites what the pages show of commands, where all that is printed is shown: python -m tests.docs.refresh.

Look at the difference afterwards. A block with lines left out is written by hand.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.snippets import LEFT_OUT, PAGES, PROMPT, ROOT, commands_of, snippets_of


def refreshed(page: str, text: str) -> str:
    """The page with what its commands print now."""
    lines = text.splitlines()
    for snippet in reversed(list(snippets_of(page, text))):
        if snippet.language != "console" or snippet.not_run:
            continue
        for command in reversed(commands_of(snippet)):
            if command.shown and LEFT_OUT not in command.shown:
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
    for file in PAGES:
        if f"```console\n{PROMPT}fp8doctor --help" in file.read_text(encoding="utf-8"):
            file.write_text(refreshed(file.name, file.read_text(encoding="utf-8")), encoding="utf-8")
