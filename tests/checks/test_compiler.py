"""torch.compile: rules, on records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from fp8doctor.checks.compiler import CompileCache, CompiledCast, CompiledFunction, Compiler, rules
from fp8doctor.checks.compiler.probe import IMPORTING
from fp8doctor.checks.compiler.switches import SWITCHES, acting
from fp8doctor.checks.compiler.texts import ERROR_TEXTS, other_toolkit, recompile_limit
from fp8doctor.checks.gpu import Gpu, Gpus
from fp8doctor.checks.libraries import Libraries
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.model import Caption, Finding, NotApplicable, ProbeRun, RuleResult, Severity, Unknown

H200 = Gpus(gpus=(Gpu(index=0, name="NVIDIA H200", compute_capability="9.0"),))
NO_GPU = Gpus(gpus=())
TORCH = TorchBuild(installed=True, accelerator="cuda", cuda_available=True)
CPU_TORCH = TorchBuild(installed=True, accelerator="cpu")
HEALTHY = Compiler(
    triton_installed=True,
    triton_version="3.6.0",
    c_compiler="/usr/bin/gcc",
    c_compiler_found=True,
    c_compiler_works=True,
    python_include="/usr/include/python3.11",
    python_header_found=True,
    python_header_works=True,
    caches=(CompileCache("inductor", None, "/tmp/torchinductor_me", True, True),),
    switches={},
)
E4M3 = CompiledCast("float8_e4m3fn", "ok", relative_error=0.0267, relative_error_eager=0.0267)
E5M2 = replace(E4M3, dtype="float8_e5m2")
COMPILED = CompiledFunction(casts=(E4M3, E5M2))
FAILED = CompiledFunction(casts=(replace(E4M3, outcome="error"), replace(E5M2, outcome="error")))


def one(result: RuleResult) -> Finding:
    """The only finding of a rule."""
    found = [v for v in (result if isinstance(result, list) else [result]) if isinstance(v, Finding)]
    assert len(found) == 1
    return found[0]


def nothing(result: RuleResult) -> bool:
    return result is None or result == [None] * len(result) if isinstance(result, list) else result is None


# Rules


def test_a_healthy_box_gets_no_finding() -> None:
    assert nothing(rules.triton_missing(HEALTHY, None, H200, TORCH))
    assert nothing(rules.c_compiler_missing(HEALTHY, COMPILED, H200, TORCH))
    assert nothing(rules.python_headers_missing(HEALTHY, COMPILED, H200, TORCH))
    assert nothing(rules.compile_cache_not_writable(HEALTHY, H200, TORCH))
    assert nothing(rules.compile_switched_off(HEALTHY, COMPILED, H200, TORCH))
    assert nothing(rules.compile_fails(ProbeRun("ok", COMPILED)))
    assert nothing(rules.triton_fp8_cast_unsupported(COMPILED))
    assert nothing(rules.compile_errors_hidden(HEALTHY, H200, TORCH))
    assert nothing(rules.compiled_kernels_slowed(HEALTHY, H200, TORCH))
    assert nothing(rules.compile_caches_off(HEALTHY, H200, TORCH))


@pytest.mark.parametrize(("gpus", "torch"), [(NO_GPU, TORCH), (H200, CPU_TORCH), (None, TorchBuild(installed=False))])
def test_without_a_gpu_or_a_torch_for_it_nothing_applies(gpus: Gpus | None, torch: TorchBuild) -> None:
    bare = Compiler(triton_installed=False, c_compiler_found=False, switches={"TORCH_COMPILE_DISABLE": "1"}, caches=())
    for result in (
        rules.triton_missing(bare, None, gpus, torch),
        rules.c_compiler_missing(bare, None, gpus, torch),
        rules.python_headers_missing(bare, None, gpus, torch),
        rules.compile_cache_not_writable(bare, gpus, torch),
        rules.compile_switched_off(bare, None, gpus, torch),
    ):
        assert isinstance(result, NotApplicable)


def test_without_triton_nobody_misses_what_triton_would_call() -> None:
    bare = Compiler(triton_installed=False, c_compiler_found=False, python_header_found=False)
    assert isinstance(rules.c_compiler_missing(bare, None, H200, TORCH), NotApplicable)
    assert isinstance(rules.python_headers_missing(bare, None, H200, TORCH), NotApplicable)


def test_where_neither_a_gpu_nor_torch_was_seen_nothing_is_missing() -> None:
    """An examination interrupted in its first seconds has looked for Triton and for nothing else."""
    bare = Compiler(triton_installed=False, c_compiler_found=False, switches={"TORCH_COMPILE_DISABLE": "1"}, caches=())
    for gpus, torch in ((None, None), (Gpus(), TorchBuild())):
        for result in (
            rules.triton_missing(bare, None, gpus, torch),
            rules.c_compiler_missing(bare, None, gpus, torch),
            rules.python_headers_missing(bare, None, gpus, torch),
            rules.compile_cache_not_writable(bare, gpus, torch),
            rules.compile_switched_off(bare, None, gpus, torch),
            rules.compile_errors_hidden(bare, gpus, torch),
            rules.compiled_kernels_slowed(bare, gpus, torch),
            rules.compile_caches_off(bare, gpus, torch),
        ):
            assert isinstance(result, Unknown)


def test_caption() -> None:
    assert HEALTHY.caption() == Caption(34, "triton 3.6.0")
    assert replace(HEALTHY, triton_installed=False).caption() is None
    assert Compiler().caption() is None


def test_triton_missing() -> None:
    assert one(rules.triton_missing(replace(HEALTHY, triton_installed=False), None, H200, TORCH)).severity is None
    broken = replace(HEALTHY, triton_import_error="ImportError: undefined symbol: x")
    assert "undefined symbol" in one(rules.triton_missing(broken, None, H200, TORCH)).evidence[0].text


def test_triton_missing_from_a_text_that_proves_its_absence() -> None:
    assert one(rules.triton_missing(None, Libraries(absent=("triton",)), H200, TORCH))
    assert rules.triton_missing(None, Libraries(installed={"triton": "3.6.0"}), H200, TORCH) is None
    assert isinstance(rules.triton_missing(None, Libraries(installed={"torch": "2.11.0"}), H200, TORCH), Unknown)


def test_a_missing_compiler_is_an_error_where_compiling_failed_and_no_finding_where_it_worked() -> None:
    missing = replace(HEALTHY, c_compiler=None, c_compiler_found=False, c_compiler_works=None)
    assert one(rules.c_compiler_missing(missing, FAILED, H200, TORCH)).severity is Severity.ERROR
    assert one(rules.c_compiler_missing(missing, None, H200, TORCH)).severity is Severity.WARNING
    assert rules.c_compiler_missing(missing, COMPILED, H200, TORCH) is None


def test_a_compiler_that_fails_is_shown_with_what_it_said() -> None:
    broken = replace(HEALTHY, c_compiler_works=False, c_compiler_error="cc1: not found")
    assert "cc1: not found" in one(rules.c_compiler_missing(broken, FAILED, H200, TORCH)).evidence[0].text


def test_cc_that_leads_nowhere_is_named() -> None:
    astray = replace(
        HEALTHY, c_compiler="/opt/gone/cc", c_compiler_variable="CC", c_compiler_found=False, c_compiler_works=None
    )
    finding = one(rules.c_compiler_missing(astray, None, H200, TORCH))
    assert "CC=/opt/gone/cc" in finding.evidence[0].text
    assert finding.actions[0].command == "unset CC"


def test_python_headers_missing_names_the_package_of_this_python() -> None:
    missing = replace(HEALTHY, python_header_found=False, python_header_works=False)
    finding = one(rules.python_headers_missing(missing, FAILED, H200, TORCH))
    assert finding.actions[0].command == "sudo apt-get install -y python3.11-dev"
    assert rules.python_headers_missing(missing, COMPILED, H200, TORCH) is None
    no_compiler = replace(HEALTHY, python_header_works=None)
    assert isinstance(rules.python_headers_missing(no_compiler, None, H200, TORCH), Unknown)


def test_a_cache_that_torch_compile_never_uses_is_a_warning() -> None:
    plain = CompileCache("triton", None, "/home/me/.triton/cache", False, True, "/home/me may not be written")
    named = replace(plain, variable="TRITON_CACHE_DIR")
    for cache, severity in ((plain, Severity.WARNING), (named, Severity.ERROR)):
        finding = one(rules.compile_cache_not_writable(replace(HEALTHY, caches=(cache,)), H200, TORCH))
        assert finding.severity is severity


def test_a_noexec_cache_is_a_finding() -> None:
    cache = CompileCache("inductor", None, "/tmp/x", True, False, "/tmp is on a file system mounted noexec")
    finding = one(rules.compile_cache_not_writable(replace(HEALTHY, caches=(cache,)), H200, TORCH))
    assert "noexec" in finding.evidence[0].text


def test_compile_switched_off() -> None:
    off = replace(HEALTHY, switches={"TORCHDYNAMO_DISABLE": "1", "TORCH_COMPILE_DISABLE": "0"})
    finding = one(rules.compile_switched_off(off, None, H200, TORCH))
    assert "TORCHDYNAMO_DISABLE" in finding.title
    eager = CompiledFunction(casts=(replace(E4M3, outcome="eager"), replace(E5M2, outcome="eager")))
    assert "no variable" in one(rules.compile_switched_off(HEALTHY, eager, H200, TORCH)).title
    assert isinstance(rules.compile_fails(ProbeRun("ok", eager)), Unknown)


@pytest.mark.parametrize(
    ("rule", "variable", "value", "harmless"),
    [
        (rules.compile_errors_hidden, "TORCHDYNAMO_SUPPRESS_ERRORS", "0", ""),
        (rules.compiled_kernels_slowed, "TRITON_INTERPRET", "true", "0"),
        (rules.compiled_kernels_slowed, "DISABLE_PTXAS_OPT", "1", "off"),
        (rules.compile_caches_off, "TORCHINDUCTOR_FORCE_DISABLE_CACHES", "yes", "0"),
        (rules.compile_caches_off, "TORCHINDUCTOR_FX_GRAPH_CACHE", "0", "1"),
        (rules.compile_caches_off, "TORCHINDUCTOR_COMPILE_THREADS", "1", "16"),
    ],
)
def test_switches_act_on_the_values_that_their_sources_read(
    rule: Callable[..., RuleResult], variable: str, value: str, harmless: str
) -> None:
    assert variable in one(rule(replace(HEALTHY, switches={variable: value}), H200, TORCH)).title
    assert nothing(rule(replace(HEALTHY, switches={variable: harmless}), H200, TORCH))


def test_compile_fails() -> None:
    result = rules.compile_fails(ProbeRun("ok", FAILED))
    assert isinstance(result, list)
    assert len(result) == 2
    wrong = CompiledFunction(casts=(replace(E4M3, outcome="wrong", relative_error=0.5), E5M2))
    assert "wrong numbers" in one(rules.compile_fails(ProbeRun("ok", wrong))).title
    assert "timeout" in one(rules.compile_fails(ProbeRun("timeout", None, "no end after 120 s"))).evidence[0].text
    assert isinstance(rules.compile_fails(ProbeRun("skipped", detail="not part of a quick run")), Unknown)
    not_tried = CompiledFunction(not_tried="no GPU is visible", casts=())
    assert isinstance(rules.compile_fails(ProbeRun("ok", not_tried)), NotApplicable)


def test_e4m3_refused_while_e5m2_works_is_told_once() -> None:
    error = "ValueError: type fp8e4nv not supported in this architecture."
    refused = CompiledFunction(casts=(replace(E4M3, outcome="error", error=error), E5M2))
    assert error in one(rules.triton_fp8_cast_unsupported(refused)).evidence[0].text
    assert rules.compile_fails(ProbeRun("ok", refused)) is None
    assert rules.triton_fp8_cast_unsupported(FAILED) is None  # nothing compiles here: another cause


def test_every_error_text_names_a_rule_of_this_subject() -> None:
    known = [*vars(rules).values(), other_toolkit, recompile_limit]
    ids = {spec.__fp8doctor__.id for spec in known if hasattr(spec, "__fp8doctor__")}
    assert {text.rule for text in ERROR_TEXTS} <= ids
    assert len({switch.variable for switch in SWITCHES}) == len(SWITCHES)
    assert acting({}, "off") == []


def test_a_triton_that_never_comes_back_is_as_good_as_missing() -> None:
    stuck = replace(HEALTHY, triton_installed=None, attempting=IMPORTING)
    assert "does not come back" in one(rules.triton_missing(stuck, None, H200, TORCH)).title
