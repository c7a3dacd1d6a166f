"""The probe of the linear layer: when it has nothing to measure with, how it goes on after a crash, what it reads."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.linear.facts import Linear
from fp8doctor.checks.linear.probe import ended_children, gather, resumed
from fp8doctor.checks.linear.timing import kernel_fields, outcome_of
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.model import Facts, NotApplicable, ProbeRun, Request, Unknown
from fp8doctor.plain import plain_problem, to_plain
from tests.broken_packages import BrokenSite
from tests.linear_facts import BF16_KERNEL, FP8_KERNEL, LINEAR, REGISTRY, verdict

CAST = "triton_red_fused__to_copy_abs_amax_div_0"
CRASHED_AT = "torch-fp8-blockwise K=3072 N=12288"


# --- a child ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (TorchBuild(installed=True, version="2.13.0+cpu", accelerator="cpu", devices=()), "torch sees no GPU"),
        (TorchBuild(installed=True), "torch sees no GPU"),
        (TorchBuild(installed=False), "there is no torch to measure with"),
    ],
)
def test_without_a_gpu_or_a_torch_it_says_so_and_imports_nothing(tmp_path: Path, build: TorchBuild, why: str) -> None:
    site = BrokenSite(tmp_path)
    site.break_import("torch", "abort")
    needs: dict[str, ProbeRun[Facts]] = {"torch_build": ProbeRun("ok", build)}
    run = site.probe(gather, needs=needs)
    assert (run.outcome, run.facts) == ("ok", Linear(measurable=False, why_not=why))
    assert {verdict(rule, run.facts) for rule in REGISTRY.rules} == {NotApplicable(why)}


def test_a_torch_that_nobody_could_examine_is_not_measured_with(tmp_path: Path) -> None:
    assert BrokenSite(tmp_path).probe(gather).facts.measurable is False


def test_it_times_alone_and_is_no_part_of_a_quick_run() -> None:
    probe = REGISTRY.probes["linear"]
    assert probe.times_gpu
    assert "quick" not in probe.modes
    assert inspect.isgeneratorfunction(probe.function), "so that a crash keeps what was measured before it"
    assert plain_problem(Linear) is None


# --- after a crash ---------------------------------------------------------------------------------------------------


def after(record: Linear, ended: str = "signal 11 (SIGSEGV)") -> Linear:
    """The record that a fresh child goes on from when `record` was the last that the crashed one wrote."""
    return resumed(Request(so_far=to_plain(record), so_far_ended=ended))


def test_a_first_child_begins_with_an_empty_record() -> None:
    assert resumed(Request()) == Linear(measurable=True)
    assert ended_children(Linear(measurable=True)) == frozenset()


def test_after_a_crash_all_that_was_measured_is_kept_and_what_was_tried_is_told() -> None:
    record = after(replace(LINEAR, attempting=CRASHED_AT))
    assert (record.cases, record.ceilings) == (LINEAR.cases, LINEAR.ceilings)
    assert record.not_measured == (f"{CRASHED_AT}: the child ended by signal 11 (SIGSEGV)",)
    assert record.attempting is None
    assert ended_children(record) == {CRASHED_AT}
    said = verdict("LIN013", record)
    assert isinstance(said, Unknown)
    assert CRASHED_AT in said.reason


def test_what_ended_an_earlier_child_is_not_tried_again_by_the_third() -> None:
    first = after(replace(LINEAR, attempting=CRASHED_AT))
    second = after(replace(first, attempting="8192x3072x12288"), "status 1")
    assert ended_children(second) == {CRASHED_AT, "8192x3072x12288"}


def test_what_was_left_out_for_another_reason_may_be_tried() -> None:
    record = after(replace(LINEAR, not_measured=("K=12288 N=3072: out of GPU memory",)))
    assert ended_children(record) == frozenset()
    assert record.not_measured == ("K=12288 N=3072: out of GPU memory",)


def test_calls_that_the_crashed_child_had_yet_to_time_are_told_as_missing_once() -> None:
    untimed = replace(LINEAR, cases=tuple(replace(c, call_us=None) for c in LINEAR.cases or ()))
    again = after(replace(after(replace(untimed, attempting="ceilings")), attempting="2048x3072x3072"))
    assert again.not_measured == (
        "ceilings: the child ended by signal 11 (SIGSEGV)",
        "calls and kernels of what was timed before a child ended",
        "2048x3072x3072: the child ended by signal 11 (SIGSEGV)",
    )


# --- what a profiled call says ---------------------------------------------------------------------------------------


def test_the_product_is_told_apart_from_what_stands_round_it() -> None:
    assert kernel_fields([(CAST, 24.16), ("Memcpy DtoD (Device -> Device)", 2.0), (FP8_KERNEL, 53.41)]) == {
        "gemm_kernel": FP8_KERNEL,
        "gemm_kind": "fp8-gemm",
        "gemm_us": 53.41,
        "other_kernels": 2,
        "other_us": 26.16,
    }


@pytest.mark.parametrize(
    "helper",
    [
        "Memset (Device)",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float, false, __nv_bfloat16>",
    ],
)
def test_what_cublas_does_round_a_product_belongs_to_the_product(helper: str) -> None:
    fields = kernel_fields([(BF16_KERNEL, 7.5), (helper, 1.84)])
    assert (fields["gemm_us"], fields["other_kernels"], fields["other_us"]) == (9.34, 0, 0.0)


def test_of_several_products_the_longest_names_the_kind() -> None:
    fields = kernel_fields([(FP8_KERNEL, 12.0), (BF16_KERNEL, 100.0)])
    assert (fields["gemm_kind"], fields["gemm_us"]) == ("bf16-gemm", 112.0)


def test_kernels_without_a_product_say_so_and_no_kernels_say_nothing() -> None:
    fields = kernel_fields([(CAST, 5.0)])
    assert (fields["gemm_kernel"], fields["gemm_kind"], fields["gemm_us"]) == (None, "none", None)
    assert kernel_fields([]) == {}


# --- what torch's exceptions mean ------------------------------------------------------------------------------------


@pytest.mark.torch
def test_outcomes_of_torchs_own_exceptions() -> None:
    torch = pytest.importorskip("torch")

    def said(call: Any) -> tuple[str, str]:
        with pytest.raises(Exception, match=r".") as caught:
            call()
        return outcome_of(torch, caught.value)

    def product(k: int, n: int) -> Any:
        a, b = (torch.zeros(rows, k, device="meta").to(torch.float8_e4m3fn) for rows in (16, n))
        one = torch.ones((), device="meta")
        return torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.bfloat16)

    outcome, text = said(lambda: product(24, 32))
    assert (outcome, "divisible by 16" in text) == ("refused", True)
    assert said(lambda: product(32, 24))[0] == "refused"
    outcome, text = said(lambda: torch.zeros(2, 3) @ torch.zeros(2, 3))
    assert (outcome, text.startswith("RuntimeError: ")) == ("error", True)
    assert "\n" not in text
    assert outcome_of(torch, torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")) == (
        "out-of-memory",
        "OutOfMemoryError: CUDA out of memory.",
    )
    assert outcome_of(torch, RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `x`"))[0] == "refused"
    few = "self.size(0) needs to be greater than 16, but got 16"  # of _int_mm, on a GPU
    assert outcome_of(torch, RuntimeError(few)) == ("refused", f"RuntimeError: {few}")
    assert outcome_of(torch, RuntimeError()) == ("error", "RuntimeError: ")
