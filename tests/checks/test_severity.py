"""How grave is it? What stops FP8 is an error, what costs time is a warning: in the report, from facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fp8doctor import api
from fp8doctor.checks.compiler import CompiledCast, CompiledFunction, Compiler
from fp8doctor.checks.driver import Driver
from fp8doctor.checks.flash_attention.facts import FlashAttention, Generation
from fp8doctor.checks.gpu import Gpu, Gpus
from fp8doctor.checks.linear.facts import Ceiling, Ceilings
from fp8doctor.checks.serving.facts import Serving
from fp8doctor.checks.torch_build import ScaledGemm, TorchBuild, TorchDevice
from fp8doctor.checks.torchao import Torchao
from fp8doctor.checks.transformer_engine import TransformerEngine
from fp8doctor.model import Facts, Severity
from fp8doctor.plain import to_plain
from fp8doctor.traced import Trace
from tests.linear_facts import LINEAR, changed
from tests.step_situations import eager_bf16

H200 = Gpu(
    index=0,
    name="NVIDIA H200",
    compute_capability="9.0",
    vendor="nvidia",
    power_limit_w=700.0,
    power_limit_default_w=700.0,
    processes=(),
)
ONE_H200 = Gpus(gpus=(H200,))
A100 = replace(H200, index=1, name="NVIDIA A100-SXM4-80GB", compute_capability="8.0")
CU130 = TorchBuild(
    installed=True, version="2.11.0+cu130", cuda="13.0", accelerator="cuda", arch_list=("sm_90", "sm_100"), import_s=3.0
)
CPU_ONLY = TorchBuild(installed=True, version="2.13.0+cpu", accelerator="cpu", import_s=1.0)
RAN = replace(CU130, cuda_available=True, devices=(TorchDevice(index=0, name="NVIDIA H200", compute_capability="9.0"),))
WRONG = ScaledGemm(scaling="tensorwise", outcome="wrong", relative_error=0.5, relative_error_limit=0.076)
TORCH_SYMBOL = "undefined symbol: _ZN3c105ErrorC2ENS_14SourceLocationESs"
COMPILER = Compiler(triton_installed=True, c_compiler_found=True, c_compiler_works=True, switches={})
NOT_COMPILED = CompiledFunction(casts=(CompiledCast("float8_e4m3fn", "error"), CompiledCast("float8_e5m2", "error")))
FLASH = Generation(
    generation=2,
    installed=True,
    distribution="flash-attn",
    modules=("flash_attn",),
    module="flash_attn",
    imported=False,
    outcome="error",
    error=f"ImportError: /site/flash_attn_2_cuda.so: {TORCH_SYMBOL}",
)


def severities(*facts: Facts) -> dict[str, Severity]:
    """The severity of each finding that the report of these facts has."""
    document = {
        "schema": "fp8doctor.facts",
        "schema_version": "1.0",
        "probes": {record.key: {"outcome": "ok"} for record in facts},
        "facts": {record.key: to_plain(record) for record in facts},
    }
    return {finding.id: finding.severity for finding in api.diagnose(document).findings}


@pytest.mark.parametrize("rule", ["TOR001", "TOR002", "TOR003", "TOR010", "CMP003", "GPU001", "DRV001"])
def test_what_stops_fp8_is_an_error_by_itself_and_not_for_its_symptoms_alone(rule: str) -> None:
    assert api.knowledge().rules[rule].severity is Severity.ERROR


def te(error: str) -> TransformerEngine:
    return TransformerEngine(installed=True, version="2.20.2", import_ok=False, import_error=error)


@pytest.mark.parametrize(
    ("rule", "facts"),
    [
        ("GPU001", [Gpus(gpus=(replace(A100, index=0),))]),
        ("DRV001", [Driver(installed=True, version="550.90.07"), CU130, ONE_H200]),
        ("TOR003", [CPU_ONLY, ONE_H200]),
        ("TOR005", [CU130, Gpus(gpus=(replace(H200, name="Tesla V100-SXM2-16GB", compute_capability="7.0"),))]),
        ("TOR010", [replace(RAN, scaled_gemms=(WRONG,)), ONE_H200]),
        ("TE001", [te(f"ImportError: /site/transformer_engine_torch.so: {TORCH_SYMBOL}"), ONE_H200]),
        ("TE005", [te("RuntimeError: shared object not found"), ONE_H200]),
        (
            "AO002",
            [
                Torchao(
                    installed=True, import_ok=False, import_error="it ended: SIGABRT", imports_without_kernels=True
                ),
                ONE_H200,
            ],
        ),
        ("CMP003", [replace(COMPILER, c_compiler_found=False), NOT_COMPILED, ONE_H200, RAN]),
        ("LIN010", [changed("torchao-fp8-rowwise+compile", gemm_kind="bf16-gemm"), ONE_H200]),
    ],
)
def test_what_stops_fp8_or_makes_it_useless_is_an_error(rule: str, facts: list[Facts]) -> None:
    assert severities(*facts)[rule] is Severity.ERROR


@pytest.mark.parametrize(
    ("rule", "facts"),
    [
        ("GPU001", [Gpus(gpus=(H200, A100))]),
        ("GPU003", [Gpus(gpus=(replace(H200, power_limit_w=500.0),))]),
        ("GPU004", [Gpus(gpus=(replace(H200, mig_enabled=True),))]),
        (
            "FA001",
            [FlashAttention(generations=(FLASH,), flash_attn_name="package", compute_capability="9.0"), ONE_H200],
        ),
        ("TE005", [te("timeout: no answer within 60 s"), ONE_H200]),
        ("CMP003", [replace(COMPILER, c_compiler_found=False), ONE_H200, RAN]),
        ("CMP006", [replace(COMPILER, switches={"TORCH_COMPILE_DISABLE": "1"}), ONE_H200, RAN]),
        (
            "LIN009",
            [replace(LINEAR, ceilings=Ceilings(Ceiling(burst_tflops=836.0), Ceiling(burst_tflops=900.0))), ONE_H200],
        ),
        ("SRV001", [Serving(engine="vllm", weight_only=True), Gpus(gpus=(A100,))]),
    ],
)
def test_what_costs_time_or_a_part_of_the_box_is_a_warning(rule: str, facts: list[Facts]) -> None:
    assert severities(*facts)[rule] is Severity.WARNING


@pytest.mark.parametrize(
    ("share", "severity"),
    [(0.09, None), (0.11, Severity.INFO), (0.24, Severity.INFO), (0.26, Severity.WARNING)],
)
def test_a_gpu_that_waits_for_launches_is_told_from_a_tenth_and_warned_of_from_a_quarter_of_the_time(
    share: float, severity: Severity | None
) -> None:
    step = eager_bf16()
    waiting = replace(step, has_stacks=False, idle_launching_us=share * (step.span_us or 0.0), idle_between_us=0.0)
    report = api.read_report(api.knowledge(), {Trace.key: waiting}, "trace")
    assert {f.id: f.severity for f in report.findings}.get("STP004") is severity
