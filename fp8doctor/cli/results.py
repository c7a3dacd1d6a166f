"""The results of a benchmark as files: the whole report, and every table of it as CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fp8doctor.cli import output
from fp8doctor.cli.bench import REPORT

if TYPE_CHECKING:
    from fp8doctor.judging.report import Report


def write(report: Report, folder: Path, *, redact: bool) -> None:
    """Write report.json, report.md and one CSV a table into `folder`; tables of the report before it go."""
    from fp8doctor import api

    before = _tables_before(folder / REPORT)
    output.write(str(folder / REPORT), report.to_json(redact=redact))
    output.write(str(folder / "report.md"), report.to_markdown(redact=redact))
    tables = [
        e
        for e in api.terminal_view(report, verbose=True, redact=redact)["exhibits"]
        if e["kind"] == "table" and e["rows"]
    ]
    for table in tables:
        output.write(str(folder / _file(table["id"])), table_csv([row["cells"] for row in table["rows"]]))
    for name in before - {_file(table["id"]) for table in tables}:
        (folder / name).unlink(missing_ok=True)


def _file(table: str) -> str:
    return f"{re.sub('[^a-z0-9-]+', '-', table.lower())}.csv"


def _tables_before(report: Path) -> set[str]:
    """The files that the tables of an earlier report are in; what cannot be read has none."""
    try:
        exhibits = json.loads(report.read_text(encoding="utf-8"))["exhibits"]
        return {_file(exhibit["id"]) for exhibit in exhibits if exhibit["kind"] == "table"}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()


# A spreadsheet runs a cell that begins with one of these; what a library said in an error may (OWASP, "CSV Injection").
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def table_csv(rows: list[dict[str, object]]) -> str:
    """Rows as CSV text; what was not measured is an empty cell, and no text is a formula."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")  # RFC 4180; so a lone carriage return is quoted, too
    writer.writerow([_cell(name) for name in columns])
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return stream.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return "" if value is None else value
