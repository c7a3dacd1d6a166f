"""Measures every GPU of a box: all at once, then one after the other, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from queue import Empty, Queue
from typing import Any

from fp8doctor.checks.each_gpu.facts import EachGpu, Link, OneGpu, Rates
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.model import Request
from fp8doctor.plain import from_plain
from fp8doctor.registry import probe

# Torch and a CUDA context, for all processes at once on a busy host; what one measurement and all links may take.
START_S, MEASURE_S, LINKS_S = 45.0, 12.0, 15.0
# What a measurement takes where nothing is wrong, to know whether the next one still fits.
USUAL_S = 3.0
# The part of a default run that may go into the box as a whole; a fleet's run and a thorough one are about it.
PART = {"default": 0.4, "thorough": 0.4, "fleet": 0.6}
RESERVE_S = 1.5
END_S = 2.0
_WORKER = "import sys; sys.path[:] = {path!r}; from fp8doctor.checks.each_gpu import worker; worker.main()"


@probe(
    runs_in="target",
    timeout_s=300,
    times_gpu=True,
    # First, and bounded by itself: on a box with one GPU it takes nothing away from what is measured after it.
    order=1,
    share=1000.0,
    modes=("default", "thorough", "fleet"),
)
def gather(request: Request, torch_build: TorchBuild | None) -> Iterator[EachGpu]:
    """Timing every GPU of this box, together and one after the other."""
    devices = (torch_build.devices if torch_build else None) or ()
    if len(devices) < 2:
        why = "there is one GPU" if devices else "torch sees no GPU"
        yield EachGpu(measurable=False, why_not=why)
        return
    yield from Box([device.index or 0 for device in devices], request).records()


class Box:
    """The GPUs under way, and what is left of the time."""

    def __init__(self, indices: list[int], request: Request, command: list[str] | None = None) -> None:
        self.began = time.monotonic()
        self.request = request
        self.workers = [Worker(index, request.epoch_s, command) for index in indices]
        self.gpus = {index: OneGpu(index=index) for index in indices}
        self.links: tuple[Link, ...] | None = None
        self.not_measured: list[str] = []

    def left_s(self) -> float:
        """Seconds that may still be used."""
        mine_s = PART.get(self.request.mode, 1.0) * self.request.seconds_left
        return mine_s - RESERVE_S - (time.monotonic() - self.began)

    def records(self) -> Iterator[EachGpu]:
        """The growing record."""
        try:
            self._begin()
            yield self.now()
            self._together()
            yield self.now()
            for worker in self._running():
                if self.left_s() < USUAL_S:
                    self.not_measured.append(f"GPU {worker.index} alone: the time budget was spent")
                    continue
                self._take(worker, "alone", worker.ask("measure", min(MEASURE_S, self.left_s())))
                yield self.now()
            self._links()
        finally:
            for worker in self.workers:
                worker.end()
        yield self.now()

    def now(self) -> EachGpu:
        """The record as it stands."""
        return EachGpu(
            measurable=True,
            gpus=tuple(self.gpus.values()),
            links=self.links,
            not_measured=tuple(self.not_measured),
            took_s=round(time.monotonic() - self.began, 2),
        )

    def _running(self) -> list[Worker]:
        return [worker for worker in self.workers if self.gpus[worker.index].error is None]

    def _begin(self) -> None:
        until = time.monotonic() + min(START_S, self.left_s())
        for worker in self.workers:
            said = worker.answer(until - time.monotonic())
            if (error := said.get("error")) is not None:
                self._failed(worker, error)
            else:
                known = {name: said.get(name) for name in ("name", "compute_capability", "fingerprint")}
                self.gpus[worker.index] = replace(self.gpus[worker.index], **known)

    def _together(self) -> None:
        running = self._running()
        if self.left_s() < USUAL_S:
            self.not_measured.append("all GPUs at once: the time budget was spent")
            return
        for worker in running:
            worker.request("measure")
        until = time.monotonic() + min(MEASURE_S, self.left_s())
        for worker in running:
            self._take(worker, "together", worker.answer(until - time.monotonic()))

    def _links(self) -> None:
        running = self._running()
        if len(running) < len(self.workers):
            self.not_measured.append("links: not every GPU answered")
        elif self.left_s() < USUAL_S:
            self.not_measured.append("links: the time budget was spent")
        else:
            said = running[0].ask("links", min(LINKS_S, self.left_s()))
            if (error := said.get("error")) is not None:
                self.not_measured.append(f"links: {error}")
            else:
                self.links = tuple(from_plain(Link, link) for link in said["links"])

    def _take(self, worker: Worker, how: str, said: dict[str, Any]) -> None:
        if (error := said.get("error")) is not None:
            self._failed(worker, error)
        else:
            rates, before = from_plain(Rates, said), self.gpus[worker.index]
            self.gpus[worker.index] = (
                replace(before, alone=rates) if how == "alone" else replace(before, together=rates)
            )

    def _failed(self, worker: Worker, error: str) -> None:
        self.gpus[worker.index] = replace(self.gpus[worker.index], error=error)
        worker.end()


class Worker:
    """The process of one GPU, spoken to in lines of JSON. It is heard by a thread, so that waiting has an end."""

    def __init__(self, index: int, epoch_s: float, command: list[str] | None = None) -> None:
        self.index = index
        program = command or [sys.executable, "-c", _WORKER.format(path=sys.path)]
        self._process = subprocess.Popen(
            [*program, str(index), repr(epoch_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._said: Queue[str | None] = Queue()
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(line)
        self._said.put(None)

    def request(self, what: str) -> None:
        """Ask for something, without waiting for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": what}) + "\n")
            self._process.stdin.flush()
        except OSError:  # it ended; its answer says so
            return

    def answer(self, within_s: float) -> dict[str, Any]:
        """What it says next; {"error": ...} if it ended, did not answer in time, or said what is none."""
        try:
            line = self._said.get(timeout=max(within_s, 0.01))
        except Empty:
            return {"error": f"no answer after {max(within_s, 0.0):.0f} s"}
        if line is None:
            try:
                return {"error": f"its process ended ({_how(self._process.wait(timeout=END_S))})"}
            except subprocess.TimeoutExpired:  # held by the driver, say
                return {"error": "its process said no more, and does not end"}
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        return said if isinstance(said, dict) else {"error": "its process gave no answer that can be read"}

    def ask(self, what: str, within_s: float) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self.request(what)
        return self.answer(within_s)

    def end(self) -> None:
        """End the process, if need be by force; one that the driver holds is left to the guard."""
        try:
            self._process.kill()
            self._process.wait(timeout=END_S)
        except (OSError, subprocess.TimeoutExpired):
            return


def _how(status: int) -> str:
    import signal

    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
