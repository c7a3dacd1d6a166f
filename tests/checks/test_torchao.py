"""torchao: its rules on facts, and its probe on packages that are really broken."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.gpu import Gpu, Gpus
from fp8doctor.checks.libraries.facts import Libraries
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torchao import QuantizedLinear, Torchao, rules
from fp8doctor.checks.torchao.probe import gather
from fp8doctor.checks.torchao.version_rules import versions_do_not_fit
from fp8doctor.model import Caption, Finding, NotApplicable, ProbeRun, Severity, Unknown
from tests.broken_packages import MISSING_SYMBOL, BrokenSite, Fault

ROWWISE = QuantizedLinear(
    config="dynamic-rowwise",
    weight_type="Float8Tensor",
    weight_is_fp8=True,
    forward_ok=True,
    finite=True,
    relative_error=0.0373,
    relative_error_expected=0.038,
    relative_error_limit=0.076,
)
WEIGHT_ONLY = replace(
    ROWWISE,
    config="weight-only",
    relative_error=0.0265,
    relative_error_expected=0.027,
    relative_error_limit=0.054,
)
HEALTHY = Torchao(
    installed=True,
    version="0.17.0",
    torch_version="2.11.0+cu130",
    import_ok=True,
    kernels=("_C_cutlass_90a.abi3.so", "_C_mxfp8.so"),
    kernels_loaded=("_C_cutlass_90a.abi3.so", "_C_mxfp8.so"),
    kernel_errors=(),
    kernels_switched_off=False,
    linears=(ROWWISE, WEIGHT_ONLY),
)
SKIPPED = replace(
    HEALTHY,
    torch_version="2.10.0+cu128",
    kernels_loaded=(),
    kernels_message="Skipping import of cpp extensions due to incompatible torch version. Please upgrade to torch"
    " >= 2.11.0 (found 2.10.0+cu128).",
)
ABORTED = replace(
    HEALTHY, import_ok=False, import_error="the process ended: SIGABRT", imports_without_kernels=True, kernels=None
)
CUDA = TorchBuild(accelerator="cuda")
HOPPER = Gpus(gpus=(Gpu(compute_capability="9.0"),))
BLACKWELL = Gpus(gpus=(Gpu(compute_capability="10.0"),))
RUN_RULES: tuple[Any, ...] = (rules.kernels_end_the_process, rules.import_fails)
LINEAR_RULES: tuple[Any, ...] = (rules.not_applied, rules.wrong_result, rules.forward_fails)


def ran(facts: Torchao) -> ProbeRun[Torchao]:
    return ProbeRun("ok", facts)


def only(verdicts: Any) -> Finding:
    (finding,) = [verdict for verdict in verdicts if verdict is not None]
    assert isinstance(finding, Finding)
    return finding


def test_a_healthy_one_passes() -> None:
    assert rules.kernels_not_loaded(HEALTHY, CUDA, HOPPER) is None
    assert [rule(ran(HEALTHY)) for rule in RUN_RULES] == [None, None]
    assert [rule(HEALTHY) for rule in LINEAR_RULES] == [[None, None]] * 3


def test_an_absent_one_is_not_applicable() -> None:
    absent = Torchao(installed=False)
    verdicts = [rules.kernels_not_loaded(absent, CUDA, HOPPER)]
    verdicts += [rule(ran(absent)) for rule in RUN_RULES] + [rule(absent) for rule in LINEAR_RULES]
    assert all(isinstance(verdict, NotApplicable) for verdict in verdicts)


def test_what_was_not_seen_never_passes() -> None:
    for run in (ProbeRun[Torchao]("not-observed"), ran(Torchao(installed=True, torch_error="ImportError: x"))):
        assert all(isinstance(rule(run), Unknown) for rule in RUN_RULES)
    bare = Torchao(installed=True, import_ok=True)
    assert isinstance(rules.kernels_not_loaded(bare, CUDA, HOPPER), Unknown)
    assert all(isinstance(rule(bare), Unknown) for rule in LINEAR_RULES)


@pytest.mark.parametrize(("gpus", "severity"), [(HOPPER, Severity.INFO), (BLACKWELL, Severity.WARNING)])
def test_kernels_that_were_passed_over_are_found(gpus: Gpus, severity: Severity) -> None:
    finding = rules.kernels_not_loaded(SKIPPED, CUDA, gpus)
    assert isinstance(finding, Finding)
    assert finding.severity is severity
    assert "found 2.10.0" in finding.evidence[1].text
    assert str(finding.actions[0].command).endswith("torchao==0.16.0")


@pytest.mark.parametrize(
    ("facts", "build"),
    [
        (SKIPPED, TorchBuild(accelerator="cpu")),
        (replace(SKIPPED, kernels_switched_off=True), CUDA),
        (replace(SKIPPED, kernels=()), CUDA),
    ],
)
def test_kernels_that_nobody_wants_are_no_matter(facts: Torchao, build: TorchBuild) -> None:
    assert isinstance(rules.kernels_not_loaded(facts, build, HOPPER), NotApplicable)


@pytest.mark.parametrize(
    ("torch", "torchao"),
    [("2.6.0", "0.12.0"), ("2.8.0+cu129", "0.13.0"), ("2.9.1", "0.14.1"), ("2.13.0", "0.17.0"), ("2.4.1", None)],
)
def test_the_pair_of_versions(torch: str, torchao: str | None) -> None:
    command = rules.match(torch).command
    assert command == (f"python -m pip install --no-deps torchao=={torchao}" if torchao else None)


@pytest.mark.parametrize(
    ("ao", "torch", "severity"),
    [
        ("0.13.0", "2.9.0+cu128", Severity.WARNING),
        ("0.15.0", "2.7.1+cu128", Severity.INFO),
        ("0.14.1", "2.9.1", Severity.INFO),
        ("0.17.0", "2.10.0", Severity.INFO),
        ("0.13.0", "2.8.0+cu126", None),
        ("0.14.1", "2.9", None),
        ("0.18.0", "2.13.0", None),
        ("0.12.0", "2.6.0", None),
        ("0.15.0", "2.10.0.dev20251201", None),
    ],
)
def test_versions_that_do_not_fit_are_known_from_a_text(ao: str, torch: str, severity: Severity | None) -> None:
    found = versions_do_not_fit(Libraries(installed={"torchao": ao}), TorchBuild(version=torch))
    assert (found.severity if isinstance(found, Finding) else found) == severity


def test_versions_say_nothing_where_torchao_itself_was_looked_at() -> None:
    named = Libraries(installed={"torchao": "0.13.0"})
    assert isinstance(versions_do_not_fit(named, TorchBuild(version="2.9.0"), HEALTHY), NotApplicable)


def test_kernels_that_end_the_process_are_told_from_torchao_itself() -> None:
    finding = rules.kernels_end_the_process(ran(ABORTED))
    assert isinstance(finding, Finding)
    assert "SIGABRT" in finding.evidence[0].text
    assert rules.import_fails(ran(ABORTED)) is None
    itself = replace(ABORTED, imports_without_kernels=False)
    assert rules.kernels_end_the_process(ran(itself)) is None
    assert isinstance(rules.import_fails(ran(itself)), Finding)


def test_a_weight_that_stayed_as_it_was_is_found() -> None:
    untouched = replace(ROWWISE, weight_type="Parameter", weight_is_fp8=False, relative_error=0.0017)
    assert "Parameter" in only(rules.not_applied(replace(HEALTHY, linears=(untouched,)))).evidence[0].text


def test_an_activation_that_stayed_in_16_bits_is_found() -> None:
    only_weight = replace(ROWWISE, relative_error=0.0265)
    assert "0.0265" in only(rules.not_applied(replace(HEALTHY, linears=(only_weight, WEIGHT_ONLY)))).evidence[0].text


def test_a_wrong_result_is_found() -> None:
    wrong = replace(HEALTHY, linears=(replace(ROWWISE, relative_error=0.5), WEIGHT_ONLY))
    assert only(rules.wrong_result(wrong)).evidence[0].value == 0.5
    not_finite = replace(HEALTHY, linears=(replace(ROWWISE, finite=False, relative_error=None),))
    assert "not finite" in only(rules.wrong_result(not_finite)).evidence[0].text


def test_a_layer_that_does_not_run_is_found() -> None:
    failed = QuantizedLinear(config="dynamic-rowwise", forward_ok=False, error="CUBLAS_STATUS_NOT_SUPPORTED")
    tensorwise = replace(ROWWISE, config="dynamic-tensorwise")
    finding = only(rules.forward_fails(replace(HEALTHY, linears=(failed, tensorwise, WEIGHT_ONLY))))
    assert finding.actions[0].text == "Take one that ran: dynamic-tensorwise"


def test_a_gpu_without_fp8_is_no_fault_of_torchao() -> None:
    error = "AssertionError: Float8 dynamic activation quantization is only supported on CUDA>=8.9 and MI300+"
    refused = replace(HEALTHY, linears=(QuantizedLinear(config="dynamic-rowwise", forward_ok=False, error=error),))
    verdicts = rules.forward_fails(refused)
    assert isinstance(verdicts, list)
    assert isinstance(verdicts[0], NotApplicable)


@pytest.mark.parametrize("rule", [rules.refused_without_hardware, rules.rowwise_needs_bf16])
def test_what_only_a_text_shows_is_not_applicable(rule: Any) -> None:
    assert isinstance(rule(), NotApplicable)


@pytest.mark.parametrize(
    ("line", "ids"),
    [
        # From Comfy-Org/ComfyUI#10371, and as 0.17.0 says it.
        (
            "Skipping import of cpp extensions due to incompatible torch version 2.8.0 for torchao version 0.14.0",
            ["AO001"],
        ),
        (str(SKIPPED.kernels_message), ["AO001"]),
        ("Failed to load /x/site-packages/torchao/_C_mxfp8.cpython-310-x86_64-linux-gnu.so: undefined", ["AO001"]),
        ("Skipping import of cpp extensions due to TORCHAO_FORCE_SKIP_LOADING_SO_FILES=1", []),
        ("AssertionError: PerRow quantization only works for bfloat16 precision input weight", ["AO008"]),
        ("Float8 dynamic activation quantization is only supported on CUDA>=8.9 and MI300+", ["AO007"]),
        ("Float8 dynamic quantization requires CUDA compute capability ≥8.9 or MI300+ or XPU.", ["AO007"]),
    ],
)
def test_texts_settle_their_rule_alone(line: str, ids: list[str]) -> None:
    assert [text.rule for text in rules.ERROR_TEXTS if re.search(text.pattern, line)] == ids


# The probe, on packages that are really broken. The torch beside them costs no time to import; it loads libraries as
# the real one does (torch/_ops.py).

TORCH = """
import ctypes
__version__ = "2.11.0"
class _Ops:
    def __init__(self): self.loaded_libraries = set()
    def load_library(self, path):
        ctypes.CDLL(path)
        self.loaded_libraries.add(path)
ops = _Ops()
"""
# The loading of kernels as torchao 0.17.0 does it.
TORCHAO = """
import logging, torch
from pathlib import Path
for file in Path(__file__).parent.glob("_C*.so"):
    try:
        torch.ops.load_library(str(file))
    except Exception as e:
        logging.getLogger(__name__).warning(f"Failed to load {file}: Could not load this library: {file}")
"""
QUANTIZATION = "class Float8WeightOnlyConfig: pass\nclass Float8Tensor: pass\n"


@pytest.fixture
def site(tmp_path: Path) -> BrokenSite:
    site = BrokenSite(tmp_path)
    site.module("torch", TORCH)
    site.metadata("torchao", "0.17.0")
    site.module("torchao", TORCHAO)
    site.module("torchao.quantization", QUANTIZATION)
    return site


def test_kernels_that_load(site: BrokenSite) -> None:
    site.library("torchao/_C_mxfp8.so", "loads")
    run = site.probe(gather, mode="quick")
    assert run.outcome == "ok"
    assert run.facts.kernels_loaded == ("_C_mxfp8.so",)
    assert run.facts.configs == ("Float8WeightOnlyConfig",)
    assert rules.kernels_not_loaded(run.facts, CUDA, HOPPER) is None


def test_kernels_that_miss_a_symbol(site: BrokenSite) -> None:
    site.library("torchao/_C_good.so", "loads")
    site.library("torchao/_C_mxfp8.so", "undefined-symbol")
    run = site.probe(gather, mode="quick")
    assert run.facts.kernels_loaded == ("_C_good.so",)
    finding = rules.kernels_not_loaded(run.facts, CUDA, HOPPER)
    assert isinstance(finding, Finding)
    assert finding.evidence[0].text == "not loaded: _C_mxfp8.so"
    assert any(MISSING_SYMBOL in evidence.text for evidence in finding.evidence)
    assert [rule(run) for rule in RUN_RULES] == [None, None]


@pytest.mark.parametrize(("fault", "said"), [("abort", "SIGABRT"), ("segfault", "SIGSEGV"), ("exit", "status 0")])
def test_kernels_that_end_python(site: BrokenSite, fault: Fault, said: str) -> None:
    site.library("torchao/_C_mxfp8.so", fault)
    run = site.probe(gather, mode="quick")
    finding = rules.kernels_end_the_process(run)
    assert isinstance(finding, Finding)
    assert said in finding.evidence[0].text
    assert rules.import_fails(run) is None
    assert run.facts.configs == ("Float8WeightOnlyConfig",)


def test_torchao_that_crashes_by_itself(site: BrokenSite) -> None:
    site.break_import("torchao", "segfault")
    run = site.probe(gather)
    assert run.facts.imports_without_kernels is False
    assert rules.kernels_end_the_process(run) is None
    assert isinstance(rules.import_fails(run), Finding)


@pytest.mark.parametrize(("fault", "said"), [("undefined-symbol", MISSING_SYMBOL), ("system-exit", "SystemExit")])
def test_torchao_that_raises(site: BrokenSite, fault: Fault, said: str) -> None:
    site.break_import("torchao", fault)
    run = site.probe(gather)
    assert rules.kernels_end_the_process(run) is None
    finding = rules.import_fails(run)
    assert isinstance(finding, Finding)
    assert said in finding.evidence[0].text


def test_an_import_that_hangs(site: BrokenSite) -> None:
    site.library("torchao/_C_mxfp8.so", "hang")
    run = site.probe(gather, mode="quick", deadline_s=14.0)
    finding = rules.kernels_end_the_process(run)
    assert isinstance(finding, Finding)
    assert finding.title == "Loading torchao's kernels comes to no end"
    assert rules.import_fails(run) is None


def test_garbage_on_standard_output_does_no_harm(site: BrokenSite) -> None:
    site.module("torchao", TORCHAO, fault="garbage")
    run = site.probe(gather, mode="quick")
    assert (run.outcome, run.facts.import_ok) == ("ok", True)


def test_kernels_that_are_switched_off(site: BrokenSite) -> None:
    site.library("torchao/_C_mxfp8.so", "loads")
    site.module("torchao")
    run = site.probe(gather, mode="quick", environment={"TORCHAO_FORCE_SKIP_LOADING_SO_FILES": "1"})
    assert run.facts.kernels_switched_off
    assert isinstance(rules.kernels_not_loaded(run.facts, CUDA, HOPPER), NotApplicable)


def test_a_broken_torch_is_not_blamed_on_it(site: BrokenSite) -> None:
    site.break_import("torch", "abort")
    run = site.probe(gather)
    assert "SIGABRT" in run.facts.torch_error
    assert all(isinstance(rule(run), Unknown) for rule in RUN_RULES)


@pytest.mark.torch
def test_the_real_one_quantises_a_weight() -> None:
    spec = importlib.util.find_spec("torchao")
    if spec is None or spec.origin is None:
        pytest.skip("needs torchao")
    run = BrokenSite(Path(spec.origin).parents[1]).probe(gather)
    assert run.outcome == "ok"
    linears = {linear.config: linear for linear in run.facts.linears}
    assert linears["weight-only"].weight_is_fp8
    assert linears["weight-only"].relative_error == pytest.approx(0.027, rel=0.05)
    assert rules.not_applied(run.facts) == [None] * len(linears)


def test_caption() -> None:
    assert HEALTHY.caption() == Caption(31, "torchao 0.17.0")
    assert Torchao(installed=False).caption() is None
    assert Torchao().caption() is None
