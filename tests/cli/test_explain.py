"""`fp8doctor explain`: the page of a rule, with what the last examination on this machine found of it."""

from __future__ import annotations

import json
import os
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor import api
from fp8doctor.cli import last_report, run
from fp8doctor.cli.demo import recorded
from tests.command import called, complaint

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the last report is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fp8doctor" / "last-report.json"


def explained(capfd: Captured, *arguments: str) -> str:
    assert run(["explain", *arguments]) == 0
    out, error = capfd.readouterr()
    assert error == ""
    return " ".join(out.split())


def test_the_sections_are_shown_in_their_order(capfd: Captured) -> None:
    text = explained(capfd, "LIN004")
    titles = ["What it means:", "How it is established:", "Why it costs time:", "What to do:", "Sources:"]
    assert sorted(titles, key=text.index) == titles
    assert "What it costs here" not in text


def test_the_last_reports_figures_are_shown(capfd: Captured) -> None:
    last_report.keep(api.diagnose(recorded()["h200"]))
    text = explained(capfd, "CMP002")
    assert "In the last report on this machine (2026-11-21, NVIDIA H200): - At 4096x3072x3072 eager FP8" in text
    assert "what to do gives 2.69x over torchao float8 row-wise" in text
    assert "it was looked for and not found" in explained(capfd, "GPU003")


def test_without_a_rule_the_first_finding_is_explained(capfd: Captured) -> None:
    assert "Name a rule, ID|NAME" in complaint("explain")
    last_report.keep(api.diagnose(recorded()["no-gpu"]))
    assert explained(capfd).startswith("GPU002 no-gpu-visible")


def test_an_examination_is_kept_redacted_and_for_its_owner_alone(place: Path, other_python: str) -> None:
    assert called("--quick", "--no-redact", "--fail-on", "never", "--python", other_python).returncode == 0
    kept = json.loads(place.read_text(encoding="utf-8"))
    assert kept["source"] == "live"
    assert str(Path.home()) not in place.read_text(encoding="utf-8")
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert [one.name for one in place.parent.iterdir() if one.is_file()] == ["last-report.json"]
    assert "In the last report on this machine" in " ".join(called("explain", "GPU001").stdout.split())


def test_nothing_is_kept_without_a_cache_nor_of_what_is_no_examination(place: Path, other_python: str) -> None:
    assert called("--quick", "--no-cache", "--fail-on", "never", "--python", other_python).returncode == 0
    assert run(["demo", "no-gpu"]) == 0
    assert not place.exists()


def test_where_nothing_can_be_written_nothing_is_said(place: Path) -> None:
    place.parent.write_text("a file where the folder should be")
    last_report.keep(api.diagnose(recorded()["no-gpu"]))
    assert last_report.read() is None


def test_a_report_that_cannot_be_kept_costs_the_examination_nothing(place: Path) -> None:
    """A plug-in's facts may hold what is no JSON."""
    last_report.keep(replace(api.diagnose(recorded()["no-gpu"]), facts={"gpus": {"gpus": object()}}))
    assert not place.exists()
    assert list(place.parent.iterdir()) == []


def test_the_report_is_delivered_before_it_is_kept(tmp_path: Path, place: Path, other_python: str) -> None:
    assert run(["--quick", "--fail-on", "never", "-o", str(tmp_path / "box.txt"), "--python", other_python]) == 0
    assert (tmp_path / "box.txt").stat().st_mtime_ns <= place.stat().st_mtime_ns


def test_what_a_killed_run_left_is_removed_and_what_another_run_writes_now_is_not(place: Path) -> None:
    place.parent.mkdir()
    left, written = (place.with_name(f"{place.name}{ending}") for ending in ("k1lled", "wr1ting"))
    for one in (left, written):
        one.write_text("{")
    an_hour_ago = time.time() - 3600
    os.utime(left, (an_hour_ago, an_hour_ago))
    last_report.keep(api.diagnose(recorded()["no-gpu"]))
    assert sorted(one.name for one in place.parent.iterdir()) == [place.name, written.name]


def whole() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(api.diagnose(recorded()["no-gpu"]).to_json())
    return document


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1]",
        b"[" * 100_000,
        json.dumps({**whole(), "schema": "somebody.else"}).encode(),
        json.dumps({**whole(), "outcomes": [{"id": "GPU002", "outcome": "great"}]}).encode(),
        json.dumps({**whole(), "facts": {"gpus": {"gpus": "many"}}}).encode(),
        json.dumps({**whole(), "created": None}).encode(),
        json.dumps(whole()).encode() + b" " * last_report.LARGEST_BYTES,
    ],
)
def test_a_kept_report_that_is_broken_foreign_or_huge_is_passed_over(
    capfd: Captured, place: Path, content: bytes
) -> None:
    place.parent.mkdir()
    place.write_bytes(content)
    assert last_report.read() is None
    assert "What it costs here" not in explained(capfd, "GPU002")


def test_so_is_one_that_is_a_folder(capfd: Captured, place: Path) -> None:
    place.mkdir(parents=True)
    assert "What it costs here" not in explained(capfd, "GPU002")


def test_what_a_kept_report_says_cannot_disturb_the_terminal(capfd: Captured, place: Path) -> None:
    document = whole()
    document["findings"][0]["title"] = "\x1b[2J\x1b]0;mine\x07wiped"
    document["facts"]["gpus"] = {"gpus": [{"name": "\x1b[31mGPU"}]}
    place.parent.mkdir()
    place.write_text(json.dumps(document))
    assert run(["explain", "GPU002"]) == 0
    out = capfd.readouterr().out
    assert "wiped" in out
    assert "\x1b" not in out
