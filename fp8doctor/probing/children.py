"""How one probe is run in a child process, and how it ended."""

from __future__ import annotations

import inspect
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fp8doctor.model import NO_END, Facts, ProbeRun, Request
from fp8doctor.plain import to_plain
from fp8doctor.probing.process import OUTPUT_TAIL_BYTES, Child
from fp8doctor.specs import Probe

MAX_RESTARTS = 20
# What is kept of a probe's time for after a step that hangs: ending a child that waits for the GPU takes seconds, and a
# fresh one must start, say which step it was, and go on.
RESERVE_S = 5.0
# A child gets this part of its probe's time at least.
LEAST_PART = 0.5
# Under this, a fresh child could say nothing.
LEAST_S = 1.0

Decode = Callable[[type[Facts], Any], Facts]


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
    prepared: Child | None = None,
    so_far: dict[str, Any] | None = None,
) -> ProbeRun[Facts]:
    """Run `probe` in a child of `interpreter` and return how it ended, with the facts as far as they came.

    A child that crashed or hung after it had reported progress is followed by a fresh one that goes on from its record.

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
        prepared: a child that was started earlier for this probe; one that did not live through its preparing is
            replaced by a fresh one.
        so_far: the record of an earlier run to go on from.
    """
    started = time.monotonic()
    notes: list[str] = []
    while True:
        spent_s = time.monotonic() - started
        asked = replace(
            request,
            seconds_left=max(0.0, request.seconds_left - spent_s),
            so_far=so_far,
            so_far_ended=notes[-1] if notes else None,
        )
        if prepared is not None and not prepared.is_alive():
            prepared.end()  # with what it started
            prepared = None
        child = prepared or start_child(probe, interpreter, importable, environment)
        prepared = None
        child.give(_task(probe, asked, runs))
        ended = child.wait(deadline_s - spent_s, cancel, stop, _patience_s(probe, deadline_s - spent_s))
        crashed = ended.outcome in ("signal", "exit", "exception", "timeout")
        progressed = ended.said.facts is not None and ended.said.facts != so_far
        so_far = ended.said.facts or so_far
        if not (crashed and progressed and len(notes) < MAX_RESTARTS and not cancel.is_set()):
            break
        if not _is_growing(probe) or deadline_s - (time.monotonic() - started) < LEAST_S:
            break
        notes.append(ended.detail or ended.outcome)
    outcome, detail = ended.outcome, ended.detail
    facts = None
    if so_far is not None:
        try:
            facts = decode(probe.facts_type, so_far)
        except ValueError as error:
            outcome, detail = "garbage", str(error)
    if outcome == "timeout" and notes:
        detail = f"{NO_END} after {deadline_s:.0f} s in all; a fresh child had gone on after: {'; '.join(notes)}"
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


def _patience_s(probe: Probe, left_s: float) -> float | None:
    """Seconds after which a child that hangs must make room for a fresh one that says so, and goes on.

    None for no such limit: a timing probe keeps its own time, a watcher is stopped.
    """
    if not _is_growing(probe) or probe.times_gpu or probe.watches:
        return None
    return max(left_s - RESERVE_S, LEAST_PART * left_s)


def _is_growing(probe: Probe) -> bool:
    return inspect.isgeneratorfunction(probe.function)


def start_child(
    probe: Probe,
    interpreter: str,
    importable: list[tuple[str, str]],
    environment: dict[str, str],
    *,
    prepare: bool = False,
) -> Child:
    """Start a child for `probe`; it waits for its task, and calls the probe's `prepare` meanwhile if asked to."""
    head = {
        "module": probe.function.__module__,
        "function": probe.function.__name__,
        "importable": importable,
        "prepare": prepare,
    }
    return Child(interpreter, head, environment)


def _task(probe: Probe, request: Request, runs: Mapping[str, ProbeRun[Facts]]) -> dict[str, Any]:
    needed = {need.key for need in probe.needs.values()}
    return {
        "request": to_plain(request),
        "facts": {key: to_plain(runs[key].facts) for key in needed if key in runs and runs[key].facts is not None},
        "runs": {key: _run_fields(runs.get(key)) for key in needed},
    }


def _run_fields(run: ProbeRun[Facts] | None) -> dict[str, Any]:
    if run is None:
        return {"outcome": "not-observed"}
    return {name: value for name, value in vars(run).items() if name != "facts"}


def importable_here(plugin_paths: Mapping[str, str]) -> list[tuple[str, str]]:
    """The modules a child gets by path: exactly this package, its subjects and the plug-ins."""
    import fp8doctor
    import fp8doctor.checks

    own = [("fp8doctor", fp8doctor.__file__), ("fp8doctor.checks", fp8doctor.checks.__file__)]
    return [(name, str(file)) for name, file in own if file] + list(plugin_paths.items())


def tool_interpreter() -> str:
    """The Python that runs this process."""
    return sys.executable or "python3"
