"""How one probe is run in a child process, and how it ended."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import psutil

from fp8doctor.model import Facts, ProbeOutcome, ProbeRun, Request
from fp8doctor.plain import to_plain
from fp8doctor.registry import Probe

CHILD_SCRIPT = Path(__file__).with_name("child.py")
MAX_RESTARTS = 6
# Bounds on what a child may make us keep: one record, and the end of what it printed.
MAX_RECORD_BYTES = 32 << 20
OUTPUT_TAIL_BYTES = 16 << 10
# How long a killed child may linger (in the driver, say) before it is left behind.
KILL_GRACE_S = 3.0
# How long to read on after the end of a child, where a process that escaped it still holds its pipes.
DRAIN_S = 2.0

Decode = Callable[[type[Facts], Any], Facts]


@dataclass
class Running:
    """What a child has said so far; shared with the threads that listen to it."""

    facts: dict[str, Any] | None = None
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


def run_probe(
    probe: Probe,
    request: Request,
    *,
    interpreter: str,
    importable: list[tuple[str, str]],
    runs: Mapping[str, ProbeRun[Facts]],
    environment: dict[str, str],
    deadline_s: float,
    decode: Decode,
    cancel: threading.Event,
    stop: threading.Event | None = None,
) -> ProbeRun[Facts]:
    """Run `probe` in a child of `interpreter` and return how it ended, with the facts as far as they came.

    A child that a crash ended after it had reported progress is followed by a fresh one that goes on from its record.

    Args:
        probe: the probe.
        request: what the probe is asked; `so_far` is filled in for restarts.
        interpreter: path of the Python that runs the child.
        importable: modules to make importable in the child, (name, file).
        runs: how the probes it needs ended.
        environment: the child's whole environment.
        deadline_s: seconds for all its children together.
        decode: turns the plain record into facts; raises ValueError for garbage.
        cancel: set when the person pressed Ctrl-C.
        stop: set when a watching probe shall end; ending it is no failure then.
    """
    started = time.monotonic()
    so_far: dict[str, Any] | None = None
    notes: list[str] = []
    while True:
        spent_s = time.monotonic() - started
        asked = replace(
            request,
            seconds_left=max(0.0, request.seconds_left - spent_s),
            so_far=so_far,
            so_far_ended=notes[-1] if notes else None,
        )
        task = _task(probe, asked, importable, runs)
        ended = _run_child(task, interpreter, environment, deadline_s - spent_s, cancel, stop)
        crashed = ended.outcome in ("signal", "exit", "exception")
        progressed = ended.said.facts is not None and ended.said.facts != so_far
        so_far = ended.said.facts or so_far
        if not (crashed and progressed and len(notes) < MAX_RESTARTS and not cancel.is_set()):
            break
        if not _is_growing(probe) or deadline_s - (time.monotonic() - started) < 2:
            break
        notes.append(ended.detail or ended.outcome)
    outcome, detail = ended.outcome, ended.detail
    facts = None
    if so_far is not None:
        try:
            facts = decode(probe.facts_type, so_far)
        except ValueError as error:
            outcome, detail = "garbage", str(error)
    if outcome == "ok" and notes:
        detail = f"went on in a fresh child after: {'; '.join(notes)}"
    tail = bytes(ended.said.output[-OUTPUT_TAIL_BYTES:]).decode("utf-8", "replace").strip()
    return ProbeRun(
        outcome=outcome,
        facts=facts,
        detail=detail,
        stderr_tail=tail or None,
        elapsed_ms=round((time.monotonic() - started) * 1000, 1),
        interpreter=interpreter,
    )


def _is_growing(probe: Probe) -> bool:
    return inspect.isgeneratorfunction(probe.function)


def _task(
    probe: Probe, request: Request, importable: list[tuple[str, str]], runs: Mapping[str, ProbeRun[Facts]]
) -> dict[str, Any]:
    needed = {need.key for need in probe.needs.values()}
    return {
        "module": probe.function.__module__,
        "function": probe.function.__name__,
        "importable": importable,
        "request": to_plain(request),
        "facts": {key: to_plain(runs[key].facts) for key in needed if key in runs and runs[key].facts is not None},
        "runs": {key: _run_fields(runs.get(key)) for key in needed},
    }


def _run_fields(run: ProbeRun[Facts] | None) -> dict[str, Any]:
    if run is None:
        return {"outcome": "not-observed"}
    return {name: value for name, value in vars(run).items() if name != "facts"}


def _run_child(
    task: dict[str, Any],
    interpreter: str,
    environment: dict[str, str],
    deadline_s: float,
    cancel: threading.Event,
    stop: threading.Event | None,
) -> Ended:
    said = Running()
    read_end, write_end = os.pipe()
    task["descriptor"] = write_end
    with tempfile.TemporaryFile() if not hasattr(os, "memfd_create") else _memory_file() as source:
        source.write(json.dumps(task).encode())
        source.seek(0)
        try:
            child = subprocess.Popen(
                [interpreter, str(CHILD_SCRIPT)],
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(write_end,),
                env=environment,
                start_new_session=True,  # its own group, so that all it started can be ended with it
            )
        except OSError as error:
            os.close(read_end)
            os.close(write_end)
            return Ended("exit", f"{interpreter} could not be started: {error}", said)
    os.close(write_end)
    assert child.stdout is not None
    listeners = [
        threading.Thread(target=_hear_records, args=(read_end, said), daemon=True),
        threading.Thread(target=_hear_output, args=(child.stdout, said), daemon=True),
    ]
    for listener in listeners:
        listener.start()
    why = _wait(child, deadline_s, cancel, stop)
    status = _end(child)
    for listener in listeners:
        listener.join(timeout=DRAIN_S)
    return _judge(why, status, said, deadline_s)


def _memory_file() -> IO[bytes]:
    return os.fdopen(os.memfd_create("fp8doctor-task"), "w+b")


def _wait(
    child: subprocess.Popen[bytes], deadline_s: float, cancel: threading.Event, stop: threading.Event | None
) -> str:
    until = time.monotonic() + deadline_s
    while True:
        try:
            child.wait(timeout=0.02)
            return "ended"
        except subprocess.TimeoutExpired:
            pass
        if cancel.is_set():
            return "cancelled"
        if stop is not None and stop.is_set():
            return "stopped"
        if time.monotonic() > until:
            return "deadline"


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


def _judge(why: str, status: int | None, said: Running, deadline_s: float) -> Ended:
    if why == "cancelled":
        return Ended("skipped", "interrupted", said)
    if why == "deadline":
        stuck = "; it could not be killed and was left behind" if status is None else ""
        return Ended("timeout", f"no end after {deadline_s:.0f} s{stuck}", said)
    if said.garbage:
        return Ended("garbage", said.garbage, said)
    if said.done:
        return Ended("ok", None, said)
    if why == "stopped":
        seen = said.facts is not None
        return Ended("ok" if seen else "skipped", None if seen else "stopped before its first record", said)
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


def importable_here(plugin_paths: Mapping[str, str]) -> list[tuple[str, str]]:
    """The modules a child gets by path: exactly this package, its subjects and the plug-ins."""
    import fp8doctor
    import fp8doctor.checks

    own = [("fp8doctor", fp8doctor.__file__), ("fp8doctor.checks", fp8doctor.checks.__file__)]
    return [(name, str(file)) for name, file in own if file] + list(plugin_paths.items())


def tool_interpreter() -> str:
    """The Python that runs this process."""
    return sys.executable or "python3"
