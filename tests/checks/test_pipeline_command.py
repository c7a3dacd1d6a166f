"""`fp8doctor bench --pipeline`: a folder that is none ends it before it begins, with one line and status 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.checks.test_pipeline_folder import INDEX, laid_out, write
from tests.command import called, complaint


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--pipeline", "nowhere"), "nowhere cannot be measured: there is no such folder. See: fp8doctor bench --help"),
        (("--pipeline", "nowhere", "flux"), "there is no such folder"),
        (("flux", "--prompt", "a fox"), "--prompt and --steps go with --pipeline FOLDER"),
        (("flux", "--steps", "4"), "--prompt and --steps go with --pipeline FOLDER"),
        (("--pipeline",), "--pipeline"),
        ((), "Name a workload, or a folder with --pipeline"),
    ],
)
def test_wrong_calls(arguments: tuple[str, ...], says: str) -> None:
    assert says in complaint("bench", *arguments)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    said = complaint("bench", "--pipeline", str(tmp_path), "-o", str(tmp_path / "out"))
    assert "it has no model_index.json, which every pipeline of diffusers has" in said


def test_a_folder_with_a_part_missing(tmp_path: Path) -> None:
    write(tmp_path / "model_index.json", INDEX)
    assert "its part scheduler is missing" in complaint("bench", "--pipeline", str(tmp_path))


def test_a_folder_whose_images_cannot_be_drawn_here_still_gives_a_report(tmp_path: Path, other_python: str) -> None:
    out = tmp_path / "out"
    folder = laid_out(tmp_path / "painter")
    asked = ("--pipeline", str(folder), "-o", str(out), "--budget", "55", "--python", other_python)
    run = called("bench", *asked)
    assert run.returncode in (0, 1), run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    facts = json.loads((out / "report.json").read_text(encoding="utf-8"))["facts"]["pipeline"]
    assert (facts["asked"], facts["folder"], facts["measurable"]) == (True, "painter", False)
    assert facts["why_not"]
    assert str(tmp_path) not in json.dumps(facts)
