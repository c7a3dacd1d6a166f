"""What the shells themselves offer when Tab is pressed, with the script that `fp8doctor completion` prints."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fp8doctor.cli import run
from tests.command import complaint

SHELLS = [pytest.param(shell, marks=pytest.mark.skipif(not shutil.which(shell), reason=f"no {shell} here"))
          for shell in ("bash", "zsh", "fish")]  # fmt: skip


# Where keys wait to be read it would take the Tab for a character of pasted text.
ZSH = "zstyle ':completion:*' insert-tab false"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the command `fp8doctor` of this interpreter, a script for each shell, and a file to complete."""
    folder = tmp_path_factory.mktemp("shells")
    command = folder / "bin" / "fp8doctor"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m fp8doctor "$@"\n')
    command.chmod(0o755)
    for shell in ("bash", "zsh", "fish"):
        script = subprocess.run([command, "completion", shell], capture_output=True, text=True, check=True)
        (folder / f"script.{shell}").write_text(script.stdout)
    (folder / "some-report.json").touch()
    return folder


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(home), "TERM": "dumb", "LC_ALL": "C.UTF-8"}


def offered(shell: str, line: str, home: Path, environment: dict[str, str]) -> str:
    """All that the shell shows or inserts for the line when Tab is pressed."""
    if shell == "fish":  # it completes for a script, too
        program = ["fish", "--no-config", "-c", f"source script.fish; complete -C '{line}'"]
        run = subprocess.run(program, cwd=home, env=environment, capture_output=True, text=True, timeout=60)
        return run.stdout + run.stderr
    program, load = {
        "bash": (["bash", "--norc", "--noprofile", "-i"], "bind 'set show-all-if-ambiguous on'; source script.bash"),
        "zsh": (["zsh", "-f", "-i"], f"autoload -Uz compinit; compinit -u -D; {ZSH}; source script.zsh"),
    }[shell]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        program, cwd=home, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        # The prompt comes once the shell reads keys itself; it takes each when it is done with those before.
        os.write(ours, f"{load}; PS1=REA''DY\n".encode())
        shown(ours, until="READY")
        os.write(ours, f"{line}\tEND".encode())
        return shown(ours, until="END")
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def shown(terminal: int, until: str, wait_s: float = 60) -> str:
    """What appears until a text does."""
    text = ""
    started = time.monotonic()
    while until not in text and time.monotonic() - started < wait_s:
        if select.select([terminal], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):  # it ended
                text += os.read(terminal, 65536).decode(errors="replace")
    assert until in text, text
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "").replace("\x07", "")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "candidates"),
    [
        ("fp8doctor d", {"demo", "diagnose", "diff"}),
        ("fp8doctor demo --ma", {"--markdown"}),
        ("fp8doctor explain LIN00", {"LIN001", "LIN004"}),
        ("fp8doctor explain no-fp8-", {"no-fp8-hardware"}),
        ("fp8doctor --ignore CMP00", {"CMP001", "CMP002"}),
        ("fp8doctor demo h200-t", {"h200-thorough", "h200-torch-only"}),
        ("fp8doctor bench train-", {"train-454m", "train-8b"}),
        ("fp8doctor --for q", {"qwen-image"}),
        ("fp8doctor diagnose some-r", {"some-report.json"}),
        ("fp8doctor completion b", {"bash"}),
    ],
)
def test_the_shell_offers(shell: str, line: str, candidates: set[str], home: Path, environment: dict[str, str]) -> None:
    found = offered(shell, line, home, environment)
    assert {one for one in candidates if one not in found} == set(), found


@pytest.mark.parametrize("shell", SHELLS)
def test_nothing_is_offered_and_nothing_said_for_a_command_that_there_is_not(
    shell: str, home: Path, environment: dict[str, str]
) -> None:
    found = offered(shell, "fp8doctor frobnicate x", home, environment)
    assert "No such command" not in found
    assert "Traceback" not in found


def test_a_list_after_a_comma_is_completed(home: Path, environment: dict[str, str]) -> None:
    asked = {"_FP8DOCTOR_COMPLETE": "bash_complete", "COMP_WORDS": "fp8doctor --ignore LIN,CMP00", "COMP_CWORD": "2"}
    answer = subprocess.run(["fp8doctor"], env={**environment, **asked}, capture_output=True, text=True)
    assert "plain,LIN,CMP002" in answer.stdout.splitlines()
    asked["COMP_WORDS"] = "fp8doctor --ignore li"
    letters = subprocess.run(["fp8doctor"], env={**environment, **asked}, capture_output=True, text=True)
    assert letters.stdout.splitlines()[:2] == ["plain,LIB", "plain,LIN"]
    assert answer.stderr == ""


def test_another_shell_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in complaint("completion", "tcsh")
    assert run(["completion", "--help"]) == 0
    assert "fp8doctor completion fish > ~/.config/fish/completions/fp8doctor.fish" in capfd.readouterr().out
