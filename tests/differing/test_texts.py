"""Differences of what people paste: environment reports and start-up logs."""

from __future__ import annotations

from fp8doctor import api
from tests.difference_cases import recorded

COLLECTED = """Collecting environment information...
PyTorch version: 2.11.0+cu130
Is debug build: False
CUDA used to build PyTorch: 13.0
ROCM used to build PyTorch: N/A

OS: Ubuntu 24.04.3 LTS (x86_64)
Python version: 3.12.3 (main)
Is CUDA available: True
CUDA runtime version: 13.0.88
GPU models and configuration: GPU 0: NVIDIA H200
Nvidia driver version: 580.159.04
cuDNN version: Could not collect

Versions of relevant libraries:
[pip3] numpy==2.5.2
[pip3] torch==2.11.0+cu130
[pip3] torchao==0.17.0
[pip3] triton==3.6.0
[conda] Could not collect
"""
NEWER = (
    COLLECTED.replace("2.11.0+cu130", "2.12.0+cu130")
    .replace("torchao==0.17.0", "torchao==0.18.0")
    .replace("580.159.04", "590.44")
)
LOG = (
    "INFO 11-21 10:00:05 [core.py:58] Initializing a V1 LLM engine (v0.11.0) with config: model='Qwen/Qwen3-8B-FP8', "
    "dtype=torch.bfloat16, tensor_parallel_size=1, quantization=fp8, enforce_eager={eager}, kv_cache_dtype=auto\n"
)


def test_two_environment_reports_differ_in_what_both_say() -> None:
    found = api.diff(api.read(COLLECTED), api.read(NEWER))
    assert {(one.name, one.before, one.after) for one in found.changes} == {
        ("torch", "2.11.0+cu130", "2.12.0+cu130"),
        ("torchao", "0.17.0", "0.18.0"),
        ("driver", "580.159.04", "590.44"),
    }
    assert found.gpus == "same"
    assert found.explanations == ()
    assert found.headline.startswith("Nothing was timed in both, so neither is known to be slower.")


def test_a_text_says_no_more_of_a_recorded_box_than_it_says() -> None:
    """The box of the text is the recorded one: what the text leaves out is neither gone nor passed."""
    found = api.diff(recorded(), api.read(COLLECTED))
    assert found.changes == ()
    assert {one.not_in for one in found.not_known} == {"after"}
    assert {one.what for one in found.finding_changes} == {"not-told"}
    assert {one.not_in for one in found.finding_changes} == {"after"}


def test_a_report_pasted_as_markdown_is_compared_like_itself() -> None:
    found = api.diff(recorded("no-gpu"), api.read(recorded("no-gpu").to_markdown()))
    assert found.changes == ()
    assert {one.what for one in found.finding_changes} == {"stayed"}


def test_two_start_up_logs_differ_in_what_the_engine_was_told() -> None:
    found = api.diff(api.read(LOG.format(eager=False)), api.read(LOG.format(eager=True)))
    assert [(one.name, one.before, one.after) for one in found.changes] == [("enforce-eager of vLLM", False, True)]
    assert [(one.name, one.certainty, one.findings) for one in found.explanations] == [
        ("enforce-eager of vLLM", "certain", ("SRV004",))
    ]
