"""A file that belongs to another command: the complaint names that command."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

from tests.cli.test_bad_input import ENVELOPE
from tests.command import complaint

TRACE = Path(__file__).parent.parent / "traces" / "eager-fp8.json.gz"


def test_a_trace_goes_to_trace(tmp_path: Path) -> None:
    plain = tmp_path / "my trace.json"
    plain.write_bytes(gzip.decompress(TRACE.read_bytes()))
    assert f"it is a profiler's trace, which `fp8doctor trace {TRACE}` reads" in complaint("read", str(TRACE))
    assert f"`fp8doctor trace {TRACE}` reads" in complaint("diagnose", str(TRACE))
    assert f"`fp8doctor trace '{plain}'` reads" in complaint("diagnose", str(plain))


def test_two_traces_become_reports_before_they_are_compared(tmp_path: Path) -> None:
    file = shutil.copy(TRACE, tmp_path / "a.json.gz")
    said = complaint("diff", str(file), str(file))
    assert f"make a report of each first, `fp8doctor trace {file} --json a.report.json`, and compare those" in said


def test_a_text_goes_to_read_and_a_report_to_diagnose(tmp_path: Path) -> None:
    text, report = tmp_path / "issue.md", tmp_path / "box.json"
    text.write_text("PyTorch version: 2.6.0+cu124\n")
    report.write_text(json.dumps(ENVELOPE))
    assert f"if somebody pasted it, `fp8doctor read {text}` reads it" in complaint("diagnose", str(text))
    assert f"`fp8doctor read {text}` reads it" in complaint("trace", str(text))
    assert f"it is a report of fp8doctor, which `fp8doctor diagnose {report}` reads" in complaint("trace", str(report))


def test_a_trace_is_no_standard_input() -> None:
    assert "A trace is read from a file, not from standard input." in complaint("trace", "-")


def test_whoever_pastes_prose_is_told_what_can_be_pasted() -> None:
    said = complaint("read", "-", text="FP8 is slow on my machine.")
    assert "what can be pasted: what `python -m torch.utils.collect_env` or `nvidia-smi` prints" in said


def test_a_file_that_is_not_there_and_one_cut_short_are_called_that_alone(tmp_path: Path) -> None:
    cut = tmp_path / "box.json"
    cut.write_text('{"schema": "fp8doctor.facts", "schema_ver')
    assert "reads" not in complaint("diagnose", str(cut))
    assert "reads" not in complaint("diagnose", str(tmp_path / "none"))
