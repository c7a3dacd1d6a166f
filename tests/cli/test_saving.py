"""-o FILE writes the report in the form that the ending says, and nothing over what somebody else wrote."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fp8doctor.cli import run
from tests.command import called, complaint

HAS_CHARTS = all(importlib.util.find_spec(module) for module in ("vl_convert", "jinja2"))
with_charts = pytest.mark.skipif(not HAS_CHARTS, reason="the extra html is not installed")
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def demo(*arguments: str) -> int:
    return run(["demo", "no-gpu", *arguments])


def test_the_ending_says_the_form(capfd: Captured, folder: Path) -> None:
    names = ["a.json", "b.md", "c.markdown", "d.txt", "E.JSON"]
    assert demo(*(word for name in names for word in ("-o", name))) == 0
    out, error = capfd.readouterr()
    assert "VERDICT" in out
    assert error.splitlines() == [f"fp8doctor: wrote {name}" for name in names]
    assert json.loads((folder / "a.json").read_text())["schema"] == "fp8doctor.report"
    assert (folder / "E.JSON").read_text() == (folder / "a.json").read_text()
    assert (folder / "b.md").read_text() == (folder / "c.markdown").read_text()
    assert (folder / "b.md").read_text().startswith("### fp8doctor")


def test_a_text_is_what_a_terminal_of_100_columns_shows_without_colours(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run(["demo", "h200", "-o", "r.txt"]) == 0
    text = (folder / "r.txt").read_text()
    assert text.replace("fp8doctor 0.1.0", "fp8doctor", 1) == Path(__file__).parents[1].joinpath(
        "golden", "h200.txt"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["report", "report.pdf", "report.jsn", ".json", "-", "report.json.gz", "x" * 5000])
def test_another_ending_is_refused_before_any_work(capfd: Captured, name: str) -> None:
    assert demo("-o", name) == 2
    out, error = capfd.readouterr()
    assert out == ""
    assert "the ending of FILE says the form; there is .json, .md, .markdown, .html, .htm, .txt" in error


@pytest.mark.parametrize("name", ["r.json", "r.md", "r.txt"])
def test_what_we_wrote_is_written_over_and_nothing_else(capfd: Captured, folder: Path, name: str) -> None:
    place = folder / name
    assert demo("-o", name) == demo("-o", name) == 0
    for theirs in ("my notes", "fp8doctor 0.1.0 is slow", "fp8doctor says", "<!doctype html>\n<p>", '{"a": 1}'):
        place.write_text(theirs)
        assert demo("-o", name) == 2
        assert "nothing that fp8doctor wrote: it is not overwritten" in capfd.readouterr().err
        assert place.read_text() == theirs


def test_a_difference_and_a_text_of_it_are_ours_too(folder: Path) -> None:
    for _ in range(2):
        assert run(["diff", "h200", "no-gpu", "-o", "d.txt", "-o", "d.json", "-o", "d.md"]) == 0
    assert (folder / "d.txt").read_text().startswith("fp8doctor diff")
    assert json.loads((folder / "d.json").read_text())["schema"] == "fp8doctor.difference"
    assert "there is .json, .md, .markdown, .txt" in complaint("diff", "h200", "no-gpu", "-o", "d.html")


def test_a_folder_a_missing_folder_and_what_is_read_are_refused(folder: Path) -> None:
    (folder / "there.json").mkdir()
    assert "it is a folder" in complaint("demo", "-o", "there.json")
    assert "there is no folder nowhere" in complaint("demo", "-o", "nowhere/r.json")
    assert demo("-o", "r.json") == 0
    assert "-o r.json: this file is read" in complaint("diagnose", "r.json", "-o", "r.json")


@pytest.mark.parametrize("target", ["r.json", "nowhere/r.json"])
def test_a_link_that_leads_nowhere_is_refused(folder: Path, target: str) -> None:
    (folder / "r.json").symlink_to(target)
    assert "it is a link that leads nowhere" in complaint("demo", "-o", "r.json")
    assert "it is a link that leads nowhere" in complaint("demo", "--json", "r.json")


def test_one_file_cannot_hold_two_forms(folder: Path) -> None:
    assert "r.json is named twice" in complaint("demo", "--markdown", "r.json", "-o", "r.json")
    assert "./r.json is named twice" in complaint("demo", "-o", "r.json", "-o", "./r.json")


def test_json_alone_on_standard_output_goes_with_files(capfd: Captured, folder: Path) -> None:
    assert demo("--json", "-o", "r.md") == 0
    assert json.loads(capfd.readouterr().out)["source"] == "demo"
    assert (folder / "r.md").exists()


def test_bench_takes_a_folder_and_files(folder: Path) -> None:
    complaints = complaint("bench", "llama-8b", "-o", "one", "-o", "two")
    assert "-o takes one FOLDER, not both one and two" in complaints
    assert not (folder / "one").exists()
    (folder / "notes.md").write_text("mine")
    assert "notes.md is there" in complaint("bench", "llama-8b", "-o", "notes.md")
    assert "--resume goes with -o FOLDER" in complaint("bench", "llama-8b", "--resume", "-o", "r.json")
    (folder / "results.json").mkdir()
    (folder / "results.json" / "report.json").write_text("{}")
    assert "neither a facts file nor a report" in complaint("bench", "llama-8b", "-o", "results.json")


def test_collect_keeps_its_facts(folder: Path, other_python: str) -> None:
    assert called("collect", "--quick", "--no-cache", "-o", "box.md", "--python", other_python).returncode == 0
    assert json.loads((folder / "box.md").read_text())["schema"] == "fp8doctor.facts"


# --- HTML -------------------------------------------------------------------------------------------------------------


@with_charts
def test_html_is_a_page_of_ours(capfd: Captured, folder: Path) -> None:
    for arguments in (["-o", "r.html"], ["-o", "r.htm"], ["--html", "page"], ["--html", "page"]):
        assert demo(*arguments) == 0
        page = (folder / arguments[1]).read_text(encoding="utf-8")
        assert page.startswith("<!doctype html>\n<!-- fp8doctor")
    assert demo("--html", "r.html", "--json") == 0


def test_html_needs_a_file() -> None:
    assert "requires an argument" in complaint("demo", "--html")
    assert "HTML goes to a FILE" in complaint("demo", "--html", "-")


def test_missing_charts_are_told_before_a_minutes_work(folder: Path) -> None:
    """An interpreter that has none of the extra: its modules are hidden by ones that cannot be found."""
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'vl_convert' else find(name, *rest)\n"
        "from fp8doctor.cli import main; main(sys.argv[1:])"
    )
    for arguments in (["--html", "r.html"], ["-o", "r.html"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=30)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "vl-convert-python" in done.stderr
    assert not (folder / "r.html").exists()
