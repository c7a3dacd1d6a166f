"""`fp8doctor diff` as a real process: what it reads, what it prints where, and the status that it ends with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fp8doctor import api
from tests.command import called
from tests.difference_cases import BOXES, both, changed, fact, facts_file, recorded, slower

SLOWER = both(slower(1.3), fact("torch_build.version", "2.12.0+cu130"))


def test_two_files_are_compared(tmp_path: Path) -> None:
    a, b = facts_file(tmp_path / "a.json"), facts_file(tmp_path / "b.json", SLOWER)
    run = called("diff", str(a), str(b), COLUMNS="80")
    assert (run.returncode, run.stderr) == (0, "")
    assert "slower" in run.stdout
    assert "torch: 2.11.0+cu130 -> 2.12.0+cu130" in run.stdout


def test_recorded_boxes_go_by_their_names() -> None:
    run = called("diff", "h200", "h200-torch-only")
    assert run.returncode == 0
    assert "No times differ beyond the noise" in run.stdout


def test_a_report_a_folder_of_bench_and_standard_input_are_read(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(recorded().to_json(), encoding="utf-8")
    for pair in ((str(tmp_path), "-"), ("-", str(tmp_path))):
        run = called("diff", *pair, "--json", text=(BOXES / "h200.json").read_text())
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout)["changes"] == []


def test_json_and_markdown_go_to_files(tmp_path: Path) -> None:
    run = called("diff", "h200", "h200", "--json", str(tmp_path / "d.json"), "--markdown", str(tmp_path / "d.md"))
    assert run.returncode == 0
    assert json.loads((tmp_path / "d.json").read_text())["schema"] == "fp8doctor.difference"
    assert (tmp_path / "d.md").read_text().startswith("### fp8doctor diff")


@pytest.mark.parametrize(
    ("before", "after", "level", "status"),
    [
        ("a", "b", "never", 0),
        ("a", "b", "error", 1),
        ("b", "a", "error", 0),
        ("a", "a", "warning", 0),
        ("a", "c", "error", 0),
        ("a", "c", "warning", 1),
    ],
)
def test_it_fails_only_where_asked_to_and_where_b_is_worse(
    tmp_path: Path, before: str, after: str, level: str, status: int
) -> None:
    """b is slower; c has a new warning."""
    facts_file(tmp_path / "a.json")
    facts_file(tmp_path / "b.json", SLOWER)
    facts_file(tmp_path / "c.json", fact("machine.environment.CUDA_LAUNCH_BLOCKING", "1"))
    paths = [str(tmp_path / f"{name}.json") for name in (before, after)]
    assert called("diff", *paths, "--fail-on", level).returncode == status


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-", "-"], 'cannot both be "-"'),
        (["h200"], "Missing argument"),
        (["h200", "no-such-file.json"], "no-such-file.json: No such file"),
        (["h200", "{empty}"], "has no report.json"),
        (["h200", "{nonsense}"], "nonsense.txt"),
        (["h200", "{broken}"], "broken.json"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_status_2(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "nonsense.txt").write_text("my dog ate the log")
    (tmp_path / "broken.json").write_text('{"schema": "fp8doctor.facts"')
    (tmp_path / "empty").mkdir()
    places = {"{empty}": "empty", "{nonsense}": "nonsense.txt", "{broken}": "broken.json"}
    run = called("diff", *(str(tmp_path / places[a]) if a in places else a for a in arguments), text="")
    assert (run.returncode, run.stdout) == (2, "")
    assert words in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_the_api_does_the_same() -> None:
    found = api.diff(recorded(), changed(SLOWER))
    assert found.regressions
    assert found.to_json() == api.diff(recorded(), changed(SLOWER)).to_json()


def test_the_schema_can_be_printed() -> None:
    run = called("schema", "difference")
    assert json.loads(run.stdout)["title"] == "Difference of two reports of fp8doctor"
