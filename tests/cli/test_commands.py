"""The commands: what they print where, and the status that they end with."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest

import fp8doctor
from fp8doctor import api
from fp8doctor.cli.demo import recorded
from tests.command import Run, called, process, without_gpu

with_boxes = pytest.mark.skipif(not recorded(), reason="no box is recorded yet")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory, other_python: str) -> Path:
    """A facts file of this machine, and of an environment without torch."""
    place = tmp_path_factory.mktemp("facts") / "facts.json"
    run = process("collect", "--quick", "-o", str(place), "--python", other_python)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    return place


def not_finite(value: Any) -> Iterator[float]:
    if isinstance(value, float) and not math.isfinite(value):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from not_finite(item)


def test_version_and_help() -> None:
    assert process("--version").stdout == f"fp8doctor {fp8doctor.__version__}\n"
    run = process("--help")
    assert run.returncode == 0
    for command in ("collect", "diagnose", "explain", "rules", "demo", "schema"):
        assert f"  {command} " in run.stdout
    assert all(len(line) <= 80 for line in run.stdout.splitlines())


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["diagnose", "--help"]])
def test_nothing_heavy_is_imported_to_say_who_one_is(arguments: list[str]) -> None:
    code = f"""
import sys
from fp8doctor.cli import run
run({arguments!r})
heavy = {{"msgspec", "rich", "psutil", "importlib.metadata", "json", "fp8doctor.registry", "fp8doctor.api"}}
sys.exit(", ".join(heavy & sys.modules.keys()) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, float, Path]:
    """The command without more: how it ended, the processor's seconds that it took, and its report as JSON."""
    place = tmp_path_factory.mktemp("live") / "box.json"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = process("--no-cache", "--json", str(place))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return run, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, place


@without_gpu
def test_a_machine_without_a_gpu_is_told_so_at_once(live: tuple[Run, float, Path]) -> None:
    run, cpu_s, place = live
    # 8 s on an idle machine; not of the clock, for tests run beside others.
    assert cpu_s < 30
    assert run.returncode == 1
    assert "VERDICT  Cannot say" in run.stdout
    assert "no-gpu-visible" in run.stdout
    assert "fp8doctor demo" in run.stdout
    assert run.stderr == f"fp8doctor: wrote {place}\n", "no progress where standard error is no terminal"


def test_a_live_report_keeps_its_contract(live: tuple[Run, float, Path]) -> None:
    run, _, place = live
    text = place.read_text(encoding="utf-8")
    report = json.loads(text)
    schema = json.loads(called("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(report)
    assert list(report) == [
        *("schema", "schema_version", "tool", "created", "source", "elapsed_s", "verdict", "use"),
        *("findings", "silenced", "outcomes", "exhibits", "probes", "facts", "left_out"),
    ]
    assert list(report["verdict"]) == ["status", "headline", "fp8_hardware", "fp8_software", "fp8_runs"]
    assert report["tool"] == {"version": fp8doctor.__version__}
    assert report["source"] == "live"
    assert not list(not_finite(report))
    assert str(Path.home()) not in text + run.stdout


def test_facts_are_judged_elsewhere_as_here(facts: Path) -> None:
    saved = json.loads(facts.read_text())
    assert list(saved) == ["schema", "schema_version", "tool", "created", "source", "probes", "facts"]
    assert saved["schema"] == "fp8doctor.facts"
    run = called("diagnose", str(facts), "--json", "--fail-on", "never")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["source"] == "facts"
    assert report["created"] == saved["created"]
    again = json.loads(called("diagnose", "-", "--json", "--fail-on", "never", text=run.stdout).stdout)
    assert again["verdict"] == report["verdict"]
    assert again["findings"] == report["findings"]


@without_gpu
@pytest.mark.parametrize(("level", "status"), [("error", 1), ("warning", 1), ("never", 0)])
def test_the_exit_status_is_what_was_asked_for(facts: Path, level: str, status: int) -> None:
    assert called("diagnose", str(facts), "--fail-on", level).returncode == status


def test_files_are_written_beside_the_report(facts: Path, tmp_path: Path) -> None:
    as_json, as_markdown = tmp_path / "r.json", tmp_path / "r.md"
    run = called("diagnose", str(facts), "--json", str(as_json), "--markdown", str(as_markdown), "--fail-on", "never")
    assert run.returncode == 0
    assert "VERDICT" in run.stdout
    assert run.stderr.splitlines() == [f"fp8doctor: wrote {as_json}", f"fp8doctor: wrote {as_markdown}"]
    assert json.loads(as_json.read_text())["schema"] == "fp8doctor.report"
    assert as_markdown.read_text().startswith("### fp8doctor")
    alone = called("diagnose", str(facts), "--markdown", "--fail-on", "never")
    assert alone.stdout == as_markdown.read_text()


def test_redaction_is_the_default(facts: Path) -> None:
    document = json.loads(facts.read_text())
    document["facts"] = {}
    document["probes"] = {"gpus": {"outcome": "exception", "detail": "in /home/somebody/x"}}
    text = json.dumps(document)
    for form in ((), ("--json",), ("--markdown",), ("--verbose",)):
        assert "somebody" not in called("diagnose", "-", *form, text=text).stdout
        assert "somebody" in called("diagnose", "-", *form, "--no-redact", text=text).stdout


def test_a_reader_that_leaves_costs_nothing(facts: Path) -> None:
    for form in ("", "--json", "--markdown", "--verbose"):
        command = f"{sys.executable} -m fp8doctor diagnose {facts} {form} --fail-on never | head -c 20 >/dev/null"
        script = f"set -o pipefail; {command}; echo $?"
        run = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        assert (run.stdout, run.stderr) == ("0\n", "")
    for rest in ("rules", "--help", "schema"):
        script = f"{sys.executable} -m fp8doctor {rest} | true"
        assert subprocess.run(["bash", "-c", script], capture_output=True, text=True).stderr == ""
    closed = subprocess.run(["bash", "-c", f"{sys.executable} -m fp8doctor rules >&-"], capture_output=True, text=True)
    assert "Traceback" not in closed.stderr


def test_a_terminal_of_ascii_and_of_no_colour(facts: Path) -> None:
    run = process("diagnose", str(facts), "--verbose", "--fail-on", "never", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert run.returncode == 0, run.stderr
    assert run.stdout.isascii()
    assert "\x1b[" not in process("diagnose", str(facts), NO_COLOR="1").stdout


def test_rules_and_explain() -> None:
    run = called("rules")
    assert run.returncode == 0
    assert "GPU001" in run.stdout
    listed = json.loads(called("rules", "--json").stdout)
    one = next(rule for rule in listed if rule["id"] == "GPU001")
    assert one["name"] == "no-fp8-hardware"
    assert one["severity"] == "error"
    for word in ("GPU001", "gpu001", "no-fp8-hardware"):
        explained = called("explain", word)
        assert explained.returncode == 0
        assert "GPU001 no-fp8-hardware" in explained.stdout
        assert "What to do" in explained.stdout


def test_several_rules_of_one_name_are_all_explained() -> None:
    names = [rule["name"] for rule in json.loads(called("rules", "--json").stdout)]
    shared = next((name for name in names if names.count(name) > 1), None)
    if shared is None:
        pytest.skip("no two rules share a name")
    assert called("explain", shared).stdout.count(shared) >= 2


@with_boxes
def test_the_demo_is_a_whole_report_and_never_fails() -> None:
    for arguments in ([], ["no-gpu"], ["h200-bench-flux"]):
        assert "VERDICT" in (run := called("demo", *arguments)).stdout
        assert run.returncode == 0
    assert called("demo", "no-such-box").returncode == 2


@with_boxes
def test_each_recorded_box_gives_a_report_that_keeps_its_contract() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(called("schema").stdout))
    for box in recorded().values():
        report = api.diagnose(box, source="demo")
        validator.validate(json.loads(report.to_json()))
        assert report.source == "demo"
        assert "FP8" in report.to_markdown()


@with_boxes
def test_a_demo_fails_where_that_is_asked_for() -> None:
    assert called("demo", "no-gpu", "--fail-on", "error").returncode == 1
    assert called("demo", "no-gpu", "--fail-on", "never").returncode == 0
    assert called("demo", "h200", "--fail-on", "error").returncode == 0
    assert "[default: never]" in " ".join(called("demo", "--help").stdout.split())


@with_boxes
def test_recorded_boxes_are_listed_with_what_is_in_them() -> None:
    lines = dict(line.split(maxsplit=1) for line in called("demo", "--list").stdout.splitlines())
    assert list(lines) == list(recorded())
    assert lines["h200"] == "NVIDIA H200: torch 2.11.0+cu130, torchao 0.17.0, TE 2.20.2, flash-attn 2.8.3.post2"
    assert lines["h200-bench-flux"].startswith("NVIDIA H200: flux, 41 rungs; torch 2.11.0+cu130, torchao")
    assert lines["h200-bench-pipeline"].startswith("NVIDIA H200: FluxPipeline, 9 rungs; torch 2.11.0+cu130")
    assert lines["no-gpu"] == "no GPU visible: torch 2.13.0+cpu"


def test_ctrl_c_ends_the_children_and_says_what_was_learnt() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        [sys.executable, "-m", "fp8doctor", "--no-cache"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment,
        # Inherited is to ignore it, where the tests run in the background of a shell.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:  # fmt: skip
        own = psutil.Process(running.pid)
        until = time.monotonic() + 30
        while not (children := own.children()) and time.monotonic() < until:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=30)
    assert running.returncode == 2
    assert stderr == "fp8doctor: interrupted; this is what was learnt until then\n"
    assert "VERDICT" in stdout
    assert "The examination was interrupted. " in " ".join(stdout.split())
    # One that was only starting when the signal came ends by itself: the kernel, or its empty input, tells it to.
    _, left = psutil.wait_procs(children, timeout=5)
    assert not [child for child in left if child.status() != psutil.STATUS_ZOMBIE]


def test_a_system_that_cannot_be_examined() -> None:
    code = "import psutil, sys; sys.platform = 'darwin'; from fp8doctor.cli import main; main(['--quick'])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert run.returncode == 2
    assert "Linux and WSL can be examined" in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert "is not examined, only Linux and WSL" in " ".join(run.stdout.split())


def test_what_is_loaded_on_first_use_is_offered_to_completion() -> None:
    import fp8doctor

    assert {"examine", "diagnose", "Report", "__version__"} <= set(dir(fp8doctor))
    assert all(hasattr(fp8doctor, name) for name in fp8doctor.__all__)
