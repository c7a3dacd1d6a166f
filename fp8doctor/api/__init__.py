"""The public API: examine this box, diagnose facts, texts and traces. The one place where the rooms come together."""

from __future__ import annotations

from fp8doctor.api.assembling import knowledge, read_report
from fp8doctor.api.diagnosing import NothingRecognisedError, diagnose, diff, read, trace
from fp8doctor.api.documents import (
    difference_to_json,
    difference_to_markdown,
    difference_view,
    facts_to_json,
    fleet_to_html,
    fleet_to_json,
    fleet_to_markdown,
    fleet_view,
    report_to_html,
    report_to_json,
    report_to_markdown,
    report_to_text,
    terminal_view,
    view,
)
from fp8doctor.api.examining import (
    BUDGET_S,
    RESERVE_S,
    CannotExamineError,
    InterruptedExaminationError,
    Options,
    examine,
    look,
)
from fp8doctor.api.fleets import merge
from fp8doctor.judging.report import Report

__all__ = [
    "BUDGET_S",
    "RESERVE_S",
    "CannotExamineError",
    "InterruptedExaminationError",
    "NothingRecognisedError",
    "Options",
    "Report",
    "diagnose",
    "diff",
    "difference_to_json",
    "difference_to_markdown",
    "difference_view",
    "examine",
    "facts_to_json",
    "fleet_to_html",
    "fleet_to_json",
    "fleet_to_markdown",
    "fleet_view",
    "knowledge",
    "look",
    "merge",
    "read",
    "read_report",
    "report_to_html",
    "report_to_json",
    "report_to_markdown",
    "report_to_text",
    "terminal_view",
    "trace",
    "view",
]
