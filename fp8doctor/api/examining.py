"""What is this box like? The probes are run, and what they saw is judged."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fp8doctor import store
from fp8doctor.api.assembling import knowledge, live_report
from fp8doctor.judging.report import Report, Source
from fp8doctor.judging.silencing import EVERYTHING, Selection
from fp8doctor.model import Facts, Mode, ProbeRun, Request, Shape
from fp8doctor.observed import Model
from fp8doctor.observing.recorded import without_profiler
from fp8doctor.plain import to_plain
from fp8doctor.registry import Registry
from fp8doctor.traced import Trace

if TYPE_CHECKING:
    from fp8doctor.probing.schedule import Event

F = TypeVar("F", bound=Facts)
# The longest a default run takes; --thorough has minutes (design: "a time budget rules the whole run").
BUDGET_S: dict[str, float] = {"quick": 20.0, "default": 60.0, "thorough": 600.0, "bench": 1200.0, "fleet": 110.0}
# What part of the budget is kept for starting, judging and printing.
RESERVE_S = 3.0


@dataclass(frozen=True)
class Options:
    """What a person can ask of an examination."""

    mode: Mode = "default"
    budget_s: float | None = None
    python: str | None = None
    gpu: int = 0
    shapes: tuple[Shape, ...] = ()
    workload: str | None = None
    keep_cache: bool = True
    # Of mode "bench": as in `fp8doctor.model.Request`.
    rungs: tuple[str, ...] = ()
    full: bool = False
    hit_rate: float | None = None
    pipeline: str | None = None
    prompt: str | None = None
    steps: int | None = None
    output_dir: str | None = None
    # As in `fp8doctor.model.Request`.
    model: str | None = None
    model_inputs: tuple[str, ...] = ()
    check_plan: bool = False
    # A facts file or report of an earlier run whose finished rungs are kept.
    resume: Path | None = None
    # Which findings are told.
    selection: Selection = EVERYTHING


class InterruptedExaminationError(Exception):
    """Ctrl-C ended an examination; `report` says what was learnt until then."""

    def __init__(self, report: Report) -> None:
        super().__init__("interrupted")
        self.report = report


class CannotExamineError(Exception):
    """This system is none that can be examined; `report` says what was not looked at."""

    def __init__(self, system: str, report: Report) -> None:
        super().__init__(f"Linux and WSL can be examined, {system} cannot; `fp8doctor diagnose FILE` works here")
        self.report = report


def examine(options: Options | None = None, observe: Callable[[Event], None] = lambda event: None) -> Report:
    """Examine this box and judge it: the same as the command `fp8doctor`.

    Args:
        options: what to examine, and for how long.
        observe: called when a probe starts or ends, possibly from another thread.

    Raises:
        fp8doctor.probing.interpreters.NoInterpreterError: if the Python named is none.
        InterruptedExaminationError: after Ctrl-C, with the report of what was learnt.
        CannotExamineError: on a system other than Linux (WSL is one).
        fp8doctor.store.NotAFactsFileError: if `options.resume` is none.
    """
    options = options or Options()
    registry = knowledge()
    if sys.platform != "linux":
        why = f"{platform.system()} is not examined, only Linux and WSL"
        nothing: dict[str, ProbeRun[Facts]] = {key: ProbeRun("skipped", detail=why) for key in registry.probes}
        raise CannotExamineError(platform.system(), live_report(registry, nothing, 0.0, "live", options.selection))
    # Here, because judging saved facts needs none of it.
    from fp8doctor.probing import interpreters
    from fp8doctor.probing.cache import cache_folder
    from fp8doctor.probing.schedule import Plan, Schedule, child_environment

    target = interpreters.choose(options.python)
    resume = _to_resume(options.resume, registry) if options.resume else {}
    started = time.monotonic()
    # Only where it is written to: a box without a folder for temporary files can be examined.
    traced = tempfile.TemporaryDirectory(prefix="fp8doctor-") if options.model else contextlib.nullcontext("")
    with cache_folder(options.keep_cache) as cache_dir, traced as scratch:
        environment, replaced = child_environment(registry.cache_variables, cache_dir)
        request = Request(
            mode=options.mode,
            gpu=options.gpu,
            shapes=options.shapes,
            workload=options.workload,
            rungs=options.rungs,
            full=options.full,
            hit_rate=options.hit_rate,
            pipeline=options.pipeline,
            prompt=options.prompt,
            steps=options.steps,
            output_dir=options.output_dir,
            model=options.model,
            model_inputs=options.model_inputs,
            check_plan=options.check_plan,
            model_folder=str(Path.cwd()) if options.model else None,
            trace_file=str(Path(scratch) / "trace.json") if options.model else None,
            epoch_s=started,
            cache_dir=cache_dir,
            replaced_environment=replaced,
        )
        budget_s = (options.budget_s or BUDGET_S[options.mode]) - RESERVE_S
        plan = Plan(registry, request, target.path, budget_s, environment, store.decode_facts, observe, resume)
        schedule = Schedule(plan)
        try:
            runs = schedule.run()
        except KeyboardInterrupt:
            elapsed_s = time.monotonic() - started
            report = live_report(registry, schedule.runs, elapsed_s, "live", options.selection)
            raise InterruptedExaminationError(_marked_interrupted(report)) from None
        if request.trace_file is not None:
            runs = {**runs, **_recorded(Path(request.trace_file), registry, runs.get(Model.key))}
    source: Source = "live" if options.model is None else "model"
    return live_report(registry, runs, time.monotonic() - started, source, options.selection)


def look(facts_type: type[F]) -> F | None:
    """Run the one probe of these facts by itself, as an examination does; None if it saw nothing."""
    from fp8doctor.probing.schedule import Plan, Schedule, child_environment

    registry = knowledge()
    if sys.platform != "linux":
        return None
    key = facts_type.key
    alone = dataclasses.replace(registry, probes={key: registry.probes[key]})
    environment, _ = child_environment([], None)
    plan = Plan(alone, Request(), sys.executable, BUDGET_S["quick"], environment, store.decode_facts)
    facts = Schedule(plan).run()[key].facts
    return facts if isinstance(facts, facts_type) else None


def _recorded(file: Path, registry: Registry, looked: ProbeRun[Facts] | None) -> dict[str, ProbeRun[Facts]]:
    """What a profiler wrote in a child, added up here with the model's clock; nothing if it wrote nothing."""
    from fp8doctor.reading.trace import NotATraceError, add_up

    if not file.exists():
        return {}
    try:
        trace = add_up([file], registry.kernels)
    except NotATraceError as error:
        return {Trace.key: ProbeRun("garbage", detail=str(error))}
    model = looked.facts if looked is not None and isinstance(looked.facts, Model) else None
    clocked = model.run.step_ms if model is not None and model.run is not None else None
    return {Trace.key: ProbeRun("ok", without_profiler(trace, clocked.median) if clocked is not None else trace)}


def _to_resume(path: Path, registry: Registry) -> dict[str, dict[str, Any]]:
    """The records of probes that go on from an earlier run: those that time what a benchmark is called for."""
    saved = store.read_file(path, registry)
    benches = {
        key
        for key, spec in registry.probes.items()
        if spec.times_gpu and (spec.for_workload or tuple(spec.modes) == ("bench",))
    }
    return {key: to_plain(run.facts) for key, run in saved.runs.items() if key in benches and run.facts is not None}


def _marked_interrupted(report: Report) -> Report:
    """The report, whose sentence begins with why it says so little: judging sees facts, and not who ended them."""
    headline = f"The examination was interrupted. {report.verdict.headline}"
    return dataclasses.replace(report, verdict=dataclasses.replace(report.verdict, headline=headline))
