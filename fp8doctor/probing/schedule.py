"""Which probe runs when: side by side where they do not disturb one another, alone where the GPU is timed."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from fp8doctor.model import Facts, ProbeRun, Request
from fp8doctor.probing.children import Decode, importable_here, run_probe, start_child, tool_interpreter
from fp8doctor.probing.deadlines import LEAST_S, Deadlines, part_of
from fp8doctor.probing.family import Family
from fp8doctor.probing.process import Child
from fp8doctor.registry import Registry
from fp8doctor.specs import Probe


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
    # Plain records of an earlier run that probes go on from, by key.
    resume: Mapping[str, dict[str, Any]] = field(default_factory=dict)


class Schedule:
    """Runs the probes of a plan; `runs` holds how each ended, also while it is under way."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.runs: dict[str, ProbeRun[Facts]] = {}
        self.cancel = threading.Event()
        self._deadlines = Deadlines(plan.budget_s)
        self._family = Family()
        self._environment = {**plan.environment, **self._family.environment}
        self._importable = importable_here(plan.registry.plugin_paths)
        self._prepared: dict[str, Child] = {}

    def run(self) -> dict[str, ProbeRun[Facts]]:
        """Run all probes.

        Raises:
            KeyboardInterrupt: after Ctrl-C; the children are gone by then and `runs` says what was learnt.
        """
        probes = list(self.plan.registry.probes.values())
        wanted = [p for p in probes if self._unwanted(p) is None]
        for p in probes:
            if (reason := self._unwanted(p)) is not None:
                self.runs[p.key] = ProbeRun("skipped", detail=reason)
        timing = sorted((p for p in wanted if p.times_gpu), key=lambda p: (p.order, p.key))
        try:
            with self._family:
                self._prepare(wanted)
                self._run_together([p for p in wanted if not p.times_gpu and not p.watches], bool(timing))
                self._run_alone(timing, [p for p in wanted if p.watches])
                self._end_prepared()
        except KeyboardInterrupt:
            self.cancel.set()
            raise
        finally:
            for p in probes:
                self.runs.setdefault(p.key, ProbeRun("skipped", detail="interrupted before it ran"))
        return self.runs

    def _unwanted(self, probe: Probe) -> str | None:
        """Why a probe is no part of this run, None if it is."""
        request = self.plan.request
        if probe.runs_as(request.mode) is None:
            return f"not part of a {request.mode} run"
        if probe.for_workload and request.workload is None:
            return "no workload was named (--for)"
        if probe.for_pipeline and request.pipeline is None:
            return "no pipeline was named (--pipeline)"
        if probe.for_model and request.model is None:
            return "no model was named (fp8doctor model)"
        return None

    def _prepare(self, probes: list[Probe]) -> None:
        """Start the children of probes that can prepare while they wait for others."""
        for p in probes:
            if p.prepare is not None:
                # No process, thread or descriptor left: it is tried again in its turn.
                with contextlib.suppress(OSError, RuntimeError):
                    self._prepared[p.key] = start_child(
                        p, self._interpreter(p), self._importable, self._environment, prepare=True
                    )

    def _end_prepared(self) -> None:
        """End the children that prepared for a turn that never came, side by side: each may be stuck in the driver."""
        if self._prepared:
            with ThreadPoolExecutor(max_workers=len(self._prepared)) as pool:
                list(pool.map(Child.end, self._prepared.values()))

    def _interpreter(self, probe: Probe) -> str:
        return tool_interpreter() if probe.runs_in == "tool" else self.plan.target

    def _run_together(self, probes: list[Probe], timing_follows: bool) -> None:
        waiting = list(probes)
        needed = {need.key for p in probes for need in p.needs.values()}
        with ThreadPoolExecutor(max_workers=max(4, os.cpu_count() or 1)) as pool:
            running: dict[Future[ProbeRun[Facts]], Probe] = {}
            try:
                while waiting or running:
                    pending = {p.key for p in [*waiting, *running.values()]}
                    for p in [p for p in waiting if _is_ready(p, pending)]:
                        waiting.remove(p)
                        limit = partial(self._deadlines.together_s, p, p.key in needed, timing_follows)
                        running[pool.submit(self._one, p, limit)] = p
                    if not running:
                        self._skip_circle(waiting)
                        return
                    # A timeout, so that Ctrl-C reaches this thread while it waits.
                    self._settle(running, wait(running, timeout=0.1, return_when=FIRST_COMPLETED).done)
            except KeyboardInterrupt:
                self.cancel.set()
                raise
            finally:
                self._settle(running, list(running))

    def _settle(self, running: dict[Future[ProbeRun[Facts]], Probe], ended: Iterable[Future[ProbeRun[Facts]]]) -> None:
        for future in ended:
            self.runs[running[future].key] = future.result()
            del running[future]

    def _skip_circle(self, waiting: list[Probe]) -> None:
        circle = ", ".join(p.key for p in waiting)
        for p in waiting:
            self.runs[p.key] = ProbeRun("skipped", detail=f"probes that wait for one another: {circle}")

    def _run_alone(self, probes: list[Probe], watchers: list[Probe]) -> None:
        if not probes:
            for p in watchers:
                self.runs[p.key] = ProbeRun("skipped", detail="nothing was timed")
            return
        waiting = list(probes)
        stop = threading.Event()
        with ThreadPoolExecutor(max_workers=len(watchers) + 1) as pool:
            watching = {pool.submit(self._one, p, self._deadlines.watching_s, stop=stop): p for p in watchers}
            running: dict[Future[ProbeRun[Facts]], Probe] = {}
            try:
                while waiting:
                    pending = {p.key for p in waiting}
                    p = next((p for p in waiting if _is_ready(p, pending)), waiting[0])
                    waiting.remove(p)
                    if self._deadlines.left_s() < LEAST_S:
                        self.runs[p.key] = ProbeRun("skipped", detail="the time budget was spent before it")
                        continue
                    part = part_of(p, waiting)
                    limit = partial(self._deadlines.alone_s, p, part)
                    running[pool.submit(self._one, p, limit, part)] = p
                    while running:
                        self._settle(running, wait(running, timeout=0.1).done)
            except KeyboardInterrupt:
                self.cancel.set()
                raise
            finally:
                stop.set()
                for futures in (running, watching):
                    self._settle(futures, list(futures))

    def _one(
        self, probe: Probe, limit: Callable[[], float], part: float = 1.0, stop: threading.Event | None = None
    ) -> ProbeRun[Facts]:
        """Run one probe; its limit is asked for now, as it may have waited for its turn."""
        try:
            return self._missing(probe) or self._examine(probe, limit(), part, stop)
        except Exception as error:  # no process or descriptor left, say: it costs this probe, not the report
            return ProbeRun("skipped", detail=f"fp8doctor could not run it: {type(error).__name__}: {error}")

    def _examine(self, probe: Probe, deadline_s: float, part: float, stop: threading.Event | None) -> ProbeRun[Facts]:
        plan = self.plan
        may_use_s = part * self._deadlines.left_s() if probe.times_gpu else deadline_s
        plan.observe(Event("started", probe.key, probe.title))
        run = run_probe(
            probe,
            replace(
                plan.request,
                mode=probe.runs_as(plan.request.mode) or plan.request.mode,
                seconds_left=max(0.0, min(may_use_s, probe.timeout_s)),
            ),
            interpreter=self._interpreter(probe),
            importable=self._importable,
            runs=self.runs,
            environment=self._environment,
            deadline_s=deadline_s,
            decode=plan.decode,
            cancel=self.cancel,
            stop=stop,
            prepared=self._prepared.pop(probe.key, None),
            so_far=plan.resume.get(probe.key),
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


def _is_ready(probe: Probe, pending: set[str]) -> bool:
    """Whether nothing that it needs is still to come."""
    return not any(need.key in pending and need.key != probe.key for need in probe.needs.values())


def child_environment(
    cache_variables: list[str], cache_dir: str | None, own: Mapping[str, str] | None = None
) -> tuple[dict[str, str], dict[str, str | None]]:
    """The environment of children: the user's, with compile caches pointed at the doctor's own folder.

    Returns the environment, and the variables as the user had them.
    """
    environment = dict(os.environ if own is None else own)
    if "PYTHONPATH" in environment:  # an empty entry means the working directory, which is not examined
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, environment["PYTHONPATH"].split(os.pathsep)))
    replaced: dict[str, str | None] = {}
    if cache_dir is not None:
        for variable in cache_variables:
            replaced[variable] = environment.get(variable)
            environment[variable] = os.path.join(cache_dir, variable.lower())  # noqa: PTH118
    return environment, replaced
