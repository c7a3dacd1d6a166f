"""Texts that were made to break readers: bounded time, a clear answer, and nothing of them reaches the report raw."""

from __future__ import annotations

import io
import json
import re
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from fp8doctor import api
from fp8doctor.judging.report import Report
from fp8doctor.reporting import terminal
from fp8doctor.store import NotAFactsFileError
from tests.reading import texts

# Seconds of the processor; a quiet machine takes a quarter of it.
MOST_S = 6.0
ALL = (
    texts.collect_env() + texts.VLLM_TAIL,
    *(texts.SECTIONED, texts.SGLANG, texts.SGLANG_ROCM, texts.TRANSFORMERS, texts.ACCELERATE, texts.DIFFUSERS),
    *(texts.DS_REPORT, texts.XFORMERS, texts.NVIDIA_SMI, texts.NVIDIA_SMI_OLD),
)


def read(text: str | bytes) -> Report | None:
    """The report, None if the text was refused in so many words."""
    try:
        return api.read(text)
    except (api.NothingRecognisedError, NotAFactsFileError) as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) < 1000
    return None


def shown(report: Report) -> tuple[str, str]:
    out = io.StringIO()
    terminal.render(api.terminal_view(report), Console(file=out, width=100, highlight=False, markup=False))
    return out.getvalue(), api.report_to_markdown(report)


@pytest.mark.parametrize(
    "text",
    [
        "GPU 0: " * 1_000_000,
        "GPU 0: NVIDIA H100\n" * 1_000_000,
        "x" * 100_000_000,
        "a line of prose: [pip3] x==1\n" * 3_000_000,
        b"\xff" * 10_000_000,
        "\x00" * 10_000_000,
        "\x1b[" * 1_000_000,
        "> " * 1_000_000,
        "<details " * 300_000,
        "OS: " * 500_000,
        " " * 2_000_000,
        ("a " * 1_900 + ": x\n") * 500,
        "PyTorch version: 2.3.0\nCUDA used to build PyTorch: 12.1\n" * 40_000,
        "Python: 3.1\nCUDA available: True\nPyTorch: 2.3.0\nCUDA Driver Version: 500.1\n" * 30_000,
        "- Platform: Linux\n- PyTorch version (GPU?): 2.3.0 (True)\n" * 40_000,
        "| NVIDIA-SMI 525.1   Driver Version: 525.1   CUDA Version: 12.0     |\n" * 25_000,
        '{"schema":"fp8doctor.report","facts":' + "[" * 1_000_000,
        '{"schema":"fp8doctor.report","schema_version":"1.0","facts":' + '{"a":' * 500_000,
        "GPU " + "9" * 100_000 + ": x\nPyTorch version: " + "9." * 100_000 + "\nCUDA used to build PyTorch: 9",
        "No CUDA GPUs are available, said line 7\n" * 50_000,
    ],
    ids=lambda text: f"{text[:24]!r} x {len(text)}",
)
def test_time_is_bounded_whatever_is_pasted(text: str | bytes) -> None:
    started = time.process_time()
    read(text)
    assert time.process_time() - started < MOST_S


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>", "[x](javascript:y)", "@everyone #1", "```\n# x", "\x1b[31mred"]
)
def test_what_a_text_names_cannot_break_out_of_the_report(evil: str) -> None:
    name = f"NVIDIA H100 {evil}"
    text = texts.collect_env(gpus=f" GPU 0: {name}", torch="2.6.0+cu124") + f"\nNo CUDA GPUs are available {evil}\n"
    other = texts.NVIDIA_SMI.replace("NVIDIA H100 80GB HBM3 ", f"NVIDIA A30 {evil}"[:20].ljust(22))
    report = read(text + other)
    assert report is not None
    printed, markdown = shown(report)
    assert "\x1b" not in printed
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", printed + markdown)
    outside = re.sub(r"(?s)<details>.*</details>|(`+)(?!`).*?(?<!`)\1(?!`)", "", markdown)
    assert "<script>" not in outside
    assert "@everyone" not in outside
    assert "](" not in outside


words = st.sampled_from(
    (
        *(
            "PyTorch version:",
            "GPU 0:",
            "\n",
            " ",
            "NVIDIA H100",
            "2.6.0+cu124",
            "N/A",
            "No CUDA",
            "[pip3] torch==2.6.0",
        ),
        *("|", "Driver Version: 550.1", "CUDA Version: 12.4", "NVIDIA-SMI 550.1 ", "- ", "`", "> ", "{", "=" * 30),
        *('"schema":"fp8doctor.report"', "CUDA used to build PyTorch:", "CUDA available: True", "\x1b[0m", "\x00"),
        *("Compute Capability: 9.0", "\u202e", "GPU type:", "Python:", "- Platform: Linux"),
    )
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(words, st.text(max_size=12)), max_size=60).map("".join))
def test_any_text_gives_a_report_or_a_clear_refusal(text: str) -> None:
    report = read(text)
    if report is not None:
        json.loads(report.to_json())
        printed, _ = shown(report)
        assert "\x1b" not in printed


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_report_that_was_edited_never_crashes_and_never_invents_a_gpu(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(ALL))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    report = read(text[:start] + data.draw(st.sampled_from(["", "...", "\n", "\n> "])) + text[end:])
    if report is None:
        return
    for gpu in (report.facts.get("gpus") or {}).get("gpus") or []:
        assert gpu["index"] is None or gpu["index"] < 16
    json.loads(report.to_json())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_give_a_report_or_a_clear_refusal(data: bytes) -> None:
    read(data)
