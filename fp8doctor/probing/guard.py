"""Who ends what a run started if the doctor itself is killed?

Run as a script with the standard library alone. It waits until its standard input is closed, as the end of the doctor
does however it comes, and then ends every process that bears the mark of the run in its environment: also a
daemon that left its parent, its session and its process group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# One that is being started when it is looked for may start another: looked again until none is found.
_ROUNDS = 5


def end_marked(entry: str) -> None:
    """Kill every process of this user in whose environment `entry` ("NAME=value") stands, but this one."""
    for _ in range(_ROUNDS):
        found = list(_marked(entry.encode()))
        if not found:
            return
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _marked(entry: bytes) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):  # no /proc
        since = _started(Path("/proc/self"))
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != os.getpid():
                # Another user's, or gone; of one that has ended it is empty. What started before this process cannot
                # be of the run, and is not read: the environment of one that is stuck in the kernel can block.
                with contextlib.suppress(OSError, ValueError):
                    if _started(folder) >= since and entry in (folder / "environ").read_bytes().split(b"\0"):
                        yield int(folder.name)


def _started(folder: Path) -> int:
    """When a process started, in ticks since the machine did (field 22 of proc(5), counted after the name)."""
    return int((folder / "stat").read_bytes().rpartition(b")")[2].split()[19])


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_marked(sys.argv[1])
