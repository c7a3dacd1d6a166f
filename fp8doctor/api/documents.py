"""How does a report or a difference leave the house: as JSON, as Markdown, as what renderers see?"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from fp8doctor import store
from fp8doctor.judging.report import Report
from fp8doctor.pasted import Reading
from fp8doctor.plain import to_plain

if TYPE_CHECKING:
    from fp8doctor.differing import Difference
    from fp8doctor.fleet.record import FleetReport


def report_to_json(report: Report, *, redact: bool = True) -> str:
    """The report as indented JSON text."""
    return store.encode(_document(report, redact))


def report_to_text(report: Report, *, verbose: bool = False, redact: bool = True) -> str:
    """The report as a terminal shows it, without colours, in signs that standard output can carry."""
    from fp8doctor.reporting.terminal import plain

    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return plain(terminal_view(report, verbose=verbose, redact=redact), encoding, verbose=verbose)


def report_to_markdown(report: Report, *, redact: bool = True) -> str:
    """The report as Markdown for an issue."""
    from fp8doctor.reporting.markdown import render

    return render(view(report, redact=redact))


def report_to_html(report: Report, *, redact: bool = True) -> str:
    """The report as one HTML page with charts.

    Raises:
        fp8doctor.reporting.html.MissingChartsError: if what draws them is not installed (the extra `html`).
    """
    from fp8doctor.reporting.html import render

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


def fleet_view(fleet: FleetReport, *, redact: bool = True) -> dict[str, Any]:
    """The report of many nodes as JSON values, with its schema.

    Redacted unless asked otherwise; the names of nodes stay, which is how a person finds them.
    """
    from fp8doctor.fleet.record import FLEET_SCHEMA, FLEET_VERSION

    document = {"schema": FLEET_SCHEMA, "schema_version": FLEET_VERSION, **to_plain(fleet)}
    if not redact:
        return document
    from fp8doctor.reporting.redaction import NOBODY
    from fp8doctor.reporting.redaction import redact as redacted

    # This machine's own names are those of a node.
    return redacted(document, NOBODY)


def fleet_to_json(fleet: FleetReport, *, redact: bool = True) -> str:
    """The report of many nodes as indented JSON text."""
    return store.encode(fleet_view(fleet, redact=redact))


def fleet_to_markdown(fleet: FleetReport, *, redact: bool = True) -> str:
    """The report of many nodes as Markdown for an issue."""
    from fp8doctor.reporting.fleet import to_markdown

    return to_markdown(fleet_view(fleet, redact=redact))


def fleet_to_html(fleet: FleetReport, *, redact: bool = True) -> str:
    """The report of many nodes as one HTML page with charts.

    Raises:
        fp8doctor.reporting.html.MissingChartsError: if what draws them is not installed (the extra `html`).
    """
    from fp8doctor.reporting.fleet import to_html

    return to_html(fleet_view(fleet, redact=redact))


def facts_to_json(report: Report, *, redact: bool = True) -> str:
    """The facts of the report alone, for `fp8doctor diagnose`."""
    document = store.facts_document(report)
    return store.encode(_redacted(document) if redact else document)


def view(report: Report, *, redact: bool = True) -> dict[str, Any]:
    """What renderers see: the report's document with the header line's pieces, redacted unless asked otherwise."""
    document = {**store.report_document(report), "captions": list(report.captions)}
    return _redacted(document) if redact else document


def terminal_view(report: Report, *, verbose: bool = False, redact: bool = True) -> dict[str, Any]:
    """The same as far as a terminal shows it: of the facts what a text was, of the exhibits those that answer why."""
    facts = {key: record for key, record in report.facts.items() if key == Reading.key}
    exhibits = report.exhibits if verbose else tuple(one for one in report.exhibits if one.answers_why)
    return view(dataclasses.replace(report, facts=facts, exhibits=exhibits), redact=redact)


def _document(report: Report, redact: bool) -> dict[str, Any]:
    document = store.report_document(report)
    return _redacted(document) if redact else document


def _redacted(document: dict[str, Any]) -> dict[str, Any]:
    from fp8doctor.reporting.redaction import redact

    return redact(document)
