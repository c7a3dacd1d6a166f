"""The public API: examine this box, diagnose facts, texts and traces. The one place where the rooms come together."""

from __future__ import annotations

import dataclasses
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import fp8doctor
from fp8doctor import registry as _registry
from fp8doctor import store
from fp8doctor.judging.judge import judge
from fp8doctor.judging.report import ProbeRecord, Report, Source, Tool
from fp8doctor.model import Facts, Message, Messages, Mode, ProbeRun, Request, Shape
from fp8doctor.pasted import Reading
from fp8doctor.plain import to_plain
from fp8doctor.registry import OWN_FACTS, Registry
from fp8doctor.traced import Trace

if TYPE_CHECKING:
    from fp8doctor.differing import Difference
    from fp8doctor.probing.schedule import Event

F = TypeVar("F", bound=Facts)
# The longest a default run takes; --thorough has minutes (design: "a time budget rules the whole run").
BUDGET_S: dict[str, float] = {"quick": 20.0, "default": 60.0, "thorough": 600.0, "bench": 1200.0}
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
    # A facts file or report of an earlier run whose finished rungs are kept.
    resume: Path | None = None


class InterruptedExaminationError(Exception):
    """Ctrl-C ended an examination; `report` says what was learnt until then."""

    def __init__(self, report: Report) -> None:
        super().__init__("interrupted")
        self.report = report


class NothingRecognisedError(Exception):
    """A pasted text in which nothing is known."""


class CannotExamineError(Exception):
    """This system is none that can be examined; `report` says what was not looked at."""

    def __init__(self, system: str, report: Report) -> None:
        super().__init__(f"Linux and WSL can be examined, {system} cannot; `fp8doctor diagnose FILE` works here")
        self.report = report


@lru_cache(maxsize=1)
def knowledge() -> Registry:
    """All probes and rules, built in and plugged in."""
    return _registry.load()


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
        raise CannotExamineError(platform.system(), _live_report(registry, nothing, 0.0, "live"))
    # Here, because judging saved facts needs none of it.
    from fp8doctor.probing import interpreters
    from fp8doctor.probing.cache import cache_folder
    from fp8doctor.probing.schedule import Plan, Schedule, child_environment

    target = interpreters.choose(options.python)
    resume = _to_resume(options.resume, registry) if options.resume else {}
    started = time.monotonic()
    with cache_folder(options.keep_cache) as cache_dir, tempfile.TemporaryDirectory(prefix="fp8doctor-") as scratch:
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
            report = _live_report(registry, schedule.runs, time.monotonic() - started, "live")
            raise InterruptedExaminationError(_marked_interrupted(report)) from None
        if request.trace_file is not None:
            runs = {**runs, **_recorded(Path(request.trace_file), registry)}
    return _live_report(registry, runs, time.monotonic() - started, "live" if options.model is None else "model")


def _recorded(file: Path, registry: Registry) -> dict[str, ProbeRun[Facts]]:
    """What a profiler wrote in a child, added up here; nothing if it wrote nothing."""
    from fp8doctor.reading.trace import NotATraceError, add_up

    if not file.exists():
        return {}
    try:
        return {Trace.key: ProbeRun("ok", add_up([file], registry.kernels))}
    except NotATraceError as error:
        return {Trace.key: ProbeRun("garbage", detail=str(error))}


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


def _to_resume(path: Path, registry: Registry) -> dict[str, dict[str, Any]]:
    """The records of probes that go on from an earlier run: those that time what a benchmark is called for."""
    saved = store.read_file(path, registry)
    benches = {
        key
        for key, spec in registry.probes.items()
        if spec.times_gpu and (spec.for_workload or tuple(spec.modes) == ("bench",))
    }
    return {key: to_plain(run.facts) for key, run in saved.runs.items() if key in benches and run.facts is not None}


def diagnose(facts: str | bytes | Path | dict[str, Any], *, source: Source = "facts") -> Report:
    """Judge saved facts, or a saved report, anywhere. Pure but for reading the file.

    Args:
        facts: a path, the JSON text or bytes of a facts file or report, or the decoded document.
        source: what the report says it came from.

    Raises:
        fp8doctor.store.NotAFactsFileError: if this is nothing that can be judged.
    """
    registry = knowledge()
    if isinstance(facts, dict):
        facts = store.encode(facts, indent=0)
    if isinstance(facts, Path):
        saved = store.read_file(facts, registry)
    else:
        saved = store.decode(facts.encode() if isinstance(facts, str) else facts, registry)
    return _report(registry, saved.runs, source, saved.created or store.now(), saved.elapsed_s, saved.raw_facts)


def read(text: str | bytes) -> Report:
    """Judge a pasted text: environment reports of other tools, logs, tracebacks, our own Markdown or JSON.

    No process is started and no file is written. What the text does not say is not observed, never absent.

    Args:
        text: the paste as it is; of bytes, what is no UTF-8 is replaced. What is longer than
            `fp8doctor.reading.text.MAX_CHARACTERS` is cut, and the report says so.

    Raises:
        NothingRecognisedError: if nothing in it is known.
        fp8doctor.store.NotAFactsFileError: if it is our own report, too short or broken to be judged.
    """
    from fp8doctor.reading import environment, own
    from fp8doctor.reading.messages import known_lines
    from fp8doctor.reading.text import clean

    registry = knowledge()
    if (document := own.find(text)) is not None:
        saved = store.decode(document, registry)
        return _report(registry, saved.runs, "text", saved.created or store.now(), saved.elapsed_s, saved.raw_facts)
    pasted = clean(text)
    records, seen = environment.read(pasted)
    facts = {key: store.decode_facts(registry.facts_types[key], record) for key, record in records.items()}
    for key, reader in registry.readers.items():
        if (said := reader.function(pasted)) is not None:
            facts[key] = said
    messages = Messages(tuple(known_lines(registry.error_texts, pasted.lines, "the text")))
    if not facts and not messages.messages and not seen.formats:
        known = "no environment report, log line or error that fp8doctor knows"
        raise NothingRecognisedError(f"nothing in this text is known: {known}")
    facts |= {Reading.key: seen, Messages.key: messages}
    return read_report(registry, facts, "text")


def trace(*paths: Path) -> Report:
    """Judge profiler traces: of PyTorch's profiler (JSON, also gzipped) or an SQLite export of Nsight Systems.

    Args:
        paths: one file, or one for each rank of one run.

    Raises:
        fp8doctor.reading.trace.NotATraceError: if one is no trace, or has nothing to say.
    """
    from fp8doctor.reading.trace import add_up

    registry = knowledge()
    return read_report(registry, {Trace.key: add_up(paths, registry.kernels)}, "trace")


def diff(before: Report, after: Report, *, names: tuple[str, str] = ("A", "B")) -> Difference:
    """What changed between two reports, and which change explains a slow-down. Pure, and reads no file.

    Args:
        before: report A.
        after: report B.
        names: what they are called beside A and B, as their files' names.
    """
    from fp8doctor.differing import difference

    return difference(before, after, knowledge(), names)


def read_report(registry: Registry, facts: dict[str, Facts], source: Source) -> Report:
    """The report of what was read or watched, and not probed."""
    runs = {
        key: ProbeRun("ok", facts[key]) if key in facts else ProbeRun[Facts]("not-observed")
        for key in registry.facts_types
    }
    return _report(registry, runs, source, store.now(), None, None)


def _live_report(registry: Registry, runs: dict[str, ProbeRun[Facts]], elapsed_s: float, source: Source) -> Report:
    runs = {**runs, Messages.key: ProbeRun("ok", _messages(registry, runs))}
    return _report(registry, runs, source, store.now(), round(elapsed_s, 1), None)


def _marked_interrupted(report: Report) -> Report:
    """The report, whose sentence begins with why it says so little: judging sees facts, and not who ended them."""
    headline = f"The examination was interrupted. {report.verdict.headline}"
    return dataclasses.replace(report, verdict=dataclasses.replace(report.verdict, headline=headline))


def _report(
    registry: Registry,
    runs: dict[str, ProbeRun[Facts]],
    source: Source,
    created: str,
    elapsed_s: float | None,
    raw_facts: dict[str, Any] | None,
) -> Report:
    judged = judge(registry, runs)
    if raw_facts is None:
        raw_facts = {key: None if run.facts is None else to_plain(run.facts) for key, run in runs.items()}
    return Report(
        tool=Tool(fp8doctor.__version__),
        created=created,
        source=source,
        elapsed_s=elapsed_s,
        verdict=judged.verdict,
        use=judged.use,
        findings=judged.findings,
        outcomes=judged.outcomes,
        exhibits=judged.exhibits,
        captions=judged.captions,
        probes={
            key: ProbeRecord(run.outcome, run.detail, run.stderr_tail, run.elapsed_ms, run.interpreter)
            for key, run in runs.items()
            if _is_told(registry, key, run)
        },
        facts=raw_facts,
    )


def _is_told(registry: Registry, key: str, run: ProbeRun[Facts]) -> bool:
    """Whether how a probe ended belongs into the report: not of what readers fill, nor of a model that none named."""
    probe = registry.probes.get(key)
    asked = probe is not None and not (probe.for_model and run.outcome in ("skipped", "not-observed"))
    return key not in OWN_FACTS and (asked or run.facts is not None)


def _messages(registry: Registry, runs: dict[str, ProbeRun[Facts]]) -> Messages:
    """The lines that children printed, or ended by, which some subject knows as settling a rule."""
    from fp8doctor.reading.messages import known_lines

    found: dict[Message, None] = {}
    for key, run in runs.items():
        lines = f"{run.detail or ''}\n{run.stderr_tail or ''}".splitlines()
        found.update(dict.fromkeys(known_lines(registry.error_texts, lines, key)))
    return Messages(tuple(found))


def report_to_json(report: Report, *, redact: bool = True) -> str:
    """The report as indented JSON text."""
    return store.encode(_document(report, redact))


def report_to_markdown(report: Report, *, redact: bool = True) -> str:
    """The report as Markdown for an issue."""
    from fp8doctor.reporting.markdown import render

    return render(view(report, redact=redact))


def difference_to_json(difference: Difference, *, redact: bool = True) -> str:
    """The difference as indented JSON text."""
    return store.encode(difference_view(difference, redact=redact))


def difference_to_markdown(difference: Difference, *, redact: bool = True) -> str:
    """The difference as Markdown for an issue."""
    from fp8doctor.reporting.difference import to_markdown

    return to_markdown(difference_view(difference, redact=redact))


def difference_view(difference: Difference, *, redact: bool = True) -> dict[str, Any]:
    """The difference as JSON values, with its schema; redacted unless asked otherwise."""
    from fp8doctor.differing.record import DIFFERENCE_SCHEMA, DIFFERENCE_VERSION

    head = {"schema": DIFFERENCE_SCHEMA, "schema_version": DIFFERENCE_VERSION}
    document = {**head, **to_plain(difference)}
    return _redacted(document) if redact else document


def facts_to_json(report: Report, *, redact: bool = True) -> str:
    """The facts of the report alone, for `fp8doctor diagnose`."""
    document = store.facts_document(report)
    return store.encode(_redacted(document) if redact else document)


def view(report: Report, *, redact: bool = True, facts: bool = True) -> dict[str, Any]:
    """What renderers see: the report's document with the header line's pieces, redacted unless asked otherwise.

    `facts=False` leaves the facts out, nine tenths of the text that a terminal never shows, but for what a text was.
    """
    kept = {key: record for key, record in report.facts.items() if key == Reading.key}
    shown = report if facts else dataclasses.replace(report, facts=kept)
    document = {**store.report_document(shown), "captions": list(report.captions)}
    return _redacted(document) if redact else document


def _document(report: Report, redact: bool) -> dict[str, Any]:
    document = store.report_document(report)
    return _redacted(document) if redact else document


def _redacted(document: dict[str, Any]) -> dict[str, Any]:
    from fp8doctor.reporting.redaction import redact

    return redact(document)
