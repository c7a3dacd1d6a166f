"""Which probe runs when: side by side where they do not disturb one another, alone where the GPU is timed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Literal

from fp8doctor.model import Facts, ProbeRun, Request
from fp8doctor.probing.children import Decode, importable_here, run_probe, tool_interpreter
from fp8doctor.registry import Probe, Registry

# A timing probe gets this much over the time it was told, to end by itself.
OVERTIME_S = 10.0
# Under this, starting another timing probe would tell nothing: importing torch alone takes as long.
LEAST_S = 6.0


@dataclass(frozen=True)
class Event:
    """Something happened that a person may want to see while waiting."""

    kind: Literal["started", "ended"]
    key: str
    title: str
    outcome: str | None = None


@dataclass(frozen=True)
class Plan:
    """One run: what to examine, with what, for how long."""

    registry: Registry
    request: Request
    target: str
    budget_s: float
    environment: dict[str, str]
    decode: Decode
    observe: Callable[[Event], None] = lambda event: None


class Schedule:
    """Runs the probes of a plan; `runs` holds how each ended, also while it is under way."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.runs: dict[str, ProbeRun[Facts]] = {}
        self.cancel = threading.Event()
        self._started = time.monotonic()
        self._importable = importable_here(plan.registry.plugin_paths)

    def run(self) -> dict[str, ProbeRun[Facts]]:
        """Run all probes.

        Raises:
            KeyboardInterrupt: after Ctrl-C; the children are gone by then and `runs` says what was learnt.
        """
        probes = list(self.plan.registry.probes.values())
        wanted = [p for p in probes if self.plan.request.mode in p.modes]
        for p in probes:
            if p not in wanted:
                self.runs[p.key] = ProbeRun("skipped", detail=f"not part of a {self.plan.request.mode} run")
        try:
            self._run_together([p for p in wanted if not p.times_gpu and not p.watches])
            self._run_alone(
                sorted((p for p in wanted if p.times_gpu), key=lambda p: (p.order, p.key)),
                [p for p in wanted if p.watches],
            )
        except KeyboardInterrupt:
            self.cancel.set()
            raise
        finally:
            for p in probes:
                self.runs.setdefault(p.key, ProbeRun("skipped", detail="interrupted before it ran"))
        return self.runs

    def _left_s(self) -> float:
        return self.plan.budget_s - (time.monotonic() - self._started)

    def _run_together(self, probes: list[Probe]) -> None:
        waiting = list(probes)
        with ThreadPoolExecutor(max_workers=max(4, os.cpu_count() or 1)) as pool:
            running: dict[Future[ProbeRun[Facts]], Probe] = {}
            try:
                while waiting or running:
                    for p in [p for p in waiting if self._ready(p, waiting, list(running.values()))]:
                        waiting.remove(p)
                        running[pool.submit(self._one, p)] = p
                    # A timeout, so that Ctrl-C reaches this thread while it waits.
                    done, _ = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
                    for future in done:
                        self.runs[running.pop(future).key] = future.result()
            except KeyboardInterrupt:
                self.cancel.set()
                for future, p in running.items():
                    self.runs[p.key] = future.result()
                raise

    def _ready(self, probe: Probe, waiting: list[Probe], running: list[Probe]) -> bool:
        pending = {p.key for p in waiting + running}
        return not any(need.key in pending and need.key != probe.key for need in probe.needs.values())

    def _run_alone(self, probes: list[Probe], watchers: list[Probe]) -> None:
        if not probes:
            for p in watchers:
                self.runs[p.key] = ProbeRun("skipped", detail="nothing was timed")
            return
        stop = threading.Event()
        with ThreadPoolExecutor(max_workers=len(watchers) + 1) as pool:
            watching = {pool.submit(self._one, p, stop): p for p in watchers}
            try:
                for p in probes:
                    if self._left_s() < LEAST_S:
                        self.runs[p.key] = ProbeRun("skipped", detail="the time budget was spent before it")
                        continue
                    future = pool.submit(self._one, p)
                    while not wait([future], timeout=0.1).done:
                        pass
                    self.runs[p.key] = future.result()
            except KeyboardInterrupt:
                self.cancel.set()
                self.runs[p.key] = future.result()
                raise
            finally:
                stop.set()
                for future, p in watching.items():
                    self.runs[p.key] = future.result()

    def _one(self, probe: Probe, stop: threading.Event | None = None) -> ProbeRun[Facts]:
        if (missing := self._missing(probe)) is not None:
            return missing
        plan = self.plan
        deadline_s = probe.timeout_s
        if probe.times_gpu:
            deadline_s = min(deadline_s, self._left_s() + OVERTIME_S)
        if probe.watches:
            deadline_s = self._left_s() + 2 * OVERTIME_S
        plan.observe(Event("started", probe.key, probe.title))
        run = run_probe(
            probe,
            replace(plan.request, seconds_left=max(0.0, min(self._left_s(), probe.timeout_s))),
            interpreter=tool_interpreter() if probe.runs_in == "tool" else plan.target,
            importable=self._importable,
            runs=self.runs,
            environment=plan.environment,
            deadline_s=deadline_s,
            decode=plan.decode,
            cancel=self.cancel,
            stop=stop,
        )
        plan.observe(Event("ended", probe.key, probe.title, run.outcome))
        return run

    def _missing(self, probe: Probe) -> ProbeRun[Facts] | None:
        for need in probe.needs.values():
            run = self.runs.get(need.key)
            if need.kind == "required" and (run is None or run.facts is None):
                how = "is not known" if run is None else f"ended as {run.outcome}"
                return ProbeRun("skipped", detail=f"it needs {need.key}, which {how}")
        return None


def child_environment(
    cache_variables: list[str], cache_dir: str | None, own: Mapping[str, str] | None = None
) -> tuple[dict[str, str], dict[str, str | None]]:
    """The environment of children: the user's, with compile caches pointed at the doctor's own folder.

    Returns the environment, and the variables as the user had them.
    """
    environment = dict(os.environ if own is None else own)
    replaced: dict[str, str | None] = {}
    if cache_dir is not None:
        for variable in cache_variables:
            replaced[variable] = environment.get(variable)
            environment[variable] = os.path.join(cache_dir, variable.lower())  # noqa: PTH118
    return environment, replaced
