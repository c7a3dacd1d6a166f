"""Healthy boxes stay healthy: on the recorded ones no warning and no error but what is truly wrong there."""

from __future__ import annotations

from pathlib import Path

import pytest

import fp8doctor
from fp8doctor.model import Severity
from tests.ward.boxes import TRUE_OF_BOXES
from tests.ward.visit import BOXES


@pytest.mark.parametrize("box", sorted(BOXES.glob("*.json")), ids=lambda file: file.stem)
def test_nothing_graver_than_a_lesson_is_said_but_what_was_established(box: Path) -> None:
    report = fp8doctor.diagnose(box)
    said = {finding.name for finding in report.findings if finding.severity is not Severity.INFO}
    assert said == TRUE_OF_BOXES[box.stem]
