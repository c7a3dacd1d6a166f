"""Bad input: one clear line on standard error, status 2, nothing on standard output, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import complaint, process

ENVELOPE = {"schema": "fp8doctor.facts", "schema_version": "1.0", "probes": {}, "facts": {}}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--frobnicate"], "No such option"),
        (["--quik"], "did you mean --quick? See: fp8doctor --help"),
        (["--bogus"], "No such option '--bogus'. See:"),
        (["frobnicate"], "No such command 'frobnicate'. See:"),
        (["dmo"], "did you mean demo? See:"),
        (["demo", "--jsn"], "did you mean --json? See: fp8doctor demo --help"),
        (["--quick", "--thorough"], "exclude one another"),
        (["--budget", "soon"], "must be between 5 and 86400 seconds. See:"),
        (["--budget", "nan"], "must be between 5 and 86400 seconds. See:"),
        (["--budget", "-5"], "must be between 5 and 86400 seconds. See:"),
        (["--budget", "1e99"], "must be between 5 and 86400 seconds. See:"),
        (["--gpu", "-1"], "--gpu"),
        (["--gpu", "one"], "--gpu"),
        (["--for", "knitting"], "no workload and no config.json"),
        (["--for", "nofile.json"], "Invalid value for '--for': nofile.json: no such file. See:"),
        (["--quick", "--for", "flux"], "--quick times nothing, and --for says what to time: leave out one of them"),
        (["collect", "-o", "-", "--quick", "--shape", "1024x1024x1024"], "--shape says what to time"),
        (["demo", "--fail-on", "info"], "--fail-on"),
        (["--fail-on", "info"], "--fail-on"),
        (["--json", "--markdown"], "cannot both go to standard output"),
        (["--json", "demo"], "fp8doctor demo --json"),
        (["--quick", "rules"], "goes after the command"),
        (["collect"], "--output"),
        (["diagnose"], "FILE"),
        (["diagnose", "a", "b"], "unexpected extra argument"),
        (["explain", "no-such-thing-at-all"], "fp8doctor rules lists them"),
        (["explain", "no-fp8-hardwear"], "did you mean no-fp8-hardware"),
        (["demo", "no-such-box"], "box"),
    ],
)
def test_wrong_calls(arguments: list[str], says: str) -> None:
    assert says in complaint(*arguments)


@pytest.mark.parametrize(
    "shape",
    [
        "",
        "4096",
        "4096x3072",
        "4096x3072x3072x1",
        "4096x3072x",
        "axbxc",
        "4096,3072,3072",
        "1.5x2x3",
        "-1x2x3",
        "٣x٣x٣",
    ],
)
def test_shapes_that_are_none(shape: str) -> None:
    assert "is no shape; write tokens x inputs x outputs, such as 4096x3072x3072" in complaint("--shape", shape)


def test_shapes_without_tokens_and_beyond_reason() -> None:
    assert "each of its numbers is 1 or more" in complaint("--shape", "0x3072x3072")
    assert "larger than any GPU's memory" in complaint("--shape", "4096x3072x99999999")
    assert "larger than any GPU's memory" in complaint("--shape", "1048576x1048576x16")
    assert "is no shape" in complaint("--shape", "9" * 5000 + "x1x1")


def test_no_python(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    assert "no such file" in complaint("--python", str(tmp_path / "none"))
    assert "not a Python interpreter" in complaint("--python", str(text))
    assert "not a Python interpreter" in complaint("--python", str(program))
    assert "no such file" in complaint("collect", "-o", "-", "--python", str(tmp_path))


def test_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho 3.9\n")
    old.chmod(0o755)
    assert "is Python 3.9; 3.10 or newer can be examined" in complaint("--python", str(old))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b"not json", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (json.dumps(ENVELOPE).encode()[:-9], "not JSON, or cut short"),
        (
            b"Here is mine:\n\n### fp8doctor 0.1.0 \xc2\xb7 NVIDIA H200\n",
            "this is the Markdown report, not a facts file",
        ),
        (
            json.dumps({**ENVELOPE, "left_out": ["facts.linear.cases"]}).encode(),
            "missing required field `verdict`",
        ),
        (b"[" * 100_000, "fp8doctor: "),
        (b"[]", "neither a facts file nor a report"),
        (b'{"schema": "somebody.else"}', "neither a facts file nor a report"),
        (json.dumps({**ENVELOPE, "schema_version": "2.0"}).encode(), "newer than 1.0: update fp8doctor"),
        (json.dumps({**ENVELOPE, "schema_version": "one"}).encode(), "schema version"),
        (json.dumps({**ENVELOPE, "facts": {"gpus": {"gpus": "many"}}}).encode(), "gpus"),
        (json.dumps({**ENVELOPE, "facts": {"gpus": {"no_such_field": 1}}}).encode(), "no_such_field"),
        (json.dumps({**ENVELOPE, "facts": None}).encode(), "facts"),
        (
            b'{"schema": "fp8doctor.facts", "schema_version": "1.0", "probes": {}, "facts": {"gpus": {"gpus": NaN}}}',
            "not",
        ),
    ],
)
def test_files_that_cannot_be_judged(tmp_path: Path, content: bytes, says: str) -> None:
    place = tmp_path / "facts.json"
    place.write_bytes(content)
    assert says in complaint("diagnose", str(place))
    assert says in complaint("diagnose", "-", text=content)


@pytest.mark.parametrize("arguments", [["--bogus"], ["--python", "no-such-python"], ["diagnose", "-"]])
def test_a_process_says_and_ends_so_too(arguments: list[str]) -> None:
    run = process(*arguments, text="[" * 100_000)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", complaint(*arguments, text="[" * 100_000))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert "No such file" in complaint("diagnose", str(tmp_path / "none.json"))
    assert "has no report.json; a folder that bench -o wrote has one" in complaint("diagnose", str(tmp_path))


@pytest.mark.parametrize("form", [["--json"], ["--markdown"], ["collect", "-o"]])
def test_places_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path, form: list[str]) -> None:
    assert "it is a folder" in complaint(*form, str(tmp_path))
    assert "there is no folder" in complaint(*form, str(tmp_path / "none" / "x.json"))
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        assert "no permission" in complaint(*form, str(tmp_path / "x.json"))


@pytest.mark.parametrize("command", ["rules", "schema", "--help", "explain GPU001"])
def test_standard_output_on_a_full_disk_is_one_line(command: str) -> None:
    script = f"{sys.executable} -m fp8doctor {command} > /dev/full"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (2, "fp8doctor: cannot write: No space left on device\n")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    place = tmp_path / "facts.json"
    place.write_text(json.dumps(ENVELOPE))
    assert "cannot write /dev/full: No space left" in complaint("diagnose", str(place), "--json", "/dev/full")


def test_an_installation_that_lacks_a_dependency_is_no_finding_about_the_box() -> None:
    """Status 1 would say that something was found."""
    broken = "import sys; sys.modules['rich'] = None; from fp8doctor.cli import main; main(['demo'])"
    done = subprocess.run([sys.executable, "-c", broken], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "fp8doctor: this is a fault of its own; what stands above tells where"
