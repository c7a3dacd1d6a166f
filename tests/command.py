"""The command `fp8doctor` as tests call it: in this process, and where its own process is the point, in one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from fp8doctor import cli

Run = subprocess.CompletedProcess[str]
HAS_GPU = Path("/proc/driver/nvidia/version").exists()
without_gpu = pytest.mark.skipif(HAS_GPU, reason="says what a machine without a GPU is told")


def called(*arguments: str, text: str | bytes = b"", **environment: str) -> Run:
    """Call the command in this process: an interpreter takes longer to start than most commands to run."""
    given, out, error = _stream(text.encode() if isinstance(text, str) else text), _stream(), _stream()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.setattr(sys, "stdin", given)
        for name, value in environment.items():
            patch.setenv(name, value)
        status = cli.run(arguments)
    return Run(arguments, status, _written(out), _written(error))


def process(*arguments: str, text: str | None = None, **environment: str) -> Run:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fp8doctor", *arguments],
        input=text,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=100,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
    )


def complaint(*arguments: str, text: str | bytes = b"") -> str:
    """The one line that the command ends with, and nothing else it says."""
    run = called(*arguments, text=text)
    assert (run.returncode, run.stdout) == (2, ""), run.stderr
    assert run.stderr.startswith("fp8doctor: ")
    assert len(run.stderr.splitlines()) == 1, run.stderr
    return run.stderr


def _stream(data: bytes = b"") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", write_through=True)


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()
