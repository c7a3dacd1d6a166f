"""--select and --ignore, on the command line and in the settings of a folder."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.cli import run
from tests.command import called, complaint

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of its own, so that no settings around it are found."""
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report(capfd: Captured, *arguments: str) -> dict[str, Any]:
    assert run([*arguments, "--json"]) in (0, 1)
    document: dict[str, Any] = json.loads(capfd.readouterr().out)
    return document


def silenced(capfd: Captured, *arguments: str) -> dict[str, str]:
    return {one["id"]: one["by"] for one in report(capfd, *arguments)["silenced"]}


def refused(capfd: Captured, *arguments: str) -> str:
    assert run(["demo", "no-gpu", *arguments]) == 2
    out, error = capfd.readouterr()
    assert out == ""
    assert error.startswith("fp8doctor: ")
    assert len(error.splitlines()) == 1
    return error


def test_what_is_ignored_is_not_told_and_the_report_says_why(capfd: Captured) -> None:
    quiet = report(capfd, "demo", "h200", "--ignore", "cmp002,LAD", "--ignore", "cpu-launch-bound")
    by = {one["id"]: one["by"] for one in quiet["silenced"]}
    assert by["CMP002"] == "--ignore cmp002"
    assert by["LIN004"] == "--ignore cpu-launch-bound"
    assert not {finding["id"] for finding in quiet["findings"]} & set(by)


def test_of_what_is_selected_alone_is_told(capfd: Captured) -> None:
    only = report(capfd, "demo", "h200", "--select", "LIN")
    assert {finding["id"][:3] for finding in only["findings"]} == {"LIN"}
    assert {one["by"] for one in only["silenced"]} == {"--select LIN"}


def test_what_is_silenced_does_not_count_for_the_exit_status(capfd: Captured) -> None:
    assert run(["demo", "no-gpu", "--fail-on", "error"]) == 1
    assert run(["demo", "no-gpu", "--fail-on", "error", "--ignore", "GPU002"]) == 0
    assert run(["demo", "no-gpu", "--fail-on", "error", "--select", "LIN"]) == 0


def test_a_saved_report_keeps_what_it_silenced(capfd: Captured, folder: Path) -> None:
    assert run(["demo", "no-gpu", "-o", "quiet.json", "-o", "quiet.md", "--ignore", "GPU"]) == 0
    capfd.readouterr()
    assert silenced(capfd, "diagnose", "quiet.json") == {"GPU002": "--ignore GPU"}
    assert silenced(capfd, "read", "quiet.md") == {"GPU002": "--ignore GPU"}
    assert run(["diagnose", "quiet.json"]) == 0


@pytest.mark.parametrize("file", ["quiet.json", "quiet.md"])
def test_what_a_saved_report_silenced_is_shown_again_where_the_command_selects_it(
    capfd: Captured, folder: Path, file: str
) -> None:
    assert run(["demo", "no-gpu", "-o", file, "--ignore", "GPU002"]) == 0
    capfd.readouterr()
    for command in ("diagnose", "read") if file == "quiet.json" else ("read",):
        again = report(capfd, command, file, "--select", "GPU002")
        assert [one["id"] for one in again["findings"]] == ["GPU002"]
        assert again["silenced"] == []
        assert run([command, file, "--select", "GPU"]) == 1
        capfd.readouterr()
    (folder / "fp8doctor.toml").write_text('select = ["GPU"]')
    assert silenced(capfd, "read", file) == {"GPU002": "--ignore GPU002"}


def test_a_difference_tells_what_is_silenced_and_compares_it_in_neither(capfd: Captured) -> None:
    assert run(["diff", "h200", "h200-torch-only", "--json"]) == 0
    told = {one["id"] for one in json.loads(capfd.readouterr().out)["finding_changes"]}
    assert "CMP002" in told
    assert run(["diff", "h200", "h200-torch-only", "--json", "--ignore", "CMP002"]) == 0
    out, error = capfd.readouterr()
    assert error == ""
    quiet = json.loads(out)
    assert {one["id"] for one in quiet["finding_changes"]} == told - {"CMP002"}
    assert quiet["silenced"] == [{"id": "CMP002", "name": "not-compiled", "by": "--ignore CMP002"}]


def test_an_ignored_error_that_is_new_is_seen_in_every_form_of_the_difference(capfd: Captured, folder: Path) -> None:
    assert run(["diff", "h200", "no-gpu", "--fail-on", "error"]) == 1
    capfd.readouterr()
    assert (
        run(["diff", "h200", "no-gpu", "--fail-on", "error", "--ignore", "GPU002", "-o", "a.md", "-o", "a.json"]) == 0
    )
    for text in (capfd.readouterr().out, (folder / "a.md").read_text()):
        assert "Silenced" in text
        assert "GPU002 no-gpu-visible (--ignore GPU002)" in text
    assert [one["id"] for one in json.loads((folder / "a.json").read_text())["silenced"]] == ["GPU002"]


@pytest.mark.parametrize("option", ["--select", "--ignore"])
@pytest.mark.parametrize("value", ["LIM004", "no-fp8-hardwear", "", "LIN004,,CMP002", "LIN004 CMP002", "x" * 9000])
def test_a_rule_that_there_is_not_is_refused(capfd: Captured, option: str, value: str) -> None:
    said = refused(capfd, option, value)
    assert f"Invalid value for '{option}': no rule" in said
    assert len(said) < 400


def test_one_that_is_close_is_named(capfd: Captured) -> None:
    assert "no rule 'no-fp8-hardwear'; did you mean no-fp8-hardware" in refused(capfd, "--ignore", "no-fp8-hardwear")


def test_the_examination_itself_is_told(folder: Path, other_python: str) -> None:
    quiet = json.loads(called("--quick", "--no-cache", "--json", "--select", "LIN", "--python", other_python).stdout)
    assert quiet["findings"] == []
    assert "LIM" in complaint("--quick", "--ignore", "LIM")


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [("fp8doctor.toml", 'ignore = ["GPU"]'), ("pyproject.toml", '[tool.fp8doctor]\nignore = ["no-gpu-visible"]')],
)
def test_a_folders_settings_silence(capfd: Captured, folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    assert silenced(capfd, "demo", "no-gpu") == {"GPU002": name}


def test_the_nearest_folder_with_settings_counts_up_to_the_repositorys_root(
    capfd: Captured, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = folder / "repository" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    (folder / "fp8doctor.toml").write_text('ignore = ["GPU"]')
    (inner / "pyproject.toml").write_text('[project]\nname = "fp8doctor-user"')
    assert silenced(capfd, "demo", "no-gpu") == {"GPU002": str(Path("..", "..", "fp8doctor.toml"))}
    (folder / "repository" / "pyproject.toml").write_text("[tool.fp8doctor]")
    assert silenced(capfd, "demo", "no-gpu") == {}
    (folder / "repository" / "pyproject.toml").unlink()
    (folder / "repository" / ".git").write_text("gitdir: elsewhere")
    assert silenced(capfd, "demo", "no-gpu") == {}


def test_our_own_file_goes_before_the_shared_one(capfd: Captured, folder: Path) -> None:
    (folder / "fp8doctor.toml").write_text('select = ["LIN"]')
    (folder / "pyproject.toml").write_text('[tool.fp8doctor]\nignore = ["GPU"]')
    assert silenced(capfd, "demo", "no-gpu") == {"GPU002": "fp8doctor.toml"}


def test_the_command_line_adds_to_what_is_ignored_and_replaces_the_rest(capfd: Captured, folder: Path) -> None:
    (folder / "fp8doctor.toml").write_text('ignore = ["CMP002"]\nselect = ["CMP"]\nfail-on = "never"')
    by = silenced(capfd, "demo", "h200", "--ignore", "LIN004", "--select", "LIN")
    assert by["CMP002"] == "fp8doctor.toml"
    assert by["LIN004"] == "--ignore LIN004"
    assert "LIN003" not in by
    run(["demo", "no-gpu", "-o", "box.json", "--select", "GPU"])
    assert run(["diagnose", "box.json"]) == 0
    assert run(["diagnose", "box.json", "--fail-on", "error", "--select", "GPU"]) == 1


def test_a_command_that_shows_and_never_fails_is_not_made_to_fail_by_a_file(capfd: Captured, folder: Path) -> None:
    (folder / "fp8doctor.toml").write_text('fail-on = "warning"')
    assert run(["demo", "no-gpu"]) == 0
    assert run(["diff", "h200", "no-gpu"]) == 0


def test_a_file_that_changes_the_exit_status_is_named(capfd: Captured, folder: Path) -> None:
    (folder / "fp8doctor.toml").write_text('fail-on = "never"')
    (folder / "inner").mkdir()
    assert run(["demo", "no-gpu", "-o", "box.json"]) == 0
    capfd.readouterr()
    os.chdir(folder / "inner")
    assert run(["diagnose", "../box.json"]) == 0
    file = Path("..", "fp8doctor.toml")
    assert capfd.readouterr().err == f'fp8doctor: exit status 0 and not 1, by fail-on = "never" in {file}\n'
    for arguments in (["--fail-on", "never"], ["--fail-on", "error"], ["--ignore", "GPU"]):
        run(["diagnose", "../box.json", *arguments])
        assert capfd.readouterr().err == ""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("name", ["fp8doctor.toml", "pyproject.toml"])
def test_a_file_of_another_user_is_not_taken_and_that_is_said(capfd: Captured, folder: Path, name: str) -> None:
    place, said = folder / name, f"fp8doctor: {folder / name} is passed over: another user owns it\n"
    place.write_text('[tool.fp8doctor]\nignore = ["GPU"]' if name == "pyproject.toml" else 'ignore = ["GPU"]')
    assert silenced(capfd, "demo", "no-gpu") == {"GPU002": name}
    os.chown(place, 12345, -1)
    assert run(["demo", "no-gpu", "--json"]) == 0
    out, error = capfd.readouterr()
    assert (json.loads(out)["silenced"], error) == ([], said)
    ours = folder / "ours.toml"
    place.rename(ours)
    os.chown(ours, 0, -1)
    place.symlink_to(ours)
    os.chown(place, 12345, -1, follow_symlinks=False)
    assert run(["demo", "no-gpu"]) == 0
    assert capfd.readouterr().err == said


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_no_file_of_another_user_ends_a_command_or_is_told_of_without_need(capfd: Captured, folder: Path) -> None:
    ours, shared = folder / "fp8doctor.toml", folder / "pyproject.toml"
    shared.write_text("[project]")
    os.chown(shared, 12345, -1)
    assert run(["demo", "no-gpu"]) == 0
    assert capfd.readouterr().err == ""
    ours.write_text("broken")
    os.chown(ours, 12345, -1)
    shared.unlink()
    shared.write_text('[tool.fp8doctor]\nignore = ["GPU"]')
    assert run(["demo", "no-gpu", "--json"]) == 0
    out, error = capfd.readouterr()
    assert [one["by"] for one in json.loads(out)["silenced"]] == ["pyproject.toml"]
    assert error == f"fp8doctor: {ours} is passed over: another user owns it\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ignore = [", "no TOML: "),
        ("a = 1", "no setting 'a'; there is select, ignore, fail-on"),
        ("ignroe = []", "no setting 'ignroe'; did you mean ignore?"),
        ('ignore = "GPU"', 'ignore is a list of rules, such as ["LIN004"]'),
        ("select = [1]", "select is a list of rules"),
        ("select = {LIN = true}", "select is a list of rules"),
        ('fail-on = "info"', "fail-on is one of error, warning, never"),
        ("fail-on = []", "fail-on is one of error"),
        ('ignore = ["GUP002"]', "ignore: no rule 'GUP002'; did you mean G"),
        ('ignore = [""]', "ignore: no rule ''"),
        ("ignore = " + "[" * 100_000, "nested too deeply"),
        ("a." * 5000 + "a = 1", "a line has more than 100 dots"),
        ("# " + "x" * (1 << 20), "larger than 1 MiB"),
        ('"\\u001b[31m" = 1', "no setting '\\x1b[31m'"),
    ],
)
def test_settings_that_are_none_end_the_command(capfd: Captured, folder: Path, text: str, says: str) -> None:
    (folder / "fp8doctor.toml").write_text(text)
    said = refused(capfd)
    assert "fp8doctor.toml: " in said
    assert says in said


def test_so_does_our_table_in_the_shared_file(capfd: Captured, folder: Path) -> None:
    for text in ("[tool.fp8doctor]\nignroe = []", "[tool]\nfp8doctor = 3"):
        (folder / "pyproject.toml").write_text(text)
        assert "pyproject.toml: " in refused(capfd)


def test_our_own_file_that_is_a_folder_or_no_text_ends_it_too(capfd: Captured, folder: Path) -> None:
    (folder / "fp8doctor.toml").write_bytes(b"\xff\xfe")
    assert "no TOML" in refused(capfd)
    (folder / "fp8doctor.toml").unlink()
    (folder / "fp8doctor.toml").mkdir()
    assert "it is no file" in refused(capfd)


def test_a_shared_file_without_our_table_is_nobodys_business(capfd: Captured, folder: Path) -> None:
    for content in (b"[tool]\nruff = 1", b"tool = 3", b"not = [toml", b"\xff", b"#" * (3 << 20), b""):
        (folder / "pyproject.toml").write_bytes(content)
        assert run(["demo", "no-gpu"]) == 0
        assert capfd.readouterr().err == ""


def test_one_that_names_us_and_cannot_be_read_is_passed_over_aloud(capfd: Captured, folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.fp8doctor]\nignore = [")
    assert run(["demo", "no-gpu"]) == 0
    error = capfd.readouterr().err
    assert "pyproject.toml is passed over: no TOML" in error
    assert len(error.splitlines()) == 1


def test_no_settings_file_takes_long(capfd: Captured, folder: Path) -> None:
    """A key of 500,000 parts takes tomllib an hour."""
    os.mkfifo(folder / "pyproject.toml")
    started = time.monotonic()
    assert run(["demo", "no-gpu"]) == 0
    (folder / "pyproject.toml").unlink()
    (folder / "pyproject.toml").write_text("[tool.fp8doctor]\n" + "a." * 500_000 + "a = 1")
    assert run(["demo", "no-gpu"]) == 0
    assert time.monotonic() - started < 30


def test_help_and_version_look_for_no_settings(folder: Path) -> None:
    (folder / "fp8doctor.toml").write_text("broken")
    for arguments in (["--help"], ["--version"], ["demo", "--help"], ["rules"], ["explain", "GPU001"]):
        run = called(*arguments)
        assert (run.returncode, run.stderr) == (0, "")
