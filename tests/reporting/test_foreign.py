"""The report on somebody else's text or trace: what it does not say is no news, and its date is the reader's."""

from __future__ import annotations

from pathlib import Path

from fp8doctor import api
from fp8doctor.cli.output import console
from fp8doctor.reporting import summary, terminal

TRACES = Path(__file__).parent.parent / "traces"

PASTE = """PyTorch version: 2.6.0+cu124
Is debug build: False
CUDA used to build PyTorch: 12.4
Is CUDA available: True
GPU models and configuration: GPU 0: NVIDIA GeForce RTX 4090
Nvidia driver version: 550.54.15
"""


def printed(verbose: bool) -> str:
    to = console()
    with to.capture() as captured:
        terminal.render(api.view(api.read(PASTE)), to, verbose=verbose)
    return captured.get()


def test_subjects_that_no_text_speaks_of_are_listed_for_those_who_ask() -> None:
    assert "Not examined" not in printed(verbose=False)
    assert "not said by this text" in " ".join(printed(verbose=True).split())
    assert "Not examined" not in api.read(PASTE).to_markdown()


LOG = """INFO 11-20 09:00:00 [core.py:97] Initializing a V1 LLM engine (v0.11.0) with config: model='m', dtype=bfloat16
WARNING 11-20 09:00:00 [cuda.py:1] Enforce eager set, overriding optimization level to -O0
"""


def test_a_log_that_names_no_gpu_is_answered_with_what_was_found_in_it() -> None:
    report = api.read(LOG)
    assert report.findings
    assert report.verdict.headline == f"{report.findings[0].title}."


def test_nobody_who_pasted_a_text_is_sent_to_a_recorded_box() -> None:
    assert "fp8doctor demo" not in printed(verbose=False)
    to = console()
    with to.capture() as captured:
        terminal.render(api.view(api.read(LOG)), to, verbose=False)
    assert "fp8doctor demo" not in captured.get()


def test_a_text_was_read_on_this_day_and_not_recorded() -> None:
    assert "recorded" not in printed(verbose=False).partition("VERDICT")[0]
    assert "recorded" not in api.read(PASTE).to_markdown().partition("Verdict")[0]


def test_what_nobody_looked_at_in_a_text_or_a_trace_is_no_riddle() -> None:
    for view in (api.view(api.read(PASTE)), api.view(api.trace(TRACES / "healthy-fp8.json.gz"))):
        riddles = " ".join(reason for reason, _ in summary.unsettled(view))
        assert not any(word in riddles for word in ("Transformer Engine", "compiled", "neither")), riddles
        assert summary.counts(view).not_examined > summary.counts(view).unknown


def test_where_no_finding_is_shown_none_is_offered_to_be_explained() -> None:
    to = console()
    with to.capture() as captured:
        terminal.render(api.view(api.read("PyTorch version: 2.6.0+cu124\n")), to)
    assert "explain" not in captured.get()
    assert "fp8doctor --markdown is for pasting." in captured.get()
    assert "fp8doctor explain GPU005 tells more." in printed(verbose=False)
