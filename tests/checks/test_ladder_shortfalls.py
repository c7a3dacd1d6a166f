"""What could not be measured: counted by what it lacks, and what to do for each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fp8doctor.checks.ladder.facts import Ladder
from tests.ladder_facts import FLUX, failed, finding, more, rung, verdict

NO_TE = "transformer_engine is not installed"
NO_FA = "RuntimeError: Flash Attention backend 'flash' is not usable because of missing package or the version is too"
LATE = "the time budget was spent"


def of_rungs(count: int) -> int:
    return count + len(FLUX.rungs or ())


def test_what_could_not_be_measured_is_counted_by_what_it_lacks() -> None:
    ladder = more(
        *(failed(slug, "not-measured", NO_TE) for slug in ("te-bf16", "te-fp8-current", "te-fp8-delayed")),
        failed("torch-bf16+attention-fa2", "error", NO_FA),
        failed("torch-bf16+attention-fa3", "not-measured", "flash_attn_interface is not installed"),
        failed("torchao-fp8-rowwise+compile+tuned", "too-long", "it took longer than its share of the budget"),
        failed("te-fp8-block", "crashed", "it ended the process: SIGSEGV"),
        failed("te-mxfp8", "not-measured", "Device compute capability 10.0 or higher required for MXFP8 execution."),
        failed("torch-bf16+cache-mag", "not-measured", "step caches are for diffusion"),
        failed("diffusers-fp8-storage", "refused", "only diffusers' models have it"),
    )
    found = finding("LAD010", ladder)
    assert found.title == (
        f"flux: 7 of {of_rungs(7)} configurations not measured: 3 need Transformer Engine, 2 FlashAttention,"
        " 1 more time; 1 failed"
    )
    assert found.evidence[0].text == (
        "Transformer Engine is not installed: te-bf16 @ denoise, te-fp8-current @ denoise, te-fp8-delayed @ denoise"
    )
    assert [action.text.partition(";")[0] for action in found.actions] == [
        "Install Transformer Engine",
        "Install FlashAttention",
        "Run it again with more time",
        "See what the libraries said",
    ]
    assert found.actions[2].command == "fp8doctor bench flux -o results --resume"


@pytest.mark.parametrize(
    "told",
    [
        (f"torch-fp16 @ denoise: {LATE}", f"torch-bf16+lora @ denoise: {LATE}; these 2 need about 70 s (--budget)"),
        tuple(
            f"{slug} @ denoise: {LATE}; 2 more need about 70 s (--budget)" for slug in ("torch-fp16", "torch-bf16+lora")
        ),
    ],
    ids=["said once", "said with each, as older reports have it"],
)
def test_what_the_time_left_out_is_one_line_with_a_budget_that_fits(told: tuple[str, ...]) -> None:
    ladder = replace(FLUX, rungs=(rung("torch-bf16", 174.0, started_s=20.0),), not_measured=told)
    found = finding("LAD010", ladder)
    assert found.title == "flux: 2 of 3 configurations not measured: 2 need more time"
    assert [e.text for e in found.evidence] == ["denoise: no time was left for torch-fp16, torch-bf16+lora"]
    (again,) = found.actions
    assert again.text.startswith("Run it again with more time, about 70 s for these; --resume keeps")
    assert again.command == "fp8doctor bench flux -o results --resume --budget 120"


def test_the_needs_of_two_steps_are_added() -> None:
    told = tuple(f"torch-fp16 @ {step}: {LATE}; this one needs about 50 s (--budget)" for step in ("prefill", "decode"))
    found = finding("LAD010", replace(FLUX, not_measured=told))
    assert "about 100 s for these" in found.actions[0].text
    assert (found.actions[0].command or "").endswith("--budget 120")


@pytest.mark.parametrize(
    ("ladder", "said"),
    [
        (more(failed("te-bf16", "not-measured", NO_TE)), "1 needs Transformer Engine"),
        (more(failed("torch-bf16+lora", "not-measured", "peft is not installed")), "1 needs peft"),
        (more(failed("torch-fp16", "out-of-memory", "CUDA out of memory")), "1 needs more memory"),
        (more(failed("torch-fp16", "error", "no kernel")), "1 failed"),
        (replace(FLUX, not_measured=("torch-fp16 @ denoise: BF16 itself failed",)), "1 failed"),
    ],
)
def test_one_is_said_in_the_singular(ladder: Ladder, said: str) -> None:
    assert finding("LAD010", ladder).title == f"flux: 1 of {of_rungs(1)} configurations not measured: {said}"


def test_what_this_gpu_or_model_does_not_have_is_not_missing() -> None:
    assert verdict("LAD010", FLUX) is None
    there_is_none = failed("te-mxfp8", "not-measured", "Device compute capability 10.0 or higher required")
    assert verdict("LAD010", more(there_is_none)) is None


def test_where_all_failed_there_is_nothing_to_resume() -> None:
    alone = replace(FLUX, rungs=(failed("torch-bf16", "out-of-memory", "CUDA out of memory"),))
    assert [action.command for action in finding("LAD010", alone).actions] == [None]
    late = replace(alone, not_measured=(f"torch-fp16 @ denoise: {LATE}",))
    assert [action.command for action in finding("LAD010", late).actions] == [None, None]


def test_a_file_of_ones_own_has_no_command_that_is_known() -> None:
    late = replace(FLUX, workload="mine", not_measured=(f"torch-fp16 @ denoise: {LATE}",))
    assert finding("LAD010", late).actions[0].command is None


def test_a_workload_that_was_named_and_could_not_be_measured_is_said() -> None:
    lacking = replace(FLUX, measurable=False, why_not="torch sees no GPU", rungs=None)
    found = finding("LAD012", lacking)
    assert found.title == "flux was not measured: torch sees no GPU"
    assert found.about == "workload:flux"
    assert verdict("LAD012", FLUX) is None
