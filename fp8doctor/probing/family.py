"""Which processes did a run start, and how does none of them outlive it?"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import uuid
from pathlib import Path

from fp8doctor.probing.guard import end_marked
from fp8doctor.variables import RUN_MARK

GUARD_SCRIPT = Path(__file__).with_name("guard.py")
# How long the guard is waited for when a run has ended; it looks through /proc a few times.
GUARD_S = 2.0


class Family:
    """The processes of one run; leaving this context ends them all, and so does the end of the doctor.

    Attributes:
        environment: what marks them, to be added to the environment of each child.
    """

    def __init__(self) -> None:
        self.environment = {RUN_MARK: uuid.uuid4().hex}
        self._entry = f"{RUN_MARK}={self.environment[RUN_MARK]}"
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Family:
        # Without a guard (no process or descriptor left) the run still ends its family by itself, unless it is killed.
        with contextlib.suppress(OSError):
            self._guard = subprocess.Popen(
                [sys.executable or "python3", "-I", "-S", str(GUARD_SCRIPT), self._entry],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the doctor, which then ends
            )
        return self

    def __exit__(self, *_: object) -> None:
        if not self._guard_did_it():
            end_marked(self._entry)

    def _guard_did_it(self) -> bool:
        """Let the guard end the family; False if there is none, or somebody ended it, or it is stuck."""
        if self._guard is None:
            return False
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError):
            self._guard.stdin.close()
        try:
            return self._guard.wait(timeout=GUARD_S) == 0
        except subprocess.TimeoutExpired:
            return False
