"""torch's rules, on facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fp8doctor.checks import torch_build as subject
from fp8doctor.checks.gpu import Gpu, Gpus
from fp8doctor.checks.torch_build import ScaledGemm, TorchBuild, TorchDevice, product_rules, rules
from fp8doctor.checks.torch_build.probe import ADDING, IMPORTING, STARTING
from fp8doctor.checks.torch_build.scaled_gemms import Case, cases
from fp8doctor.judging.judge import Judgement, judge
from fp8doctor.model import Finding, NotApplicable, ProbeRun, RuleResult, Severity, Unknown
from fp8doctor.plain import to_plain
from fp8doctor.registry import Registry


def gemm(case: Case, outcome: str = "ok", error: str | None = None) -> ScaledGemm:
    right = outcome == "ok"
    return replace(
        case.record,
        outcome=outcome,
        error=error,
        relative_error=0.0377 if right else None,
        worst_line_error=0.045 if right else None,
    )


def called(architecture: str = "9.0", **outcomes: str) -> TorchBuild:
    """A build whose products were called on `architecture`; `outcomes` by scaling, "ok" where none is given."""
    products = tuple(gemm(c, outcomes.get(c.scaling.replace("-", "_"), "ok"), "as torch says") for c in cases(None))
    return replace(
        HOPPER,
        devices=(TorchDevice(index=0, name="GPU", compute_capability=architecture),),
        scaled_gemms=products,
    )


HOPPER = TorchBuild(
    installed=True,
    version="2.11.0+cu130",
    cuda="13.0",
    accelerator="cuda",
    arch_list=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
    float8_dtypes=("float8_e4m3fn", "float8_e5m2"),
    cuda_available=True,
    devices=(TorchDevice(index=0, name="NVIDIA H200", compute_capability="9.0"),),
    examined_gpu=0,
    trivial_kernel_ok=True,
    import_s=3.0,
)
# What an H200 refuses as it should.
H200 = called(mxfp8="refused", nvfp4="refused")
ONE_H200 = Gpus(gpus=(Gpu(index=0, name="NVIDIA H200", compute_capability="9.0", vendor="nvidia"),))
NO_GPU = Gpus(gpus=(), why_none="no-driver")
NO_TORCH = TorchBuild(installed=False)
CPU_ONLY = TorchBuild(installed=True, version="2.13.0+cpu", accelerator="cpu", import_s=1.0)


def on(architecture: str) -> Gpus:
    return Gpus(gpus=(Gpu(index=0, name="GPU", compute_capability=architecture),))


def judged(build: TorchBuild, gpus: Gpus) -> Judgement:
    registry = Registry()
    registry.collect(subject)
    return judge(registry, {"torch_build": ProbeRun("ok", build), "gpus": ProbeRun("ok", gpus)})


def findings(verdict: RuleResult) -> list[Finding]:
    return [v for v in (verdict if isinstance(verdict, list) else [verdict]) if isinstance(v, Finding)]


def test_a_healthy_h200_has_no_finding_and_the_answers_are_yes() -> None:
    said = judged(H200, ONE_H200)
    assert said.findings == ()
    outcomes = {o.id: o.outcome for o in said.outcomes}
    assert outcomes["TOR008"] == outcomes["TOR009"] == outcomes["TOR010"] == "pass"
    assert not {"unknown", "crashed"} & set(outcomes.values())
    assert said.verdict.fp8_software is said.verdict.fp8_runs is True


@pytest.mark.parametrize(
    ("build", "cause"),
    [
        (NO_TORCH, "torch-missing"),
        (TorchBuild(installed=True, version="2.11.0", import_error="ImportError: libfoo.so"), "torch-broken"),
        (CPU_ONLY, "cpu-only-torch"),
    ],
)
def test_one_cause_leads_and_explains_the_rest(build: Any, cause: Any) -> None:
    said = judged(build, ONE_H200)
    assert said.findings[0].name == cause
    assert [f.name for f in said.findings[1:]] == ["no-fp8-gemm-in-torch"]
    assert said.findings[0].explains == ("TOR008",)
    assert said.verdict.fp8_software is False


@pytest.mark.parametrize("build", [CPU_ONLY, replace(HOPPER, cuda_available=False, devices=(), examined_gpu=None)])
def test_without_a_gpu_nothing_here_is_a_finding(build: Any) -> None:
    assert judged(build, NO_GPU).findings == ()


def test_a_gpu_without_fp8_is_left_to_the_rule_that_says_so() -> None:
    refused = called("8.0", **dict.fromkeys((c.scaling.replace("-", "_") for c in cases(None)), "refused"))
    assert judged(refused, on("8.0")).findings == ()


def test_what_was_not_observed_is_unknown() -> None:
    outcomes = {o.id: o.outcome for o in judged(TorchBuild(), ONE_H200).outcomes}
    assert set(outcomes.values()) <= {"unknown", "not-applicable"}


def test_missing_torch_names_the_folder_left_behind() -> None:
    found = findings(rules.torch_missing(replace(NO_TORCH, leftover_folder="/site/torch")))
    assert "/site/torch" in found[0].evidence[-1].text
    assert rules.torch_missing(HOPPER) is None


def test_missing_torch_is_installed_and_only_forced_over_records_that_lie() -> None:
    plain, ghost = replace(NO_TORCH, version=None), replace(NO_TORCH, version="2.11.0")
    assert findings(rules.torch_missing(plain))[0].actions[-1].command == "python -m pip install torch"
    assert "--force-reinstall" in (findings(rules.torch_missing(ghost))[0].actions[-1].command or "")


def test_import_that_never_ends_is_broken() -> None:
    hung = ProbeRun("timeout", TorchBuild(installed=True, attempting=IMPORTING), detail="no end after 90 s")
    assert findings(rules.torch_broken(hung))
    assert rules.torch_broken(ProbeRun("ok", HOPPER)) is None
    later = ProbeRun("timeout", replace(HOPPER, attempting=ADDING), detail="no end after 90 s")
    assert rules.torch_broken(later) is None
    assert isinstance(rules.torch_broken(ProbeRun("exit", None, "no such file")), Unknown)


def ran(build: TorchBuild) -> ProbeRun[TorchBuild]:
    return ProbeRun("ok", build)


def test_an_import_that_was_given_little_time_is_no_error_yet() -> None:
    hung = ProbeRun("timeout", TorchBuild(installed=True, attempting=IMPORTING), detail="no end after 5 s")
    short, long = (findings(rules.torch_broken(replace(hung, elapsed_ms=ms)))[0] for ms in (5e3, 9e4))
    assert (short.severity, long.severity) == (Severity.WARNING, Severity.ERROR)
    assert "importtime" in (short.actions[0].command or "")


def test_cuda_that_hangs_while_it_starts_does_not_start() -> None:
    hung = ProbeRun("timeout", replace(HOPPER, cuda_available=None, attempting=STARTING), detail="no end after 9 s")
    assert "no end after 9 s" in findings(rules.cuda_does_not_start(hung, ONE_H200))[0].evidence[0].text


def test_cuda_that_does_not_start() -> None:
    silent = replace(HOPPER, cuda_available=False, devices=(), cuda_error="RuntimeError: CUDA unknown error")
    found = findings(rules.cuda_does_not_start(ran(silent), ONE_H200))
    assert "CUDA unknown error" in found[0].evidence[0].text
    assert isinstance(rules.cuda_does_not_start(ran(silent), None), Unknown)
    assert isinstance(rules.cuda_does_not_start(ran(silent), NO_GPU), NotApplicable)
    ecc = replace(HOPPER, trivial_kernel_ok=False, trivial_kernel_error="uncorrectable ECC error encountered")
    assert findings(rules.cuda_does_not_start(ran(ecc), ONE_H200))
    assert rules.cuda_does_not_start(ran(HOPPER), ONE_H200) is None


CU126 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
CU130 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")


@pytest.mark.parametrize(
    ("archs", "device", "covered"),
    [
        (CU130, (8, 9), True),
        (CU130, (10, 3), True),
        (CU130, (12, 1), True),
        (CU126, (12, 0), False),
        (CU126, (10, 0), False),
        (CU130, (7, 0), False),
        (("sm_86",), (8, 0), False),
        (("sm_90a",), (9, 0), True),
        (("sm_100a",), (10, 3), False),
        (("sm_100f",), (10, 3), True),
        ((*CU126, "compute_90"), (12, 0), True),
        (("compute_120",), (9, 0), False),
        (("sm_80", "sm_100"), (8, 7), None),
        (("sm_87",), (8, 9), False),
        (("sm_110",), (11, 0), True),
    ],
)
def test_which_code_runs_where(archs: Any, device: Any, covered: Any) -> None:
    assert rules.code_covers(archs, device) is covered


def test_missing_code_is_told_for_each_gpu_and_a_kernel_that_ran_clears_it() -> None:
    blackwell = replace(HOPPER, arch_list=CU126, devices=None, trivial_kernel_ok=None, examined_gpu=None)
    both = Gpus(
        gpus=(
            Gpu(index=0, name="H200", compute_capability="9.0"),
            Gpu(index=1, name="RTX 5090", compute_capability="12.0"),
        )
    )
    assert [f.about for f in findings(rules.no_code_for_gpu(blackwell, both))] == ["gpu:1"]
    ran = replace(HOPPER, arch_list=("sm_60",))
    assert not findings(rules.no_code_for_gpu(ran, ONE_H200))
    failed = replace(
        HOPPER, trivial_kernel_ok=False, trivial_kernel_error="no kernel image is available for execution on the device"
    )
    assert findings(rules.no_code_for_gpu(failed, ONE_H200))
    assert judged(failed, ONE_H200).verdict.fp8_software is False


def test_old_torch_on_ada_unless_a_product_ran() -> None:
    old = replace(HOPPER, version="2.2.2+cu121", cuda="12.1")
    assert findings(rules.too_old_for_products(old, on("8.9")))
    assert rules.too_old_for_products(replace(called("8.9"), version="2.3.1"), on("8.9")) is None
    assert rules.too_old_for_products(old, ONE_H200) is None
    assert isinstance(rules.too_old_for_products(old, on("8.6")), NotApplicable)
    assert findings(rules.too_old_for_products(replace(old, version="2.0.1", float8_dtypes=()), ONE_H200))


@pytest.mark.parametrize(("cuda", "severity"), [("11.8", Severity.ERROR), ("12.1", Severity.WARNING), ("12.4", None)])
def test_cuda_for_ada(cuda: Any, severity: Any) -> None:
    found = findings(rules.cuda_too_old_for_ada(replace(HOPPER, cuda=cuda), on("8.9")))
    assert [f.severity for f in found] == ([severity] if severity else [])
    assert isinstance(rules.cuda_too_old_for_ada(replace(HOPPER, cuda=cuda), ONE_H200), NotApplicable)


def test_refused_everywhere_is_no_product_and_another_error_is_not() -> None:
    refused = product_rules.no_product(called(tensorwise="refused"), ONE_H200)
    assert "as torch says" in findings(refused)[0].evidence[0].text
    assert isinstance(product_rules.product_fails(called(tensorwise="refused"), ONE_H200), NotApplicable)
    assert isinstance(product_rules.no_product(called(tensorwise="error"), ONE_H200), Unknown)
    assert findings(product_rules.product_fails(called(tensorwise="error"), ONE_H200))


def test_no_memory_left_is_no_fault_of_fp8() -> None:
    products = tuple(gemm(c, "error", "OutOfMemoryError: CUDA out of memory.") for c in cases(None))
    assert isinstance(product_rules.product_fails(replace(H200, scaled_gemms=products), ONE_H200), Unknown)


def test_wrong_results_are_an_alarm() -> None:
    wrong = called(blockwise_1x128="wrong")
    assert "blockwise-1x128" in findings(product_rules.wrong_result(wrong))[0].title
    assert product_rules.wrong_result(H200) is None
    assert isinstance(product_rules.wrong_result(NO_TORCH), NotApplicable)


@pytest.mark.parametrize("scaling", ["mxfp8", "nvfp4"])
def test_a_scaling_that_was_never_seen_right_is_not_accused(scaling: str) -> None:
    differs = product_rules.wrong_result(called("10.0", **{scaling: "wrong"}))
    assert isinstance(differs, Unknown)
    assert "was not verified" in differs.reason
    both = product_rules.wrong_result(called("10.0", **{scaling: "wrong", "rowwise": "wrong"}))
    assert [f.title for f in findings(both)] == ["FP8 products with rowwise scaling run and are wrong on this GPU"]


def test_rowwise_refused_beside_a_tensorwise_that_runs() -> None:
    assert findings(product_rules.no_rowwise(called("12.0", rowwise="refused")))
    assert product_rules.no_rowwise(H200) is None
    assert isinstance(product_rules.no_rowwise(called(rowwise="absent")), NotApplicable)
    assert isinstance(product_rules.no_rowwise(called(rowwise="error")), Unknown)


def test_rowwise_that_fails_with_an_odd_number_of_rows() -> None:
    products = tuple(gemm(c, "crashed" if c.m % 16 else "ok", "SIGABRT") for c in cases(None))
    crashed = replace(H200, scaled_gemms=products)
    assert findings(product_rules.rowwise_bug(crashed))
    assert product_rules.rowwise_bug(H200) is None
    assert product_rules.crashes(crashed) is None, "told once"


def test_a_crash_is_told_beside_what_runs() -> None:
    assert findings(product_rules.crashes(called(mxfp8="crashed")))
    assert product_rules.crashes(H200) is None


def test_amd_multiplies_one_kind() -> None:
    mi300 = TorchDevice(index=0, name="AMD Instinct MI300X", compute_capability="gfx942")
    products = tuple(
        gemm(c, "ok" if c.dtype.endswith("fnuz") else "refused", "Expected b.dtype()") for c in cases("gfx942")
    )
    build = TorchBuild(
        installed=True, hip="6.4", accelerator="hip", devices=(mi300,), examined_gpu=0, scaled_gemms=products
    )
    found = findings(product_rules.other_generation(build))
    assert found[0].title == "gfx942 multiplies float8_e4m3fnuz and refuses float8_e4m3fn"
    assert isinstance(product_rules.other_generation(H200), NotApplicable)


def test_a_block_scaling_that_the_gpu_has_and_cublas_refuses() -> None:
    assert findings(product_rules.recipe_needs_newer_cublas(called("10.0", mxfp8="refused")))
    assert product_rules.recipe_needs_newer_cublas(H200) is None


def test_messages_settle_the_rules_that_only_messages_show() -> None:
    registry = Registry()
    registry.collect(subject)
    assert {text.rule for text in registry.error_texts} <= set(registry.rules)


def test_facts_survive_the_way_to_json() -> None:
    assert to_plain(H200)["scaled_gemms"][0]["shape"] == {"m": 256, "k": 512, "n": 256}
