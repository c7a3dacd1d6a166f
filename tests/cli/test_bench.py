"""`fp8doctor bench` as a process: what is refused, what is written into a folder, and what is read back from it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8doctor import api
from fp8doctor.checks.ladder import Ladder
from fp8doctor.cli import results
from fp8doctor.cli.results import table_csv
from fp8doctor.measuring.workloads import names
from fp8doctor.plain import to_plain
from tests.command import called, complaint, without_gpu
from tests.ladder_facts import FLUX, failed, more


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Name a workload, or a folder with --pipeline"),
        (["knitting"], f"'knitting' is no workload and no config.json; there is {', '.join(names())}"),
        (["flux", "--rung", "torch-bf17"], "no configuration 'torch-bf17'; there is torch-bf16, torch-fp16"),
        (["flux", "--rung", "torch-bf16+fast"], "no modifier 'fast'; there is lora"),
        (["flux", "--rung", "torch-bf16+lora+lora-fused"], "exclude one another"),
        (["flux", "--resume"], "--resume goes with -o FOLDER"),
        (["flux", "--budget", "4"], "must be between 5 and 86400 seconds"),
        (["flux", "--hit-rate", "1.5"], "--hit-rate"),
        (["flux", "-o", "/dev/null/x"], "cannot write into /dev/null/x: Not a directory"),
        (["flux", "--budget", "44"], "bench needs 45 s at least: 15 to look at the box, 25 to begin a configuration"),
        (["nofile.json"], "Invalid value for WORKLOAD: nofile.json: no such file."),
        (["no/such/model"], "no/such/model: no such file."),
    ],
)
def test_wrong_calls(arguments: list[str], says: str) -> None:
    assert says in complaint("bench", *arguments)


def test_a_workload_that_is_none_is_refused_with_what_there_is() -> None:
    said = complaint("--for", "x")
    for name in names():
        assert name in said


def test_a_folder_is_told_what_to_name_instead(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert f"{tmp_path} is a folder; name {tmp_path}/config.json." in complaint("bench", str(tmp_path))
    assert f"name {tmp_path}/config.json." in complaint("--for", str(tmp_path))
    (tmp_path / "model_index.json").write_text("{}")
    for command in ("bench", "--for"):
        assert f"{tmp_path} is a pipeline; fp8doctor bench --pipeline {tmp_path} measures it." in complaint(
            command, str(tmp_path)
        )
    (tmp_path / "empty").mkdir()
    assert "is a folder without a config.json." in complaint("bench", str(tmp_path / "empty"))


@without_gpu
def test_without_a_pipeline_none_is_asked_for_whatever_the_budget(other_python: str) -> None:
    run = called("bench", "flux", "--budget", "45", "--json", "--fail-on", "never", "--python", other_python)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    told = {o["id"]: o["outcome"] for o in report["outcomes"] if o["id"].startswith("PIP")}
    assert set(told.values()) == {"not-applicable"}
    assert report["probes"]["pipeline"]["detail"] == "no pipeline was named (--pipeline)"


# --- the folder -------------------------------------------------------------------------------------------------------


def facts_file(ladder: Ladder) -> str:
    probes = {"ladder": {"outcome": "ok"}}
    document = {"schema": "fp8doctor.facts", "schema_version": "1.0", "probes": probes}
    return json.dumps({**document, "facts": {"ladder": to_plain(ladder)}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the run of an H200 wrote."""
    place = tmp_path_factory.mktemp("results") / "new"
    place.mkdir()
    ladder = more(failed("te-fp8-current", "error", "no backend"), failed("torch-fp16", "too-long", "too long"))
    results.write(api.diagnose(facts_file(ladder)), place, redact=True)
    return place


def test_a_folder_holds_the_report_in_three_forms(folder: Path) -> None:
    assert json.loads((folder / "report.json").read_text())["schema"] == "fp8doctor.report"
    assert (folder / "report.md").read_text().startswith("### fp8doctor")
    with (folder / "ladder.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["config"] for row in rows][: len(FLUX.rungs or ())] == [rung.config for rung in FLUX.rungs or ()]
    assert rows[0]["P50 ms"] == "174.54"
    assert "" in rows[0].values(), "what is not there is an empty cell"


def test_what_was_written_into_a_folder_is_read_back(folder: Path) -> None:
    run = called("diagnose", str(folder), "--json", "--fail-on", "never")
    assert run.returncode == 0, run.stderr
    again, first = json.loads(run.stdout), json.loads((folder / "report.json").read_text())
    for part in ("verdict", "use", "findings", "exhibits"):
        assert again[part] == first[part]
    assert any(found["id"] == "LAD002" for found in again["findings"])


def test_a_folder_without_a_report_cannot_be_judged(tmp_path: Path) -> None:
    said = complaint("diagnose", str(tmp_path))
    assert said == f"fp8doctor: {tmp_path} has no report.json; a folder that bench -o wrote has one\n"


def test_an_earlier_report_that_is_none_ends_the_command_and_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{ half a rep")
    assert "not JSON" in complaint("bench", "flux", "-o", str(tmp_path), "--resume")
    assert (tmp_path / "report.json").read_text() == "{ half a rep"


@without_gpu
@pytest.mark.parametrize("text", ["{}", "[]", "{", ""], ids=["no class", "no object", "cut off", "empty"])
def test_a_config_that_is_no_model_is_one_sentence_before_anything_runs(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    for command in (["bench", str(tmp_path / "config.json")], ["--for", str(tmp_path / "config.json")]):
        run = called(*command)
        assert (run.returncode, run.stdout) == (2, "")
        assert "config.json" in run.stderr
        assert "Traceback" not in run.stderr


def test_a_class_that_no_library_here_has_is_said_and_the_rest_is_examined(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "NoSuchTransformer2DModel"}')
    run = called("bench", str(tmp_path / "config.json"), "--json", "--fail-on", "never", "--budget", "45")
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout)["facts"]
    assert "NoSuchTransformer2DModel" in facts["workload"]["why_not"] or "diffusers" in facts["workload"]["why_not"]
    assert facts["ladder"]["measurable"] is False
    assert facts["gpus"] is not None


# --- CSV --------------------------------------------------------------------------------------------------------------


def cells(rows: list[dict[str, object]]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table_csv(rows), newline="")))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")', "-"])
def test_text_that_a_spreadsheet_would_run_stays_text(text: str) -> None:
    (row,) = cells([{"error": text, "=head": "plain"}])
    assert row == {"error": f"'{text}", "'=head": "plain"}


def test_numbers_stay_numbers_and_other_text_stays_as_it_is() -> None:
    (row,) = cells([{"a": -1.5, "b": 3, "c": None, "d": "torch-bf16+compile", "e": "1.2 = so", "f": True}])
    assert row == {"a": "-1.5", "b": "3", "c": "", "d": "torch-bf16+compile", "e": "1.2 = so", "f": "True"}


def test_rows_need_not_have_the_same_columns() -> None:
    assert cells([{"a": 1}, {"b": 2}]) == [{"a": "1", "b": ""}, {"a": "", "b": "2"}]


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.text("=+-@'\",;\n\r\tx1", max_size=6)), max_size=4))
def test_no_cell_begins_a_formula_and_none_is_lost(rows: list[dict[str, str]]) -> None:
    read = cells([{**row} for row in rows])
    flat = [value for row in read for value in row.values()]
    assert not [value for value in flat if value.startswith(("=", "+", "-", "@", "\t", "\r"))]
    kept = [value for row in rows for value in row.values() if value]
    assert sorted(value.removeprefix("'") for value in flat if value) == sorted(v.removeprefix("'") for v in kept)
