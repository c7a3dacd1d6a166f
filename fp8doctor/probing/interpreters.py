"""Which Python is examined, and is it one?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

MINIMUM = (3, 10)
# A virtual environment on a cold network disk starts in seconds.
ANSWER_S = 15.0
MAX_ANSWER_BYTES = 1 << 16
_STARTED = "fp8doctor: started"
_ASK = "import sys; print('%d.%d' % sys.version_info[:2])"


class NoInterpreterError(ValueError):
    """The path given is no Python that can be examined."""


@dataclass(frozen=True)
class Target:
    """The examined interpreter, and how it was chosen."""

    path: str
    chosen: str


def choose(python: str | None) -> Target:
    """Choose the interpreter to examine.

    Args:
        python: what the person named with --python, a file or an environment's folder; None to choose: the active
            virtual or conda environment when fp8doctor itself lives elsewhere, else fp8doctor's own.

    Raises:
        NoInterpreterError: if what was named is no Python, or one older than 3.10.
    """
    if python is not None:
        return Target(_checked(_file_of(python)), "--python")
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        folder = os.environ.get(variable)
        if folder and Path(folder).resolve() != Path(sys.prefix).resolve():
            candidate = Path(folder) / "bin" / "python"
            if candidate.exists():
                return Target(_checked(str(candidate)), variable)
    return Target(sys.executable or "python3", "own")


def _file_of(python: str) -> str:
    if os.sep not in python and not Path(python).exists() and (found := shutil.which(python)):
        return found  # a command, as "python3.12"
    path = Path(python).expanduser()
    if path.is_dir():
        path = path / "bin" / "python"
    # Not resolved: a virtual environment is told by the name under which its interpreter is started.
    return str(path.absolute())


def _checked(python: str) -> str:
    try:
        # Not -I, which Python 2 does not know.
        major, minor = _asked(python, "-E", "-s", "-S", "-c", _ASK).stdout.strip().split(".")
        version = (int(major), int(minor))
    except FileNotFoundError:
        raise NoInterpreterError(f"{python}: no such file") from None
    except subprocess.TimeoutExpired:
        raise NoInterpreterError(f"{python}: did not answer within {ANSWER_S:.0f} s") from None
    except (OSError, ValueError):
        raise NoInterpreterError(f"{python}: not a Python interpreter") from None
    if version < MINIMUM:
        wanted = ".".join(map(str, MINIMUM))
        raise NoInterpreterError(f"{python}: is Python {major}.{minor}; {wanted} or newer can be examined")
    _started(python)
    return python


def _started(python: str) -> None:
    """Start it as the children are, with what its site-packages run at each start (sitecustomize, .pth files)."""
    try:
        answer = _asked(python, "-c", f"print({_STARTED!r})")
    except subprocess.TimeoutExpired:
        raise NoInterpreterError(f"{python}: did not start within {ANSWER_S:.0f} s") from None
    if _STARTED not in answer.stdout:
        said = next(reversed(answer.stderr.strip().splitlines()), f"it ended with status {answer.returncode}")
        raise NoInterpreterError(f"{python}: does not start: {said[:300]}")


def _asked(python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it and wait for it alone: what its start leaves running, and holds its output, is not waited for."""
    with _in_memory() as output, _in_memory() as errors:
        done = subprocess.run(
            [python, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=errors, timeout=ANSWER_S, check=False
        )
        return subprocess.CompletedProcess(python, done.returncode, _text(output), _text(errors))


def _in_memory() -> IO[bytes]:
    return os.fdopen(os.memfd_create("fp8doctor"), "w+b")


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(MAX_ANSWER_BYTES).decode("utf-8", "replace")
