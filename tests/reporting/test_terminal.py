"""The terminal report: what stands on the screen, at every width, whatever the texts are."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from fp8doctor import api
from fp8doctor.judging.report import OutcomeRecord, ProbeRecord, Report, VerdictRecord
from fp8doctor.model import Action, Evidence, Exhibit, Severity
from fp8doctor.reporting import terminal
from tests.sample_reports import BROKEN, HEALTHY, NO_GPU, REPORTS, ROWWISE

NASTY = "[bold red]x[/] \x1b[31mred\x1b[0m \x07bell \u202eevil\u202c\u200b <b>&amp; `code` 漢字 \ud800 [/nonsense] end"


def shown(
    report: Report, width: int = 100, *, verbose: bool = False, encoding: str = "utf-8", colour: bool = False
) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", newline="")
    console = Console(
        file=stream, width=width, highlight=False, markup=False, emoji=False, force_terminal=colour,
        color_system="truecolor" if colour else None,
    )  # fmt: skip
    terminal.render(api.view(report), console, verbose=verbose)
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(encoding)


def code_lines(report: Report) -> set[str]:
    code = [use.how for use in report.use] + [a.command or "" for f in report.findings for a in f.actions]
    return {line.strip() for text in code for line in text.splitlines()}


def test_a_healthy_box_fits_one_screen() -> None:
    lines = shown(HEALTHY).splitlines()
    assert len(lines) <= 35
    assert lines[0] == "fp8doctor 0.1.0 · NVIDIA H200 · sm_90 · driver 580.159.04 · torch 2.11.0+cu130 · 38 s"
    assert lines[1] == "examined: /opt/venv/bin/python"
    assert lines[3].startswith("VERDICT  FP8 pays on this box when it is compiled")


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_printed_as_on_a_terminal_without_colours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for variable in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.setenv(variable, "1")
    assert f"{REPORTS[name]}\n" == shown(REPORTS[name])
    assert f"{REPORTS[name].to_text(verbose=True)}\n" == shown(REPORTS[name], verbose=True)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
        print(REPORTS[name])


@pytest.mark.parametrize("width", [60, 80, 100, 160])
@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("verbose", [False, True])
def test_nothing_but_code_is_wider_than_the_terminal(name: str, width: int, verbose: bool) -> None:
    report = REPORTS[name]
    for line in shown(report, width, verbose=verbose).splitlines():
        assert len(line) <= width or line.removeprefix("HOW").strip() in code_lines(report), line
        assert line == line.rstrip()


@pytest.mark.parametrize("width", [1, 12, 20, 30, 40])
@pytest.mark.parametrize("name", REPORTS)
def test_a_narrow_terminal_gets_a_report_too(name: str, width: int) -> None:
    assert "VERDICT" in shown(REPORTS[name], width, verbose=True)


def test_use_is_merged_and_shows_its_clock_and_code() -> None:
    text = shown(HEALTHY)
    assert "torchao float8 rowwise + torch.compile: 1.03x to 1.75x over BF16 + torch.compile" in text
    assert "  from 1,024 tokens in Linear(3072, 12288), Linear(3072, 3072)\n" in text
    assert "  16 to 256 tokens in Linear(3072, 12288) (time of the whole call)" in text
    assert "BF16 + torch.compile: FP8 gains nothing there" in text
    assert all(line in text for line in ROWWISE.splitlines())
    assert "CUDAGraph()" not in text
    assert "CUDAGraph()" in shown(HEALTHY, verbose=True)


def test_code_to_copy_is_shown_whole() -> None:
    text = shown(api.diagnose(Path(__file__).parents[1] / "boxes" / "h200-bench-llama-8b.json"))
    assert "with torch.cuda.graph(graph): output = step()" in text
    assert "graph.replay()" in text, "the last line of the longest advice"


def test_why_is_drawn_to_scale() -> None:
    lines = [line for line in shown(HEALTHY).splitlines() if "█" in line]
    bars = {line.split("█")[0][9:].strip().rsplit(maxsplit=1)[0]: line.count("█") for line in lines}
    assert bars["= FP8, eager"] == 44
    assert bars["BF16"] == round(103 / 198 * 44)
    assert bars["+ quantise, 5 kernels"] in (29, 30, 31)
    quantise = next(line for line in lines if "quantise" in line)
    gemm = next(line for line in lines if "GEMM" in line)
    assert "+134" in quantise
    assert quantise.index("█") == gemm.rindex("█") + 1, "a step begins where the one before ended"
    assert gemm.endswith("1.83x")


def test_symptoms_are_folded_under_their_cause() -> None:
    text = shown(HEALTHY)
    assert "also explains: QNT001 quantize-overhead" in text
    assert "quantising costs more than FP8 saves" not in text
    assert "quantising costs more than FP8 saves" in shown(HEALTHY, verbose=True)


def test_a_lesson_is_one_line_and_no_alarm() -> None:
    text = shown(HEALTHY)
    assert "✓ nothing wrong found (31 passed, 12 not applicable, 1 could not tell)" in text
    assert "In use       how to get more from FP8; nothing is broken" in text
    assert (
        "eager FP8 spends 68 % of its time quantising -> wrap the model in\n    torch.compile, 2.40x over torchao"
        in text
    )
    assert "quantising takes 134 us" not in text
    assert "✗" not in text


def test_a_broken_box_shows_evidence_and_what_to_do() -> None:
    text = shown(BROKEN)
    assert "✗ DRV001 driver-too-old  The driver is older than the CUDA of this torch" in text
    assert "      driver 535.54.03 serves CUDA up to 12.2" in text
    assert "         pip install torch --index-url https://example.org/cu126" in text
    assert "-> or update the driver to 580 or newer (changes more than your own environment)" in text
    assert "! GPU003 power-cap  The power limit is below the board's own [gpu:0, gpu:1]" in text
    assert text.count("power-cap") == 1
    assert "torch_build: signal: SIGSEGV" in text
    assert "flash_attention: no end after 60 s" in text
    assert "attention: the time budget was spent before it" in text
    assert "linear:" not in text, "what waited for a probe that failed follows from it"
    assert "UN000, UN001, UN002 and 5 more: the CPU quota was not observed" in text
    assert "crashed: KeyError: 'x'" in text
    assert "Fatal Python error" in shown(BROKEN, verbose=True)


def test_without_a_gpu_the_demo_is_named_once() -> None:
    assert shown(NO_GPU).count("fp8doctor demo") == 1
    finding = dataclasses.replace(NO_GPU.findings[0], actions=(Action("look at a recorded box", "fp8doctor demo"),))
    assert shown(dataclasses.replace(NO_GPU, findings=(finding,))).count("fp8doctor demo") == 1
    assert "fp8doctor demo" not in shown(HEALTHY)


def test_little_seen_is_not_said_to_be_well() -> None:
    blind = dataclasses.replace(
        HEALTHY, findings=(), outcomes=tuple(OutcomeRecord(f"XX{i:03}", "unknown", "not observed") for i in range(9))
    )
    text = shown(blind)
    assert "✓" not in text
    assert "nothing wrong found in what little could be seen (0 passed, 9 could not tell)" in text


def hostile() -> Report:
    return dataclasses.replace(
        BROKEN,
        captions=(NASTY,),
        verdict=VerdictRecord("broken", NASTY, None, None, None),
        use=(dataclasses.replace(HEALTHY.use[0], label=NASTY, how=NASTY),),
        findings=(
            dataclasses.replace(
                BROKEN.findings[0],
                title=NASTY,
                about=NASTY,
                evidence=(Evidence(NASTY),),
                actions=(Action(NASTY, NASTY),),
            ),
            dataclasses.replace(BROKEN.findings[0], id="XX001", scope="usage", severity=Severity.INFO, title=NASTY),
        ),
        outcomes=(OutcomeRecord("XX001", "unknown", NASTY), OutcomeRecord(NASTY, "crashed", None)),
        exhibits=(
            Exhibit(NASTY, "bars", NASTY, NASTY, ({"label": NASTY, "value": 0, "start": 0, "ratio": None},)),
            Exhibit("t", "table", NASTY, NASTY, ({"cells": {NASTY: NASTY, "n": None}}, {"cells": {"n": True}})),
            Exhibit("e", "lines", "nothing", "", ()),
        ),
        probes={NASTY: ProbeRecord("exit", NASTY, NASTY)},
    )


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("width", [30, 80])
def test_hostile_text_stays_text(encoding: str, width: int) -> None:
    text = shown(hostile(), width, verbose=True, encoding=encoding)
    assert not set(text) & set("\x1b\x07\u202e\u202c\u200b\ud800")
    assert "[bold red]x[/]" in text.replace("\n", " ")


def test_markup_in_texts_is_shown_and_not_obeyed() -> None:
    text = shown(
        dataclasses.replace(HEALTHY, verdict=VerdictRecord("ready", "[red]a[/red] [/] [link=x]b", None, None, None))
    )
    assert "[red]a[/red] [/] [link=x]b" in text


def test_ascii_terminals_get_ascii() -> None:
    text = shown(HEALTHY, encoding="ascii")
    assert "fp8doctor 0.1.0 - NVIDIA H200" in text
    assert "ok nothing wrong found" in text
    assert "#####" in text


def test_colours_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" not in shown(HEALTHY)
    assert "\x1b[" in shown(HEALTHY, colour=True)


def test_verbose_shows_every_exhibit_rule_and_probe() -> None:
    text = shown(HEALTHY, verbose=True)
    for words in (
        "Speed-up by tokens and layer\n",
        "out of memory",
        "Kernels that ran",
        "nvjet_qqtst_128x256_128x4_1x2_h_bz_coopA_NTT",
        "Speed-up over BF16\n",
        "ceiling",
        "not-applicable, this is no AMD GPU: NA000, NA001",
        "linear ok, 22.0 s",
    ):
        assert words in text
