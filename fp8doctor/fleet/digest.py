"""What does one node's report say, as far as nodes are compared?

A report has some hundreds of kilobytes, nearly all of it times of single cases: what is not compared is never decoded.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from fp8doctor.fleet.record import FindingSeen, GpuSeen, Node, Value
from fp8doctor.judging.outcomes import make
from fp8doctor.judging.report import Status
from fp8doctor.model import Exhibit, Facts, Listing, ProbeRun, Severity, Trait, TraitKind
from fp8doctor.registry import Registry
from fp8doctor.specs import Maker, Rule

# What nodes are compared by; a condition held for a moment, and how something was timed, are no difference of nodes.
COMPARED: tuple[TraitKind, ...] = ("hardware", "software", "setting")
# Facts that hold times: large, and no trait of these kinds comes from them.
MOST_FACTS_BYTES = 64 << 10
REPORT_SCHEMA = "fp8doctor.report"
MAX_FILE_BYTES = 64 << 20
# Findings of one node that are kept.
MOST_FINDINGS = 50
LONGEST_TEXT = 300
MOST_NOT_MEASURED = 100


class NoNodeError(ValueError):
    """A file holds no report of a node; the text says why in one line."""


@dataclass(frozen=True)
class TraitName:
    """A trait without its value."""

    kind: TraitKind
    name: str
    unit: str | None = None
    tolerance: float = 0.0
    points: float = 0.0
    why: str | None = None


@dataclass
class Digest:
    """A node, and the values of its traits."""

    node: Node
    traits: dict[TraitName, Value]
    # What it means that a listing does not name something, by the kind of trait.
    absent: dict[TraitKind, Value] = field(default_factory=dict)
    # Whether the report itself names its node.
    says_who: bool = False
    # What a fleet's run measured beyond a default one, to be looked at.
    exhibits: tuple[Exhibit, ...] = ()


@dataclass(frozen=True)
class _Verdict:
    status: Status
    headline: str
    fp8_hardware: bool | None = None
    fp8_software: bool | None = None
    fp8_runs: bool | None = None


@dataclass(frozen=True)
class _Finding:
    id: str
    name: str
    severity: Severity
    title: str


@dataclass(frozen=True)
class _Tool:
    version: str = ""


@dataclass(frozen=True)
class _Probe:
    outcome: str = "ok"


@dataclass(frozen=True)
class _Envelope:
    schema: str
    schema_version: str
    facts: dict[str, msgspec.Raw]
    verdict: _Verdict
    created: str = ""
    tool: _Tool = _Tool()
    findings: tuple[_Finding, ...] = ()
    # Who this is, where fp8doctor's fleet run wrote it.
    node: str | None = None


@dataclass(frozen=True)
class _Ceiling:
    sustained_tflops: float | None = None


@dataclass(frozen=True)
class _Ceilings:
    bf16: _Ceiling | None = None
    fp8: _Ceiling | None = None
    copy_gb_s: float | None = None


@dataclass(frozen=True)
class _Linear:
    ceilings: _Ceilings | None = None
    device_name: str | None = None


@dataclass(frozen=True)
class _Rates:
    bf16_tflops: float | None = None
    fp8_tflops: float | None = None
    copy_gb_s: float | None = None
    sm_clock_mhz: float | None = None
    power_w: float | None = None
    fp8_error: float | None = None


@dataclass(frozen=True)
class _OneGpu:
    index: int = 0
    name: str | None = None
    fingerprint: str | None = None
    alone: _Rates | None = None
    together: _Rates | None = None
    error: str | None = None


@dataclass(frozen=True)
class _EachGpu:
    gpus: tuple[_OneGpu, ...] | None = None


_DECODER = msgspec.json.Decoder(_Envelope)


def read_file(path: Path, registry: Registry) -> Digest:
    """The digest of a report that `fp8doctor --json`, or a node of a fleet run, wrote.

    Raises:
        NoNodeError: if the file cannot be read, is cut short, no report, or of a newer major version.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise NoNodeError(str(error.strerror or error)) from None
    if len(data) > MAX_FILE_BYTES:
        raise NoNodeError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
    return digest(data, path.stem, registry)


def digest(data: bytes, name: str, registry: Registry) -> Digest:
    """The digest of a report; `name` is what the node is called if the report does not say.

    Raises:
        NoNodeError: as `read_file`.
    """
    found = _envelope(data)
    facts = {key: raw for key, raw in found.facts.items() if key in registry.facts_types}
    runs = _runs(facts, registry)
    traits: dict[TraitName, Value] = {}
    absent: dict[TraitKind, Value] = {}
    for maker in registry.makers:
        if maker.makes == "traits" and _has_all(maker, runs):
            _take(traits, absent, _made(maker, runs))
    of_fleets = {key for key, probe in registry.probes.items() if "fleet" in probe.modes}
    kept = {rule.id for rule in registry.rules.values() if _needs(rule) & of_fleets}
    exhibits = [
        made
        for maker in registry.makers
        if maker.makes == "exhibit" and _needs(maker) & of_fleets and _has_all(maker, runs)
        for made in _made(maker, runs)
    ]
    node = Node(
        name=_cut(found.node or name),
        created=_cut(found.created),
        tool_version=_cut(found.tool.version),
        status=found.verdict.status,
        headline=_cut(found.verdict.headline),
        fp8_hardware=found.verdict.fp8_hardware,
        fp8_software=found.verdict.fp8_software,
        fp8_runs=found.verdict.fp8_runs,
        gpus=_gpus(facts, runs),
        findings=tuple(
            FindingSeen(_cut(one.id), _cut(one.name), one.severity, _cut(one.title))
            for one in found.findings[:MOST_FINDINGS]
            if one.severity is not Severity.INFO or one.id in kept
        ),
        not_measured=tuple(
            _cut(words)
            for key in sorted(of_fleets & runs.keys())
            for words in (getattr(runs[key].facts, "not_measured", None) or ())[:MOST_NOT_MEASURED]
        ),
    )
    return Digest(node, traits, absent, found.node is not None, tuple(exhibits))


def _envelope(data: bytes) -> _Envelope:
    try:
        found = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NoNodeError(_why_not(data, error)) from None
    if found.schema != REPORT_SCHEMA:
        raise NoNodeError("no report of fp8doctor (`fp8doctor --json FILE` writes one)")
    if not found.schema_version.startswith("1."):
        raise NoNodeError(f"schema version {_cut(found.schema_version)} is not known here: update fp8doctor")
    return found


def _why_not(data: bytes, error: Exception) -> str:
    if not data.strip():
        return "the file is empty"
    if isinstance(error, msgspec.ValidationError):
        return "no report of fp8doctor (`fp8doctor --json FILE` writes one)"
    return f"not JSON, or cut short ({_cut(str(error))})"


def _runs(facts: Mapping[str, msgspec.Raw], registry: Registry) -> dict[str, ProbeRun[Facts]]:
    """The facts that traits may come from, as their types; what does not fit its type is as if nobody had looked."""
    runs: dict[str, ProbeRun[Facts]] = {}
    for key, raw in facts.items():
        if len(bytes(raw)) > MOST_FACTS_BYTES or bytes(raw) == b"null":
            continue
        try:
            runs[key] = ProbeRun("ok", msgspec.json.decode(raw, type=registry.facts_types[key]))
        except (msgspec.DecodeError, RecursionError):
            continue
    return runs


def _needs(of: Maker | Rule) -> set[str]:
    return {need.key for need in of.needs.values()}


def _has_all(maker: Maker, runs: Mapping[str, Any]) -> bool:
    return all(need.key in runs for need in maker.needs.values() if need.kind == "required")


def _made(maker: Maker, runs: Mapping[str, ProbeRun[Facts]]) -> list[Any]:
    try:
        return make(maker, runs)
    except Exception:  # one subject's fault costs its own word alone
        return []


def _take(traits: dict[TraitName, Value], absent: dict[TraitKind, Value], made: list[Trait | Listing]) -> None:
    for one in made:
        for trait in one.traits if isinstance(one, Listing) else (one,):
            if trait.kind in COMPARED and trait.value is not None:
                name = _name(trait)
                value = trait.value
                traits[name] = sys.intern(_cut(value)) if isinstance(value, str) else value
            if isinstance(one, Listing) and one.absent is not None:
                absent[trait.kind] = one.absent


_names: dict[TraitName, TraitName] = {}


def _name(trait: Trait) -> TraitName:
    """One object for each name, however many nodes have it."""
    name = TraitName(trait.kind, _cut(trait.name), trait.unit, trait.tolerance, trait.points, trait.why)
    return _names.setdefault(name, name)


def _gpus(facts: Mapping[str, msgspec.Raw], runs: Mapping[str, ProbeRun[Facts]]) -> tuple[GpuSeen, ...]:
    """Each GPU with what it does alone: of all where each was measured, else of the one that a single run timed."""
    each = _decoded(facts.get("each_gpu"), _EachGpu)
    if each is not None and each.gpus:
        return tuple(_seen(one) for one in each.gpus)
    seen = runs["gpus"].facts if "gpus" in runs else None
    listed = [GpuSeen(gpu.index or 0, gpu.name) for gpu in getattr(seen, "gpus", None) or ()]
    linear = _decoded(facts.get("linear"), _Linear)
    best = linear.ceilings if linear else None
    if linear is None or best is None:
        return tuple(listed)
    timed = GpuSeen(
        index=0,
        name=linear.device_name,
        bf16_tflops=best.bf16.sustained_tflops if best.bf16 else None,
        fp8_tflops=best.fp8.sustained_tflops if best.fp8 else None,
        copy_gb_s=best.copy_gb_s,
        shape="best",
    )
    return (timed, *(gpu for gpu in listed if gpu.index != 0))


def _seen(one: _OneGpu) -> GpuSeen:
    """Its rates: the better of alone and together, so that a moment's dip makes no slow GPU."""
    alone, together = one.alone or _Rates(), one.together or _Rates()
    return GpuSeen(
        one.index,
        one.name,
        one.fingerprint,
        _better(alone.bf16_tflops, together.bf16_tflops),
        _better(alone.fp8_tflops, together.fp8_tflops),
        _better(alone.copy_gb_s, together.copy_gb_s),
        alone.sm_clock_mhz,
        alone.power_w,
        _better(alone.fp8_error, together.fp8_error),
        "8192",
    )


def _better(one: float | None, other: float | None) -> float | None:
    known = [value for value in (one, other) if value is not None]
    return max(known, default=None)


def _decoded(raw: msgspec.Raw | None, kind: type[Any]) -> Any:
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, RecursionError):
        return None


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
