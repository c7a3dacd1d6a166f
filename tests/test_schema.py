"""The shipped schema: it accepts every report, and refuses what breaks the contract."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fp8doctor import api
from fp8doctor.schema_source import report_schema
from tests.sample_reports import HEALTHY, REPORTS

SHIPPED = Path(__file__).parents[1] / "fp8doctor" / "schema" / "report-1.0.json"


def errors(document: Any) -> list[str]:
    schema = json.loads(SHIPPED.read_text(encoding="utf-8"))
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(document)]


def healthy() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(HEALTHY.to_json())
    return document


@pytest.mark.parametrize("name", REPORTS)
def test_reports_are_valid(name: str) -> None:
    assert errors(json.loads(REPORTS[name].to_json())) == []


def test_every_field_of_the_contract_is_required() -> None:
    for part in ("verdict", "use", "findings", "outcomes", "probes"):
        document = healthy()
        records = document[part]
        record = records if part == "verdict" else next(iter(records.values() if part == "probes" else records))
        for name in list(record):
            broken = copy.deepcopy(document)
            records = broken[part]
            target = records if part == "verdict" else next(iter(records.values() if part == "probes" else records))
            del target[name]
            assert errors(broken), f"{part} without {name}"
    for name in healthy():
        document = healthy()
        del document[name]
        assert errors(document), f"a report without {name}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("verdict", "status"), "fine"),
        (("verdict", "fp8_runs"), "yes"),
        (("source",), "hearsay"),
        (("schema_version",), "2.0"),
        (("findings", 0, "severity"), "fatal"),
        (("findings", 0, "actions", 0, "safe"), None),
        (("use", 0, "speedup", "clock"), "wall"),
        (("use", 0, "when", "k"), "3072"),
        (("outcomes", 0, "outcome"), "ok"),
        (("exhibits", 0, "kind"), "sculpture"),
        (("exhibits", 0, "rows", 0, "value"), "103"),
        (("exhibits", 1, "rows", 0, "x"), 16),
        (("probes", "gpus", "outcome"), "fine"),
        (("facts", "gpus"), [1]),
    ],
)
def test_what_breaks_the_contract_is_refused(path: tuple[str | int, ...], value: object) -> None:
    document = healthy()
    target: Any = document
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    assert errors(document)


def test_facts_of_plug_ins_and_newer_fields_are_let_through() -> None:
    document = healthy()
    document["facts"]["somebody_elses"] = {"anything": [1, {"x": None}]}
    document["facts"]["gpus"]["a_newer_field"] = 1
    document["schema_version"] = "1.7"
    assert errors(document) == []


def test_every_subject_is_described() -> None:
    registry = api.knowledge()
    schema = report_schema(registry)
    assert set(schema["properties"]["facts"]["properties"]) == set(registry.facts_types)
