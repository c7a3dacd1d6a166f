"""What was not written by fp8doctor, or is being read, is never written over."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.command import called, complaint

TRACES = Path(__file__).parent.parent / "traces"


def demo(*arguments: str) -> int:
    return called("demo", "no-gpu", *arguments).returncode


@pytest.mark.parametrize("flag", ["--markdown", "--json"])
def test_an_option_that_took_a_trace_for_its_file_leaves_the_trace_as_it_was(tmp_path: Path, flag: str) -> None:
    mine, other = (str(shutil.copy(TRACES / "eager-fp8.json.gz", tmp_path / name)) for name in ("a.gz", "b.gz"))
    before = Path(mine).read_bytes()
    said = complaint("trace", flag, mine, other)
    assert f"{mine} is there, and nothing that fp8doctor wrote" in said
    assert f"without a FILE, {flag} comes last" in said
    assert Path(mine).read_bytes() == before


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    for text in ("# My notes", '{"schema": "somebody.else"}', "I ran ### fp8doctor"):
        (tmp_path / "notes").write_text(text)
        assert "is not overwritten" in complaint("demo", "--json", str(tmp_path / "notes"))
        assert "is not overwritten. See: fp8doctor collect" in complaint("collect", "-o", str(tmp_path / "notes"))
        assert (tmp_path / "notes").read_text() == text


@pytest.mark.parametrize("flag", ["--markdown", "--json"])
def test_what_fp8doctor_wrote_and_what_is_empty_may_be_written_over(tmp_path: Path, flag: str) -> None:
    place = tmp_path / "report"
    place.touch()
    assert demo(flag, str(place)) == 0
    place.write_text(f"\n{place.read_text()}")
    assert demo(flag, str(place)) == 0
    assert not place.read_text().startswith("\n")
    assert demo("--json", str(place)) == demo("--markdown", str(place)) == 0


def test_what_a_report_is_made_from_is_not_overwritten(tmp_path: Path) -> None:
    saved = str(tmp_path / "box.json")
    assert demo("--json", saved) == 0
    for command in (["diagnose", saved], ["read", saved], ["diff", saved, "no-gpu"], ["diff", "no-gpu", saved]):
        assert "this file is read, and is not overwritten" in complaint(*command, "--json", saved)


@pytest.mark.parametrize(
    ("command", "missing"), [(["read"], "FILE"), (["diagnose"], "FILE"), (["diff", "a.json"], "B"), (["trace"], "FILE")]
)
def test_an_option_that_took_the_argument_is_named(command: list[str], missing: str) -> None:
    said = complaint(*command[:1], "--json", "issue.md", *command[1:])
    assert f"Missing argument '{missing}" in said
    assert "--json takes a FILE after it, here issue.md: without one it comes last" in said


def test_bench_says_so_too() -> None:
    assert "Name a workload, or a folder with --pipeline; --json takes a FILE" in complaint("bench", "--json", "flux")
