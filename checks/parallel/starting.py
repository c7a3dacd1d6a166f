"""One worker process for each GPU: how are they started, asked, and ended whatever they do?

Only the standard library is used; the workers import torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import fp8doctor
import fp8doctor.checks
from fp8doctor.checks.parallel.plan import Case, Sizes

# The doctor's two packages are given by their files, so that nothing that lies beside them is seen in the worker.
_BOOT = """
import importlib.util, os, sys
sys.path[:] = {path!r}
for name, file in {packages!r}:
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[os.path.dirname(file)])
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
from fp8doctor.checks.parallel import worker
worker.main()
"""
# Where one worker has said that it failed, or ended, the others may wait for it for ever.
GRACE_S = 5.0
ENDS_S = 5.0
# An answer is a few hundred bytes; one of this size is none.
LONGEST_ANSWER = 1 << 20
Answer = dict[str, Any]


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    answers: int
    errors: Path
    received: bytes = b""

    def ended(self) -> str:
        """How it ended, and the last line that it printed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)
        code = self.process.poll()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit {code}"
        with self.errors.open("rb") as file:
            file.seek(max(0, self.errors.stat().st_size - 4000))
            lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return f"{how}: {lines[-1].strip()[:250]}" if lines else how


@dataclass
class Crew:
    """The workers of so many GPUs. Each has an end that is certain: `end` kills what is left."""

    gpus: int
    sizes: Sizes
    _workers: list[_Worker] = field(default_factory=list)
    _folder: tempfile.TemporaryDirectory[str] = field(default_factory=lambda: tempfile.TemporaryDirectory())
    _groups: int = 0
    _members: int = 0

    def start(self, limit_s: float) -> list[Answer | None]:
        """Start all; what each said when it was ready, None of one that said nothing in time."""
        boot = _BOOT.format(
            path=[entry for entry in sys.path if entry],
            packages=[(module.__name__, module.__file__) for module in (fp8doctor, fp8doctor.checks)],
        )
        for rank in range(self.gpus):
            ours, theirs = os.pipe()
            errors = Path(self._folder.name) / f"stderr-{rank}"
            told = json.dumps({"rank": rank, "answers": theirs, "sizes": asdict(self.sizes)})
            with errors.open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, "-c", boot, told],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=file,
                    pass_fds=(theirs,),
                )
            os.close(theirs)
            os.set_blocking(ours, False)
            self._workers.append(_Worker(process, ours, errors))
        return self._gather(self._workers, limit_s)

    def ask(self, case: Case, limit_s: float) -> list[Answer | None]:
        """Have the first `case.gpus` workers do a case together; what each worker answered, None of a silent one.

        The others are told too: a group is left by all its members at once, or NCCL waits for those that stay
        (ncclCommDestroy, "an intra-node collective call").
        """
        if case.gpus != self._members:  # a file in which a group has met once is not met in again
            self._members, self._groups = case.gpus, self._groups + 1
        store = Path(self._folder.name) / f"group-{self._groups}"
        line = json.dumps({"case": asdict(case), "store": str(store)}).encode() + b"\n"
        for worker in self._workers:
            with contextlib.suppress(BrokenPipeError):  # its end is seen where its answer is read
                pipe: IO[bytes] | None = worker.process.stdin
                if pipe is not None:
                    pipe.write(line)
                    pipe.flush()
        return self._gather(self._workers, limit_s)

    def end(self) -> None:
        """Kill all workers, and remove what they wrote."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            with contextlib.suppress(subprocess.TimeoutExpired):  # a driver that hangs holds even what was killed
                worker.process.wait(ENDS_S)
            os.close(worker.answers)
            if worker.process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    worker.process.stdin.close()
        self._workers.clear()
        self._folder.cleanup()

    def _gather(self, workers: list[_Worker], limit_s: float) -> list[Answer | None]:
        """One answer of each, until all are there or the time is over."""
        found: list[Answer | None] = [None] * len(workers)
        deadline = time.monotonic() + limit_s
        with selectors.DefaultSelector() as selector:
            for place, worker in enumerate(workers):
                selector.register(worker.answers, selectors.EVENT_READ, place)
            while None in found and (left_s := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left_s):
                    answer = _read(workers[key.data])
                    if answer is None:
                        continue
                    found[key.data] = answer
                    selector.unregister(key.fileobj)
                    if answer.get("outcome") != "ok":
                        deadline = min(deadline, time.monotonic() + GRACE_S)
        return found


def _read(worker: _Worker) -> Answer | None:
    """The answer as soon as it is whole; of a worker that is gone, how it ended."""
    try:
        data = os.read(worker.answers, 65536)
    except BlockingIOError:
        return None
    worker.received += data
    line, newline, rest = worker.received.partition(b"\n")
    if newline:
        worker.received = rest
        with contextlib.suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict):
                return answer
        return {"outcome": "crashed", "error": "the worker's answer was none"}
    if not data or len(worker.received) > LONGEST_ANSWER:
        return {"outcome": "crashed", "error": worker.ended()}
    return None


def is_sound(answers: list[Answer | None]) -> bool:
    """Whether the workers can be asked again: all did the case, or all failed alike, at the same place.

    Otherwise some may be further than others in the operations that they do together.
    """
    told = {(answer.get("outcome"), answer.get("error")) if answer is not None else None for answer in answers}
    outcomes = {pair[0] for pair in told if pair is not None}
    return (outcomes == {"ok"} and None not in told) or (len(told) == 1 and outcomes <= {"refused", "error"})


def together(answers: list[Answer | None]) -> Answer:
    """What came of a case: the first rank's figures where all went well, otherwise what went wrong, and on which GPU.

    A worker that said why it failed, or that ended, counts before those that then waited for it.
    """
    for wanted in ("crashed", None):
        for rank, answer in enumerate(answers):
            if answer is not None and answer.get("outcome") != "ok" and wanted in (None, answer.get("outcome")):
                words = str(answer.get("error") or "it did not say why")
                return {"outcome": str(answer.get("outcome")), "error": f"GPU {rank}: {words}"[:300]}
    silent = [str(rank) for rank, answer in enumerate(answers) if answer is None]
    if silent:
        return {"outcome": "hung", "error": f"no answer from GPU {', '.join(silent)}"}
    return dict(answers[0] or {})
