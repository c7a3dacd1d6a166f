"""Transformer Engine: its rules on facts, and its probe on packages that are really broken."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.transformer_engine import Recipe, TransformerEngine, import_rules, recipe_rules, texts
from fp8doctor.checks.transformer_engine.probe import gather
from fp8doctor.model import Caption, Finding, NotApplicable, ProbeRun, Severity, Unknown
from tests.broken_packages import MISSING_SYMBOL, BrokenSite, Fault

IMPORT_RULES: dict[str, Any] = {
    "abi-mismatch-te": import_rules.abi_mismatch,
    "te-framework-ext-missing": import_rules.extension_missing,
    "te-version-mismatch": import_rules.versions_differ,
    "te-import-fails": import_rules.import_fails,
    "cudnn-too-old": import_rules.cudnn_too_old,
    "cudnn-mixed-libraries": import_rules.cudnn_mixed,
    "cublas-version": import_rules.cublas_version,
}
RECIPE_RULES: tuple[Any, ...] = (
    recipe_rules.recipe_not_on_arch,
    recipe_rules.wrong_result,
    recipe_rules.recipe_fails,
    recipe_rules.not_applied,
    recipe_rules.cuda_too_old_for_ada,
)
RIGHT = Recipe(
    name="Float8CurrentScaling",
    available=True,
    forward_ok=True,
    finite=True,
    relative_error=0.0376,
    relative_error_expected=0.038,
    relative_error_limit=0.076,
)
REFUSED = Recipe(
    name="MXFP8BlockScaling",
    available=False,
    reason="Device compute capability 10.0 or higher required for MXFP8 execution.",
)
HEALTHY = TransformerEngine(
    installed=True,
    version="2.20.2",
    packages={
        "transformer-engine": "2.20.2",
        "transformer-engine-cu13": "2.20.2",
        "transformer-engine-torch": "2.20.2",
    },
    import_ok=True,
    import_s=4.9,
    recipes=(RIGHT,),
)


def ran(facts: TransformerEngine) -> ProbeRun[TransformerEngine]:
    return ProbeRun("ok", facts)


def import_findings(run: ProbeRun[Any]) -> dict[str, Finding]:
    verdicts = {name: rule(run) for name, rule in IMPORT_RULES.items()}
    return {name: verdict for name, verdict in verdicts.items() if isinstance(verdict, Finding)}


def only(verdicts: Any) -> Finding:
    (finding,) = [verdict for verdict in verdicts if verdict is not None]
    assert isinstance(finding, Finding)
    return finding


# What each failure really said: the first from public issues, the rest from the source of 1.13 to 2.20.2.
@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (
            "ImportError: /x/transformer_engine/wheel_lib/transformer_engine_torch.cpython-311-x86_64-linux-gnu.so: "
            "undefined symbol: _ZN3c106detail14torchCheckFailEPKcS2_jRKNSt7__cxx1112basic_stringIcEE",
            "abi-mismatch-te",
        ),
        (
            "ImportError: /x/transformer_engine_extensions.cpython-38-x86_64-linux-gnu.so: undefined symbol: "
            "_ZN5torch3jit17parseSchemaOrNameERKNSt7__cxx1112basic_stringIcEE",
            "abi-mismatch-te",
        ),
        ("ImportError: /x/transformer_engine_torch.so: undefined symbol: nvte_layernorm_bwd", "te-version-mismatch"),
        ("OSError: /x/libtransformer_engine.so: undefined symbol: cublasLtMatmulAlgoGetIds", "cublas-version"),
        ("OSError: /x/libtransformer_engine.so: undefined symbol: cudnnBackendFinalize", "cudnn-too-old"),
        (
            "RuntimeError: Transformer Engine requires cuDNN 9.12.0 or later, but the cuDNN runtime is 9.10.2.",
            "cudnn-too-old",
        ),
        ("RuntimeError: Found empty `transformer-engine` meta package installed. Install", "te-framework-ext-missing"),
        (
            "FileNotFoundError: Could not find shared object file for Transformer Engine torch lib.",
            "te-framework-ext-missing",
        ),
        ("StopIteration", "te-framework-ext-missing"),
        (
            "AssertionError: Transformer Engine package version mismatch. Found transformer_engine_torch v2.19.0",
            "te-version-mismatch",
        ),
        ("AssertionError: TransformerEngine package version mismatch. Found", "te-version-mismatch"),
        ("RuntimeError: cudnn shared object not found.", "te-import-fails"),
        ("OSError: CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED", "cudnn-mixed-libraries"),
        # flash-attn, which Transformer Engine imports: its own ABI is not at fault.
        (
            "ImportError: /x/flash_attn_2_cuda.cpython-312-x86_64-linux-gnu.so: undefined symbol: _ZN3c105ErrorC2E",
            "te-import-fails",
        ),
        ("the process ended: SIGSEGV", "te-import-fails"),
    ],
)
def test_a_failed_import_has_one_cause(error: str, cause: str) -> None:
    findings = import_findings(ran(replace(HEALTHY, import_ok=False, import_error=error, recipes=None)))
    assert list(findings) == [cause]
    assert error in findings[cause].evidence[0].text
    assert findings[cause].actions


def test_flash_attn_is_named_where_it_is_at_fault() -> None:
    error = "ImportError: /x/flash_attn_2_cuda.so: undefined symbol: _ZN3c10"
    finding = import_findings(ran(replace(HEALTHY, import_ok=False, import_error=error)))["te-import-fails"]
    assert "flash-attn is at fault" in finding.actions[0].text


def test_a_healthy_one_passes() -> None:
    assert [rule(ran(HEALTHY)) for rule in IMPORT_RULES.values()] == [None] * len(IMPORT_RULES)
    for rule in RECIPE_RULES:
        verdict = rule(HEALTHY)
        assert verdict is None or verdict == [None]


def test_an_absent_one_is_not_applicable() -> None:
    absent = TransformerEngine(installed=False, packages={})
    verdicts = [rule(ran(absent)) for rule in IMPORT_RULES.values()] + [rule(absent) for rule in RECIPE_RULES]
    assert all(isinstance(verdict, NotApplicable) for verdict in verdicts)


@pytest.mark.parametrize(
    "run",
    [ProbeRun[TransformerEngine]("not-observed"), ran(TransformerEngine(installed=True, torch_error="ImportError: x"))],
)
def test_what_was_not_seen_never_passes(run: ProbeRun[TransformerEngine]) -> None:
    assert all(isinstance(rule(run), Unknown) for rule in IMPORT_RULES.values())


def test_recipes_that_nobody_asked_for_never_pass() -> None:
    unseen = replace(HEALTHY, recipes=None)
    assert all(isinstance(rule(unseen), Unknown) for rule in RECIPE_RULES)
    not_called = replace(HEALTHY, recipes=(Recipe(name="DelayedScaling", available=True),))
    for rule in (recipe_rules.wrong_result, recipe_rules.recipe_fails, recipe_rules.not_applied):
        assert isinstance(rule(not_called), Unknown)


def test_a_refused_recipe_is_a_lesson() -> None:
    finding = recipe_rules.recipe_not_on_arch(replace(HEALTHY, recipes=(RIGHT, REFUSED)))
    assert isinstance(finding, Finding)
    assert finding.severity is Severity.INFO
    assert str(REFUSED.reason) in finding.evidence[0].text
    assert "Float8CurrentScaling" in finding.actions[0].text


def test_without_any_recipe_the_hardware_is_the_matter() -> None:
    none = replace(HEALTHY, recipes=(REFUSED,))
    assert isinstance(recipe_rules.recipe_not_on_arch(none), NotApplicable)
    assert isinstance(recipe_rules.wrong_result(none), NotApplicable)


def test_a_wrong_result_is_found() -> None:
    wrong = replace(HEALTHY, recipes=(RIGHT, replace(RIGHT, name="DelayedScaling", relative_error=0.3)))
    assert only(recipe_rules.wrong_result(wrong)).evidence[0].value == 0.3
    not_finite = replace(HEALTHY, recipes=(replace(RIGHT, finite=False, relative_error=None),))
    assert "not finite" in only(recipe_rules.wrong_result(not_finite)).evidence[0].text


def test_a_recipe_that_does_not_run_is_found() -> None:
    failed = Recipe(name="DelayedScaling", available=True, forward_ok=False, error="RuntimeError: CUDA Error")
    finding = only(recipe_rules.recipe_fails(replace(HEALTHY, recipes=(failed, RIGHT))))
    assert "CUDA Error" in finding.evidence[0].text
    assert "Float8CurrentScaling" in finding.actions[0].text


def test_a_result_of_bf16_is_found() -> None:
    bf16 = replace(HEALTHY, recipes=(replace(RIGHT, relative_error=0.0017),))
    assert "0.0017" in only(recipe_rules.not_applied(bf16)).evidence[0].text


def test_old_cuda_on_ada_is_found() -> None:
    reason = "Cuda version 12.1 or higher required for FP8 execution on Ada."
    refused = replace(REFUSED, name="DelayedScaling", reason=reason)
    finding = recipe_rules.cuda_too_old_for_ada(replace(HEALTHY, recipes=(refused,)))
    assert isinstance(finding, Finding)
    assert reason in finding.evidence[0].text


def test_mixed_cudnn_is_found_in_a_forward() -> None:
    error = "RuntimeError: cuDNN Error: CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED"
    failed = Recipe(name="DelayedScaling", available=True, forward_ok=False, error=error)
    assert isinstance(import_rules.cudnn_mixed(ran(replace(HEALTHY, recipes=(failed,)))), Finding)


@pytest.mark.parametrize("rule", [import_rules.built_in_isolation, recipe_rules.delayed_scaling_compiled])
def test_what_only_a_text_shows_is_not_applicable(rule: Any) -> None:
    assert isinstance(rule(), NotApplicable)


@pytest.mark.parametrize(
    ("line", "ids"),
    [
        ("RuntimeError: This package needs Torch to build.", ["TE013"]),
        ("DelayedScaling is not supported under torch.compile. Please use other recipes instead.", ["TE014"]),
        ("Device compute capability 8.9 or higher required for FP8 execution.", ["GPU001"]),
        ("FP8 block scaled GEMM requires Hopper and CUDA >= 12.9.", ["TE007"]),
        ("CublasLt version 12.1.3.x or higher required for FP8 execution on Ada.", ["TE011"]),
        ("ImportError: /a/flash_attn_2_cuda.so: undefined symbol: _ZN3c10", []),
        ("ImportError: /a/transformer_engine_torch.so: undefined symbol: _ZN3c10", ["TE001"]),
        ("ImportError: /a/transformer_engine_torch.so: undefined symbol: cublasLtGetVersion", ["TE015"]),
    ],
)
def test_texts_settle_their_rule_alone(line: str, ids: list[str]) -> None:
    assert [text.rule for text in texts.ERROR_TEXTS if re.search(text.pattern, line)] == ids


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (
            "void transformer_engine::dispatch::fp8::quantize_1D_kernel::cast_fp8_1D_kernel<false, float>(x*)",
            "quantize",
        ),
        ("transformer_engine::(anonymous namespace)::block_scaled_1d_cast_transpose_kernel<true>(x)", "quantize"),
        ("transformer_engine::dispatch::mxfp8::dequantize_kernel::dequantize_mxfp8_kernel<x>()", "dequantize"),
        ("transformer_engine::(anonymous namespace)::swizzle_row_scaling_kernel<int4>(x)", "scale-layout"),
        ("void transformer_engine::(anonymous namespace)::amax_kernel<16>(x)", "amax"),
        ("void transformer_engine::unary_kernel<1, &transformer_engine::cast_helper>(x)", None),
    ],
)
def test_kernels_are_told_by_their_name(name: str, kind: str | None) -> None:
    assert next((kernel.kind for kernel in texts.KERNELS if re.search(kernel.pattern, name)), None) == kind


# The probe, on packages that are really broken. The torch beside them has no GPU and costs no time to import.

TORCH = """
__version__ = "2.11.0"
class cuda:
    is_available = staticmethod(lambda: {gpu})
    set_device = synchronize = staticmethod(lambda *_: None)
"""
# As the real one does it: the package swallows the ImportError of its own part.
TOP = "try:\n    from . import pytorch\nexcept ImportError:\n    pass\n"


@pytest.fixture
def site(tmp_path: Path) -> BrokenSite:
    site = BrokenSite(tmp_path)
    site.module("torch", TORCH.format(gpu=False))
    for part in ("", "-cu13", "-torch"):
        site.metadata(f"transformer-engine{part}", "2.20.2")
    site.module("transformer_engine", TOP)
    return site


def break_extension(site: BrokenSite, fault: Fault) -> None:
    site.module("transformer_engine.pytorch", "import transformer_engine.transformer_engine_torch\n")
    if fault in ("garbage", "system-exit"):
        site.module("transformer_engine.transformer_engine_torch", fault=fault)
    else:
        site.extension("transformer_engine.transformer_engine_torch", fault)


@pytest.mark.parametrize(
    ("fault", "cause", "said"),
    [
        ("undefined-symbol", "abi-mismatch-te", MISSING_SYMBOL),
        ("segfault", "te-import-fails", "SIGSEGV"),
        ("abort", "te-import-fails", "SIGABRT"),
        ("exit", "te-import-fails", "status 0"),
        ("system-exit", "te-import-fails", "SystemExit"),
    ],
)
def test_a_broken_extension_is_named(site: BrokenSite, fault: Fault, cause: str, said: str) -> None:
    break_extension(site, fault)
    run = site.probe(gather)
    findings = import_findings(run)
    assert list(findings) == [cause]
    assert said in findings[cause].evidence[0].text
    assert run.facts.version == "2.20.2"


def test_an_import_that_hangs_is_named(site: BrokenSite) -> None:
    break_extension(site, "hang")
    run = site.probe(gather, deadline_s=14.0)
    findings = import_findings(run)
    assert list(findings) == ["te-import-fails"]
    assert "no answer after" in findings["te-import-fails"].evidence[0].text


def test_garbage_on_standard_output_does_no_harm(site: BrokenSite) -> None:
    break_extension(site, "garbage")
    run = site.probe(gather)
    assert (run.outcome, run.facts.import_ok) == ("ok", True)
    assert not import_findings(run)


def test_a_broken_torch_is_not_blamed_on_it(site: BrokenSite) -> None:
    site.break_import("torch", "segfault")
    run = site.probe(gather)
    assert "SIGSEGV" in run.facts.torch_error
    assert all(isinstance(rule(run), Unknown) for rule in IMPORT_RULES.values())


def test_its_absence_is_seen(tmp_path: Path) -> None:
    if importlib.util.find_spec("transformer_engine"):
        pytest.skip("Transformer Engine is installed here")
    assert BrokenSite(tmp_path).probe(gather).facts.installed is False


CURRENT = """
import transformer_engine.common.recipe
def is_fp8_available(return_reason=False): return (True, "") if return_reason else True
def is_fp8_block_scaling_available(return_reason=False): raise RuntimeError("no driver")
def is_mxfp8_available(return_reason=False): return (False, "too old a GPU") if return_reason else False
"""
RECIPES = """
import os, signal
class DelayedScaling:
    def __init__(self): os.kill(os.getpid(), signal.SIGSEGV)
class Float8CurrentScaling:
    def __init__(self): raise RuntimeError("no kernel image is available")
class Float8BlockScaling: pass
class MXFP8BlockScaling: pass
"""


def test_recipes_are_asked_for_in_words_of_today(site: BrokenSite) -> None:
    site.module("torch", TORCH.format(gpu=True))
    site.module("transformer_engine.pytorch", CURRENT)
    site.module("transformer_engine.common.recipe", RECIPES)
    recipes = {recipe.name: recipe for recipe in site.probe(gather, mode="quick").facts.recipes}
    assert list(recipes) == ["DelayedScaling", "Float8CurrentScaling", "Float8BlockScaling", "MXFP8BlockScaling"]
    assert recipes["DelayedScaling"].available is True
    assert recipes["DelayedScaling"].forward_ok is None
    assert (recipes["MXFP8BlockScaling"].available, recipes["MXFP8BlockScaling"].reason) == (False, "too old a GPU")
    assert recipes["Float8BlockScaling"].available is None
    assert "no driver" in recipes["Float8BlockScaling"].error


def test_recipes_are_asked_for_in_words_of_old(site: BrokenSite) -> None:
    site.module("torch", TORCH.format(gpu=True))
    site.module("transformer_engine.pytorch")
    site.module("transformer_engine.pytorch.fp8", "def check_fp8_support(): return (False, 'older than Ada')\n")
    site.module("transformer_engine.common.recipe", "class DelayedScaling: pass\n")
    (recipe,) = site.probe(gather, mode="quick").facts.recipes
    assert (recipe.available, recipe.reason) == (False, "older than Ada")


def test_a_recipe_that_crashes_costs_itself_alone(site: BrokenSite) -> None:
    site.module("torch", TORCH.format(gpu=True))
    site.module("transformer_engine.pytorch", CURRENT)
    site.module("transformer_engine.common.recipe", RECIPES)
    run = site.probe(gather)
    assert run.outcome == "ok"
    recipes = {recipe.name: recipe for recipe in run.facts.recipes}
    assert "SIGSEGV" in recipes["DelayedScaling"].error
    assert "no kernel image" in recipes["Float8CurrentScaling"].error
    verdicts = recipe_rules.recipe_fails(run.facts)
    assert isinstance(verdicts, list)
    assert [verdict.title for verdict in verdicts if verdict] == [
        "te.Linear under DelayedScaling does not run",
        "te.Linear under Float8CurrentScaling does not run",
    ]


def test_caption() -> None:
    assert replace(HEALTHY, version="2.20.2").caption() == Caption(32, "TE 2.20.2")
    assert TransformerEngine(installed=False).caption() is None
    assert TransformerEngine().caption() is None
