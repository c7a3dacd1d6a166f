"""The JSON Schemas of report and difference, made from the types: what is shipped in `schema/` is written from here."""

from __future__ import annotations

import inspect
import json
from typing import Any

import msgspec

from fp8doctor.differing.record import DIFFERENCE_SCHEMA, DIFFERENCE_VERSION, Difference
from fp8doctor.fleet.record import FLEET_SCHEMA, FLEET_VERSION, FleetReport
from fp8doctor.judging.report import (
    SCHEMA_VERSION,
    FindingRecord,
    OutcomeRecord,
    ProbeRecord,
    SilencedRecord,
    Source,
    Use,
    VerdictRecord,
)
from fp8doctor.model import EXHIBIT_ROWS
from fp8doctor.registry import Registry
from fp8doctor.store import REPORT_FIELDS, REPORT_SCHEMA

_RECORDS = (VerdictRecord, Use, FindingRecord, SilencedRecord, OutcomeRecord, ProbeRecord)
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", type(None): "null"}
_REF = "#/$defs/{name}"


def report_schema(registry: Registry) -> dict[str, Any]:
    """The schema of a report, with the facts that `registry` knows; facts of other plug-ins are let through."""
    facts = registry.facts_types
    references, definitions = msgspec.json.schema_components([*_RECORDS, *facts.values()], ref_template=_REF)
    record = dict(zip(_RECORDS, references, strict=False))
    for name in _reachable(record.values(), definitions):
        # A report says each of these fields, with null for "not said"; facts may come from older versions.
        definitions[name]["required"] = list(definitions[name]["properties"])
    properties: dict[str, Any] = {
        "schema": {"const": REPORT_SCHEMA},
        "schema_version": {"type": "string", "pattern": rf"^{SCHEMA_VERSION.split('.')[0]}\.[0-9]+$"},
        "tool": {
            "type": "object",
            "properties": {"version": {"type": "string"}},
            "required": ["version"],
        },
        "created": {"type": "string", "description": "ISO 8601."},
        "source": msgspec.json.schema(Source),
        "elapsed_s": {"type": ["number", "null"]},
        "verdict": record[VerdictRecord],
        "use": {"type": "array", "items": record[Use]},
        "findings": {"type": "array", "items": record[FindingRecord]},
        "silenced": {"type": "array", "items": record[SilencedRecord]},
        "outcomes": {"type": "array", "items": record[OutcomeRecord]},
        "exhibits": {"type": "array", "items": {"oneOf": [_exhibit(kind) for kind in EXHIBIT_ROWS]}},
        "probes": {"type": "object", "additionalProperties": record[ProbeRecord]},
        "facts": {
            "type": "object",
            "properties": {
                key: {"anyOf": [reference, {"type": "null"}]}
                for key, reference in zip(facts, references[len(_RECORDS) :], strict=True)
            },
            "additionalProperties": {"type": ["object", "null"]},
        },
        "left_out": {"type": "array", "items": {"type": "string"}},
    }
    assert list(properties)[2:] == list(REPORT_FIELDS), "the schema has the fields of the report, in their order"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Report of fp8doctor",
        "description": "Null means: not observed, or not said. Readers pass over names that they do not know.",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "$defs": dict(sorted(definitions.items())),
    }


def _exhibit(kind: str) -> dict[str, Any]:
    columns = EXHIBIT_ROWS[kind]
    row = {
        "type": "object",
        "properties": {name: _column(types) for name, types in columns.items()},
        # What may be null may also be left out.
        "required": [name for name, types in columns.items() if type(None) not in types and name != "start"],
    }
    fields = {
        "id": {"type": "string"},
        "kind": {"const": kind},
        "title": {"type": "string"},
        "unit": {"type": "string"},
        "rows": {"type": "array", "items": row},
    }
    more = {
        "answers_why": {"type": "boolean"},
        "x_title": {"type": ["string", "null"]},
        "x_is_log": {"type": "boolean"},
    }
    return {"type": "object", "properties": {**fields, **more}, "required": list(fields)}


def _column(types: tuple[type, ...]) -> dict[str, Any]:
    names = [_TYPES[one] for one in types if not (one is int and float in types)]
    return {"type": names[0] if len(names) == 1 else names}


def _reachable(references: Any, definitions: dict[str, Any]) -> set[str]:
    """The names of all object definitions that `references` lead to."""
    found: set[str] = set()
    waiting = [json.dumps(list(references))]
    while waiting:
        text = waiting.pop()
        for name, definition in definitions.items():
            if name not in found and f'"{_REF.format(name=name)}"' in text and "properties" in definition:
                found.add(name)
                waiting.append(json.dumps(definition))
    return found


def _dedented(value: Any) -> Any:
    """The same with every description as `inspect.cleandoc` has it: from 3.13 on Python strips docstrings itself."""
    if isinstance(value, dict):
        cleaned = {name: _dedented(item) for name, item in value.items()}
        if isinstance(text := cleaned.get("description"), str):
            cleaned["description"] = inspect.cleandoc(text)
        return cleaned
    return [_dedented(item) for item in value] if isinstance(value, list) else value


def difference_schema() -> dict[str, Any]:
    """The schema of a difference."""
    return _of_a_record(Difference, "Difference of two reports of fp8doctor", DIFFERENCE_SCHEMA, DIFFERENCE_VERSION)


def fleet_schema() -> dict[str, Any]:
    """The schema of a report of many nodes."""
    return _of_a_record(FleetReport, "Report of fp8doctor on many nodes", FLEET_SCHEMA, FLEET_VERSION)


def _of_a_record(kind: type[Any], title: str, schema: str, version: str) -> dict[str, Any]:
    (reference,), definitions = msgspec.json.schema_components([kind], ref_template=_REF)
    for name in _reachable([reference], definitions):
        definitions[name]["required"] = list(definitions[name]["properties"])
    whole = definitions.pop(kind.__name__)
    properties = {
        "schema": {"const": schema},
        "schema_version": {"type": "string", "pattern": rf"^{version.split('.')[0]}\.[0-9]+$"},
        **whole["properties"],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "description": f"{whole['description']} Null means: not observed, or not said.",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text(registry: Registry) -> str:
    """The report's schema as the text of the shipped file."""
    return _text(report_schema(registry))


def difference_schema_text() -> str:
    """The difference's schema as the text of the shipped file."""
    return _text(difference_schema())


def fleet_schema_text() -> str:
    """The schema of a report of many nodes as the text of the shipped file."""
    return _text(fleet_schema())


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(_dedented(schema), indent=1, ensure_ascii=False) + "\n"
