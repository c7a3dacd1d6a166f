"""torch's attention: rules on records, the reading of torch's reasons, and the probe on the torch that is here."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fp8doctor.checks.attention import Attention, AttentionBackend, AttentionSwitch
from fp8doctor.checks.attention.call import attempt, ended_as, small_attention
from fp8doctor.checks.attention.probe import _forced, _found, _switched, gather, reasons
from fp8doctor.checks.attention.rules import ERROR_TEXTS, KERNELS, backend_fails, only_math, switch_fails, wrong
from fp8doctor.checks.torch_build import TorchBuild, TorchDevice
from fp8doctor.model import Facts, Finding, NotApplicable, ProbeRun, RuleResult, Severity, Unknown
from tests.broken_packages import BrokenSite

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")

RIGHT = tuple(AttentionBackend(name, "ok", None, 0.002) for name in ("flash", "efficient", "cudnn", "math"))
FA4_MISSING = AttentionSwitch(implementation="FA4", installed=False)
H200 = Attention(
    device="cuda",
    torch_version="2.11.0+cu130",
    head_dim=128,
    relative_error_limit=0.01,
    default_backend="cudnn",
    backends=RIGHT,
    switches=(AttentionSwitch(implementation="FA3", installed=False), FA4_MISSING),
)
NO_GPU = Attention(device="none", why_none="torch sees no GPU")
RULES = (switch_fails, only_math, wrong, backend_fails)


def findings(result: RuleResult) -> list[Finding]:
    return [item for item in (result if isinstance(result, list) else [result]) if isinstance(item, Finding)]


def with_backend(backend: AttentionBackend) -> Attention:
    return replace(H200, backends=tuple(backend if item.backend == backend.backend else item for item in RIGHT))


def test_a_healthy_gpu_gets_no_finding() -> None:
    for check in RULES:
        assert findings(check(H200)) == []


def test_without_a_gpu_the_question_does_not_arise() -> None:
    for check in RULES:
        assert check(NO_GPU) == NotApplicable("torch sees no GPU")


def test_nobody_looked_is_unknown() -> None:
    for check in RULES:
        assert isinstance(check(Attention()), Unknown)


def test_the_switch_that_torch_takes_and_that_fails_at_the_first_call() -> None:
    # As torch 2.11 behaves with flash-attn-4 4.0.0b36 (benchmarks/RESULTS.md).
    switch = AttentionSwitch(
        implementation="FA4",
        installed=True,
        version="4.0.0b36",
        activated=True,
        outcome="error",
        error="ValueError: too many values to unpack (expected 2)",
    )
    (finding,) = findings(switch_fails(replace(H200, switches=(switch,))))
    assert finding.scope is None  # the rule's own: usage
    assert "raised nothing" in finding.evidence[0].text
    assert "too many values" in finding.evidence[1].text
    assert findings(switch_fails(replace(H200, switches=(replace(switch, outcome="ok", error=None),)))) == []


def test_a_switch_without_its_package_is_not_applicable() -> None:
    assert isinstance(switch_fails(H200), NotApplicable)
    assert isinstance(switch_fails(replace(H200, switches=())), NotApplicable)


def test_a_switch_that_was_not_tried_is_unknown() -> None:
    switch = AttentionSwitch(implementation="FA4", installed=True, not_tried="a quick run does not wait for it")
    result = switch_fails(replace(H200, switches=(switch,)))
    assert isinstance(result, list)
    assert isinstance(result[0], Unknown)


def test_only_math() -> None:
    refused = tuple(AttentionBackend(name, "refused", "not for this") for name in ("flash", "efficient", "cudnn"))
    unfused = replace(H200, default_backend="math", backends=(*refused, RIGHT[3]))
    (finding,) = findings(only_math(unfused))
    assert len(finding.evidence) == 3
    # One fused backend that runs makes it another story, which nobody has seen yet.
    assert isinstance(only_math(replace(unfused, backends=(*refused[:2], RIGHT[2], RIGHT[3]))), Unknown)
    assert isinstance(only_math(replace(unfused, default_backend="unknown")), Unknown)


@pytest.mark.parametrize(
    ("architecture", "fires"),
    [("7.0", False), ("7.5", False), ("8.0", True), ("12.0", True), ("gfx942", True), (None, True)],
)
def test_math_is_by_design_before_ampere(architecture: str | None, fires: bool) -> None:
    refused = tuple(AttentionBackend(name, "refused", "not for this") for name in ("flash", "efficient", "cudnn"))
    attention = replace(H200, default_backend="math", backends=(*refused, RIGHT[3]))
    build = TorchBuild(devices=(TorchDevice(index=0, compute_capability=architecture),), examined_gpu=0)
    result = only_math(attention, build)
    assert bool(findings(result)) is fires
    assert isinstance(result, NotApplicable) is not fires


def test_a_wrong_backend() -> None:
    (finding,) = findings(wrong(with_backend(AttentionBackend("cudnn", "wrong", None, 0.4))))
    assert "the one that torch picks" in finding.title
    assert "flash" in finding.actions[0].text
    (finding,) = findings(wrong(with_backend(AttentionBackend("efficient", "wrong", "not finite"))))
    assert "the one that torch picks" not in finding.title


def test_a_backend_that_fails() -> None:
    error = "RuntimeError: cuDNN Frontend error: No valid execution plans built."
    (finding,) = findings(backend_fails(with_backend(AttentionBackend("cudnn", "error", error))))
    assert (finding.severity, finding.scope) == (Severity.ERROR, "box")
    (finding,) = findings(backend_fails(with_backend(AttentionBackend("efficient", "crashed", "SIGSEGV"))))
    assert (finding.severity, finding.scope) == (Severity.INFO, "usage")


def test_reasons_are_read_under_their_own_head() -> None:
    internal = " (Triggered internally at /pytorch/aten/src/ATen/native/transformers/cuda/sdp_utils.cpp:1010.)"
    said = [
        "Memory efficient kernel not used because:" + internal,
        "Memory Efficient attention has been runtime disabled." + internal,
        "Flash attention kernel not used because:" + internal,
        "Flash attention only supports gpu architectures in the range [sm80, sm121]." + internal,
        "CuDNN attention kernel not used because:" + internal,
        "cuDNN attention has been runtime disabled." + internal,
    ]
    head = "flash attention kernel not used because"
    assert reasons(said, head) == "Flash attention only supports gpu architectures in the range [sm80, sm121]."
    assert reasons([], head) is None


def test_literal_messages_and_kernels() -> None:
    line = "RuntimeError: FA4 SDPA forward unsupported: FA4 requires compute capability 9.0 or 10.0"
    assert [text.rule for text in ERROR_TEXTS if re.search(text.pattern, line)] == ["ATT001"]
    name = "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_kernel0_0"
    assert [kernel.kind for kernel in KERNELS if re.search(kernel.pattern, name)] == ["attention"]


def test_how_a_step_ended() -> None:
    assert ended_as("SIGALRM")[0] == "timeout"
    assert ended_as("SIGSEGV") == ("crashed", "it ended the process: SIGSEGV")


@needs_torch
def test_one_call_against_its_reference() -> None:
    import torch

    small = small_attention("cpu")
    assert 0.004 < small.error_limit < 0.02
    made = attempt(
        lambda: torch.nn.functional.scaled_dot_product_attention(*small.operands), small.reference, small.error_limit
    )
    assert made.outcome == "ok"
    assert attempt(lambda: small.query, small.reference, small.error_limit).outcome == "wrong"
    assert attempt(lambda: small.query * float("nan"), small.reference, small.error_limit).relative_error is None

    def leaves() -> None:
        raise SystemExit(3)

    assert attempt(leaves, small.reference, small.error_limit).error == "SystemExit: 3"


@needs_torch
def test_kernels_name_operators_that_torch_has() -> None:
    import torch

    for kernel in KERNELS:
        assert hasattr(torch.ops.aten, (kernel.operator or "").removeprefix("aten::"))


@needs_torch
def test_a_forced_backend_on_the_cpu() -> None:
    small = small_attention("cpu")
    assert _forced("math", small).outcome == "ok"
    assert _forced("flash", small).outcome == "ok"


@needs_torch
def test_the_switch_to_a_package_that_breaks_on_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn import attention

    if not hasattr(attention, "activate_flash_attention_impl"):
        pytest.skip("this torch has no switch")
    site = BrokenSite(tmp_path)
    site.metadata("flash-attn-3", "3.0.0")
    site.module("flash_attn_interface", fault="system-exit")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = _found("FA3", quick=False)
    assert (found.installed, found.version) == (True, "3.0.0")
    switch = _switched(found, small_attention("cpu"))
    assert (switch.activated, switch.outcome) == (False, "error")
    assert "SystemExit" in (switch.error or "")
    (finding,) = findings(switch_fails(replace(H200, switches=(switch,))))
    assert "did not come through" in finding.evidence[0].text


@needs_torch
def test_the_probe_on_the_torch_that_is_here(tmp_path: Path) -> None:
    import torch

    run = BrokenSite(tmp_path).probe(gather, mode="quick", deadline_s=100)
    assert run.outcome == "ok", (run.detail, run.stderr_tail)
    assert run.facts is not None
    assert run.facts.attempting is None
    if not torch.cuda.is_available():
        assert (run.facts.device, run.facts.why_none) == ("none", "torch sees no GPU")
        assert isinstance(only_math(run.facts), NotApplicable)


def test_without_torch(tmp_path: Path) -> None:
    needs: dict[str, ProbeRun[Facts]] = {"torch_build": ProbeRun("ok", TorchBuild(installed=False))}
    run = BrokenSite(tmp_path).probe(gather, needs=needs)
    assert run.facts == Attention(device="none", why_none="torch is not installed")


def test_a_torch_that_ends_the_process(tmp_path: Path) -> None:
    site = BrokenSite(tmp_path)
    site.break_import("torch", "segfault")
    run = site.probe(gather)
    assert run.outcome == "ok"
    assert run.facts is not None
    assert "SIGSEGV" in (run.facts.why_none or "")
    assert isinstance(only_math(run.facts), Unknown)


@pytest.mark.gpu
@needs_torch
def test_the_probe_on_a_gpu(tmp_path: Path) -> None:
    run = BrokenSite(tmp_path).probe(gather, mode="thorough", deadline_s=110)
    assert run.outcome == "ok", (run.detail, run.stderr_tail)
    assert run.facts is not None
    assert run.facts.default_backend in ("flash", "efficient", "cudnn")
    assert run.facts.default_kernels
    assert findings(wrong(run.facts)) == []
    assert findings(backend_fails(run.facts)) == []
