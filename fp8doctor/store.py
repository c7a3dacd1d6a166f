"""Facts and reports to and from JSON, whatever version wrote them."""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from fp8doctor.judging.report import SCHEMA_VERSION, Judged, ProbeRecord, Report, SilencedRecord, Tool
from fp8doctor.model import Facts, ProbeRun
from fp8doctor.plain import to_plain, unknown_names
from fp8doctor.registry import Registry

REPORT_SCHEMA = "fp8doctor.report"
FACTS_SCHEMA = "fp8doctor.facts"
# The fields of the report after its schema, in the order that people read them.
REPORT_FIELDS = (
    *("tool", "created", "source", "elapsed_s", "verdict", "use"),
    *("findings", "silenced", "outcomes", "exhibits", "probes", "facts", "left_out"),
)
# A report of a large box is under 2 MB; beyond this a file is something else.
MAX_FILE_BYTES = 64 << 20
# What was wrong may be a name or a number out of the file, of any length.
MAX_REASON = 400
# Of what a paste left out.
LONGEST_PATH, MOST_PATHS = 200, 200
# Facts are at most a handful of levels deep; what is deeper was made to break readers.
MAX_DEPTH = 40
# The first line of the Markdown report, below whatever a person wrote above it.
_MARKDOWN = re.compile(rb"^### fp8doctor ", re.MULTILINE)
_GIVES_A_FILE = "`fp8doctor --json FILE` or `fp8doctor collect -o FILE` gives a file that can be judged"


class NotAFactsFileError(ValueError):
    """The file holds nothing that can be judged; the text says why in one line, whatever the file held."""

    def __init__(self, why: str) -> None:
        super().__init__(" ".join(why.splitlines())[:MAX_REASON])


@dataclass
class Saved:
    """A facts file or a saved report, decoded."""

    source: str
    created: str
    tool_version: str
    runs: dict[str, ProbeRun[Facts]]
    # The facts as they stood in the file, with what this version does not know.
    raw_facts: dict[str, Any]
    # Paths that a newer minor version wrote and this one does not understand.
    not_understood: list[str] = field(default_factory=list)
    elapsed_s: float | None = None
    # Rules known here whose findings the report did not show.
    silenced: tuple[SilencedRecord, ...] = ()
    # What a paste had no room for; where facts are among it, what it said of them all.
    left_out: tuple[str, ...] = ()
    judged: Judged | None = None


@dataclass(frozen=True)
class _Envelope:
    """What a facts file and a saved report share.

    A report's judgement is made anew, but for what it silenced, and where facts were left out.
    """

    facts: dict[str, Any]
    probes: dict[str, ProbeRecord | None]
    tool: Tool = Tool("")  # noqa: RUF009 (it is frozen)
    source: str = "facts"
    created: str = ""
    elapsed_s: float | None = None
    silenced: tuple[SilencedRecord, ...] = ()


def decode_facts(facts_type: type[Facts], plain: Any) -> Facts:
    """Turn a plain record into typed facts; the door that probes, readers and files come through.

    Raises:
        ValueError: for a wrong type, an unknown field, NaN or infinity.
    """
    if unknown := unknown_names(facts_type, plain, facts_type.key):
        raise ValueError(f"unknown fields: {', '.join(unknown[:5])}")
    if problem := _json_problem(plain, facts_type.key):
        raise ValueError(problem)
    return _convert(facts_type, plain)


def _convert(facts_type: type[Facts], plain: Any) -> Facts:
    try:
        return msgspec.convert(plain, facts_type)
    except msgspec.ValidationError as error:
        raise ValueError(f"{facts_type.key}: {error}") from None


def _json_problem(value: Any, path: str, depth: int = 0) -> str | None:
    """Say what in `value` a report could not carry; None if nothing."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path} is not a finite number"
    if isinstance(value, str):
        return None if _is_utf8(value) else f"{path} is no text"
    if depth > MAX_DEPTH:
        return f"{path[:80]}... is nested deeper than {MAX_DEPTH} levels"
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if isinstance(key, str) and not _is_utf8(key):
            return f"{path} has a name that is no text"
        if isinstance(item, (dict, list, str, float)) and (found := _json_problem(item, f"{path}.{key}", depth + 1)):
            return found
    return None


def _is_too_deep(value: Any) -> bool:
    """Whether `value` is nested deeper than MAX_DEPTH. All else that a report cannot carry, strict JSON cannot."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        items = (item for held in level for item in (held.values() if isinstance(held, dict) else held))
        level = [item for item in items if isinstance(item, (dict, list))]
    return bool(level)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_file(path: Path, registry: Registry) -> Saved:
    """Read a facts file or a saved report.

    Raises:
        NotAFactsFileError: if it cannot be read, is not JSON, of another schema or of a newer major version.
    """
    try:
        with path.open("rb") as file:  # not by its size, which a pipe and a device do not tell
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise NotAFactsFileError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the name
        raise NotAFactsFileError(f"{str(path)!r}: {error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise NotAFactsFileError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        return decode(data, registry)
    except NotAFactsFileError as error:
        raise NotAFactsFileError(f"{path}: {error}") from None


def decode(data: bytes, registry: Registry) -> Saved:
    """Decode a facts file or a saved report from its bytes.

    Raises:
        NotAFactsFileError: as `read_file`.
    """
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if _MARKDOWN.search(data):
            raise NotAFactsFileError(f"this is the Markdown report, not a facts file; {_GIVES_A_FILE}") from None
        raise NotAFactsFileError(f"not JSON, or cut short ({error})") from None
    if not isinstance(document, dict) or document.get("schema") not in (REPORT_SCHEMA, FACTS_SCHEMA):
        raise NotAFactsFileError("neither a facts file nor a report of fp8doctor")
    newer = _is_newer_minor(document.get("schema_version"))
    try:
        envelope = msgspec.convert(document, _Envelope)
        left_out = _left_out(document.get("left_out"))
        shortened = any(path.startswith("facts.") for path in left_out)
        judged = msgspec.convert(document, Judged) if shortened else None
    except msgspec.ValidationError as error:
        raise NotAFactsFileError(str(error)) from None
    if _is_too_deep(envelope.facts):
        raise NotAFactsFileError(f"facts are nested deeper than {MAX_DEPTH} levels")
    saved = Saved(
        source=envelope.source,
        created=envelope.created,
        tool_version=envelope.tool.version,
        runs={},
        raw_facts=envelope.facts,
        elapsed_s=envelope.elapsed_s,
        silenced=tuple(one for one in envelope.silenced if one.id in registry.rules),
        left_out=left_out,
        judged=judged,
    )
    for key in dict.fromkeys([*registry.facts_types, *envelope.probes, *envelope.facts]):
        _take(key, envelope.facts.get(key), envelope.probes.get(key), registry, saved, newer)
    return saved


def _left_out(said: Any) -> tuple[str, ...]:
    """The paths that a paste had no room for; what a stranger made of them is none."""
    paths = said[:MOST_PATHS] if isinstance(said, list) else ()
    return tuple(path[:LONGEST_PATH] for path in paths if isinstance(path, str))


def _is_newer_minor(version: Any) -> bool:
    try:
        major, minor = (int(part) for part in str(version).split("."))
    except ValueError:
        raise NotAFactsFileError(f"schema version {version!r} is no version") from None
    own_major, own_minor = (int(part) for part in SCHEMA_VERSION.split("."))
    if major > own_major:
        raise NotAFactsFileError(f"schema version {version} is newer than {SCHEMA_VERSION}: update fp8doctor")
    return (major, minor) > (own_major, own_minor)


def _take(key: str, plain: Any, record: ProbeRecord | None, registry: Registry, saved: Saved, newer: bool) -> None:
    facts_type = registry.facts_types.get(key)
    if facts_type is None:  # a plug-in that is not installed here, or a newer subject: kept, not judged
        saved.not_understood.append(f"facts.{key}")
        return
    facts = None
    if plain is not None:
        try:
            facts = _convert(facts_type, plain)
        except ValueError as error:
            raise NotAFactsFileError(f"facts.{error}") from None
        if unknown := unknown_names(facts_type, plain, f"facts.{key}"):
            if not newer:
                raise NotAFactsFileError(f"unknown fields: {', '.join(unknown[:5])}")
            saved.not_understood += unknown
    if record is None:
        record = ProbeRecord("ok" if facts is not None else "not-observed")
    saved.runs[key] = ProbeRun(facts=facts, **vars(record))


def report_document(report: Report) -> dict[str, Any]:
    """The report as JSON values, in the shape that `fp8doctor schema` describes."""
    # Facts and rows of exhibits, nine tenths of it, are plain already.
    plain = to_plain(dataclasses.replace(report, facts={}, exhibits=()))
    plain["facts"] = report.facts
    plain["exhibits"] = [{**vars(exhibit), "rows": list(exhibit.rows)} for exhibit in report.exhibits]
    plain["tool"] = {"version": report.tool.version}
    return {"schema": REPORT_SCHEMA, "schema_version": SCHEMA_VERSION, **{name: plain[name] for name in REPORT_FIELDS}}


def facts_document(report: Report) -> dict[str, Any]:
    """The facts alone: the same envelope without what was judged."""
    document = report_document(report)
    kept = ("schema_version", "tool", "created", "source", "probes", "facts")
    return {"schema": FACTS_SCHEMA, **{name: document[name] for name in kept}}


def encode(document: dict[str, Any], *, indent: int = 1) -> str:
    """JSON text, strict (no NaN), with a final newline when indented."""
    data = msgspec.json.encode(document)
    return msgspec.json.format(data, indent=indent).decode() + "\n" if indent else data.decode()


def now() -> str:
    """This moment as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
