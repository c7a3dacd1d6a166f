"""What do facts, texts and traces say that were recorded elsewhere, and what changed between two reports?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fp8doctor import store
from fp8doctor.api.assembling import knowledge, read_report, saved_report
from fp8doctor.judging.report import Report, Source
from fp8doctor.judging.silencing import EVERYTHING, Selection
from fp8doctor.model import Messages
from fp8doctor.pasted import Reading
from fp8doctor.traced import Trace

if TYPE_CHECKING:
    from fp8doctor.differing import Difference


class NothingRecognisedError(Exception):
    """A pasted text in which nothing is known."""


def diagnose(
    facts: str | bytes | Path | dict[str, Any], *, source: Source = "facts", selection: Selection = EVERYTHING
) -> Report:
    """Judge saved facts, or a saved report, anywhere. Pure but for reading the file.

    Args:
        facts: a path, the JSON text or bytes of a facts file or report, or the decoded document.
        source: what the report says it came from.
        selection: which findings are told; what a saved report silenced stays silenced.

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
    return saved_report(registry, saved, source, selection)


def read(text: str | bytes, *, selection: Selection = EVERYTHING) -> Report:
    """Judge a pasted text: environment reports of other tools, logs, tracebacks, our own Markdown or JSON.

    No process is started and no file is written. What the text does not say is not observed, never absent.

    Args:
        text: the paste as it is; of bytes, what is no UTF-8 is replaced. What is longer than
            `fp8doctor.reading.text.MAX_CHARACTERS` is cut, and the report says so.
        selection: as of `diagnose`.

    Raises:
        NothingRecognisedError: if nothing in it is known.
        fp8doctor.store.NotAFactsFileError: if it is our own report, too short or broken to be judged.
    """
    from fp8doctor.reading import environment, header, own
    from fp8doctor.reading.messages import known_lines
    from fp8doctor.reading.text import clean

    registry = knowledge()
    if (document := own.find(text)) is not None:
        return saved_report(registry, store.decode(document, registry), "text", selection)
    pasted = clean(text)
    records, seen = environment.read(pasted)
    facts = {key: store.decode_facts(registry.facts_types[key], record) for key, record in records.items()}
    for key, reader in registry.readers.items():
        if (said := reader.function(pasted)) is not None:
            facts[key] = said
    messages = Messages(tuple(known_lines(registry.error_texts, header.without_report(pasted.lines), "the text")))
    if not facts and not messages.messages and not seen.formats:
        known = "no environment report, log line or error that fp8doctor knows"
        raise NothingRecognisedError(f"nothing in this text is known: {known}")
    facts |= {Reading.key: seen, Messages.key: messages}
    return read_report(registry, facts, "text", selection)


def trace(*paths: Path, selection: Selection = EVERYTHING) -> Report:
    """Judge profiler traces: of PyTorch's profiler (JSON, also gzipped) or an SQLite export of Nsight Systems.

    Args:
        paths: one file, or one for each rank of one run.
        selection: which findings are told.

    Raises:
        fp8doctor.reading.trace.NotATraceError: if one is no trace, or has nothing to say.
    """
    from fp8doctor.reading.trace import add_up

    registry = knowledge()
    return read_report(registry, {Trace.key: add_up(paths, registry.kernels)}, "trace", selection)


def diff(before: Report, after: Report, *, names: tuple[str, str] = ("A", "B")) -> Difference:
    """What changed between two reports, and which change explains a slow-down. Pure, and reads no file.

    What one of them silences is told of neither: it would look new, or gone.

    Args:
        before: report A.
        after: report B.
        names: what they are called beside A and B, as their files' names.
    """
    from fp8doctor.differing import difference

    silenced = {one.id for report in (before, after) for one in report.silenced}
    return difference(_without(before, silenced), _without(after, silenced), knowledge(), names)


def _without(report: Report, ids: set[str]) -> Report:
    return dataclasses.replace(report, findings=tuple(one for one in report.findings if one.id not in ids))
