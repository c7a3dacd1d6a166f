"""One child process: started, given its task, listened to, and ended with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from fp8doctor.model import NO_ANSWER, NO_END, ProbeOutcome

CHILD_SCRIPT = Path(__file__).with_name("child.py")
# Bounds on what a child may make us keep: one record, and the end of what it printed.
MAX_RECORD_BYTES = 32 << 20
OUTPUT_TAIL_BYTES = 16 << 10
# How long a killed child may linger (in the driver, say) before it is left behind.
KILL_GRACE_S = 2.0
# How long to read on after the end of a child, where a process that escaped it still holds its pipes.
DRAIN_S = 1.0
# A step that has taken less than this may be under way; one that has taken longer when patience ends is taken to hang.
# Importing torch and torchao took up to 5.3 s on an H200's host (benchmarks/RESULTS.md).
QUIET_S = 8.0


@dataclass
class Running:
    """What a child has said so far; shared with the threads that listen to it."""

    facts: dict[str, Any] | None = None
    # When the last record came, or the child was given its task; by time.monotonic.
    heard: float = field(default_factory=time.monotonic)
    done: bool = False
    exception: str | None = None
    garbage: str | None = None
    output: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True)
class Ended:
    """How one child ended."""

    outcome: ProbeOutcome
    detail: str | None
    said: Running


class Child:
    """A child of `interpreter` that runs one probe; what it says is heard by threads of its own."""

    def __init__(self, interpreter: str, head: dict[str, Any], environment: dict[str, str]) -> None:
        self.said = Running()
        self._failure: str | None = None
        read_end, write_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                [interpreter, str(CHILD_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(write_end,),
                env=environment,
                start_new_session=True,  # its own group, so that all it started can be ended with it
            )
        except OSError as error:
            os.close(read_end)
            self._failure = f"{interpreter} could not be started: {error}"
            return
        finally:
            os.close(write_end)
        assert self._process.stdout is not None
        self._listeners = [
            threading.Thread(target=_hear_records, args=(read_end, self.said), daemon=True),
            threading.Thread(target=_hear_output, args=(self._process.stdout, self.said), daemon=True),
        ]
        try:
            for listener in self._listeners:
                listener.start()
        except RuntimeError:  # no thread left: a child that nobody hears is none
            self._process.kill()
            self._process.wait()
            raise
        self._write({**head, "descriptor": write_end})

    def is_alive(self) -> bool:
        """Whether it runs, or waits for its task."""
        return self._failure is None and self._process.poll() is None

    def give(self, task: dict[str, Any]) -> None:
        """Tell it with what to run the probe. Written aside: a child that hangs before it reads must not hang us."""
        self.said.heard = time.monotonic()
        if self._failure is None:
            threading.Thread(target=self._write, args=(task, True), daemon=True).start()

    def _write(self, message: dict[str, Any], last: bool = False) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended; how is told by its status
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
            if last:
                self._process.stdin.close()

    def wait(
        self,
        deadline_s: float,
        cancel: threading.Event,
        stop: threading.Event | None = None,
        patience_s: float | None = None,
    ) -> Ended:
        """Wait until it ends, or end it.

        Args:
            deadline_s: seconds after which it is ended.
            cancel: it is ended once this is set, as the person interrupted the run.
            stop: likewise, and that is the good end of a watcher.
            patience_s: seconds after which it is ended if nothing was heard of it for QUIET_S; None for no such limit.
        """
        if self._failure is not None:
            return Ended("exit", self._failure, self.said)
        why = self._wait(deadline_s, cancel, stop, patience_s)
        quiet_s = time.monotonic() - self.said.heard
        status = self.end()
        return _judge(why, status, self.said, deadline_s if why == "deadline" else quiet_s)

    def _wait(
        self, deadline_s: float, cancel: threading.Event, stop: threading.Event | None, patience_s: float | None
    ) -> str:
        began = time.monotonic()
        while True:
            try:
                self._process.wait(timeout=0.02)
                return "ended"
            except subprocess.TimeoutExpired:
                pass
            if cancel.is_set():
                return "cancelled"
            if stop is not None and stop.is_set():
                return "stopped"
            now = time.monotonic()
            if now - began > deadline_s:
                return "deadline"
            if patience_s is not None and now - began > patience_s and now - self.said.heard > QUIET_S:
                return "quiet"

    def end(self) -> int | None:
        """Kill it and all that it started; its status, or None if it cannot be killed (stuck in the driver)."""
        if self._failure is not None:
            return None
        status = _end(self._process)
        until = time.monotonic() + DRAIN_S
        for listener in self._listeners:
            listener.join(timeout=max(0.0, until - time.monotonic()))
        return status


def _end(child: subprocess.Popen[bytes]) -> int | None:
    """Kill the child's whole family; return its status, or None if it cannot be killed (stuck in the driver)."""
    family: list[psutil.Process] = []
    if child.poll() is None:
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(child.pid).children(recursive=True)
        child.kill()
    with contextlib.suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
    try:
        return child.wait(timeout=KILL_GRACE_S)
    except subprocess.TimeoutExpired:
        return None


def _judge(why: str, status: int | None, said: Running, after_s: float) -> Ended:
    if why == "cancelled":
        return Ended("skipped", "interrupted", said)
    if why in ("deadline", "quiet"):
        stuck = "; it could not be killed and was left behind" if status is None else ""
        return Ended("timeout", f"{NO_END if why == 'deadline' else NO_ANSWER} after {after_s:.0f} s{stuck}", said)
    if said.garbage:
        return Ended("garbage", said.garbage, said)
    if said.done:
        return Ended("ok", None, said)
    if why == "stopped":
        seen = said.facts is not None
        return Ended("ok" if seen else "skipped", None if seen else "nothing was timed long enough to be watched", said)
    if said.exception is not None:
        return Ended("exception", said.exception, said)
    if status is not None and status < 0:
        return Ended("signal", _signal_name(-status), said)
    return Ended("exit", f"ended with status {status} before it reported", said)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _hear_records(descriptor: int, said: Running) -> None:
    with os.fdopen(descriptor, "rb") as stream:
        while line := stream.readline(MAX_RECORD_BYTES):
            if not line.endswith(b"\n"):
                said.garbage = said.garbage or (
                    f"a record longer than {MAX_RECORD_BYTES} bytes" if len(line) == MAX_RECORD_BYTES else None
                )
                break  # a line cut short by a crash: the last whole line counts
            try:
                message = json.loads(line)
                kind, value = next(iter(message.items()))
            except (ValueError, AttributeError, StopIteration, RecursionError):
                said.garbage = f"a record that is no JSON object: {line[:80]!r}"
                continue
            said.heard = time.monotonic()
            if kind == "facts":
                said.facts = value
            elif kind == "done":
                said.done = True
            elif kind == "exception":
                said.exception = str(value).encode("utf-8", "replace").decode()


def _hear_output(stream: IO[bytes], said: Running) -> None:
    with stream:
        while chunk := os.read(stream.fileno(), 65536):
            said.output += chunk
            if len(said.output) > 2 * OUTPUT_TAIL_BYTES:
                del said.output[:-OUTPUT_TAIL_BYTES]
