"""FlashAttention: rules on records, and the probe on packages that are really broken."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fp8doctor.checks.attention.call import plain_attention, small_attention
from fp8doctor.checks.flash_attention import FlashAttention, Generation
from fp8doctor.checks.flash_attention import rules as box
from fp8doctor.checks.flash_attention import usage_rules as usage
from fp8doctor.checks.flash_attention.probe import REFUSAL, _call, _with_bf16, _with_fp8, gather
from fp8doctor.checks.flash_attention.texts import ERROR_TEXTS, KERNELS
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.model import Caption, Finding, NotApplicable, ProbeRun, RuleResult, Severity, Unknown
from tests.broken_packages import MISSING_SYMBOL, BrokenSite, Fault

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")

ABSENT = tuple(Generation(generation=number, installed=False, modules=()) for number in (2, 3, 4))
FA2 = Generation(
    generation=2,
    installed=True,
    distribution="flash-attn",
    version="2.8.3",
    modules=("flash_attn",),
    module="flash_attn",
    imported=True,
    outcome="ok",
    relative_error=0.0023,
    relative_error_limit=0.01,
    fp8_outcome="refused",
    fp8_error="RuntimeError: FlashAttention only support fp16 and bf16 data type",
)
FA3 = replace(
    FA2,
    generation=3,
    distribution="flash-attn-3",
    version="3.0.0",
    modules=("flash_attn_interface", "flash_attn_3.flash_attn_interface"),
    module="flash_attn_interface",
    fp8_outcome="ok",
    fp8_error=None,
    fp8_relative_error=0.022,
    fp8_relative_error_limit=0.054,
)
FA4 = replace(
    FA2,
    generation=4,
    distribution="flash-attn-4",
    version="4.0.0b36",
    modules=("flash_attn.cute",),
    module="flash_attn.cute",
    fp8_error="AssertionError: FP8 is only supported on SM100 (compute capability 10.x) for FA4 CuTe.",
)
BOX_RULES = (
    box.built_for_another_torch,
    box.built_without_this_gpu,
    box.does_not_run,
    box.wrong,
    box.name_without_package,
)
USAGE_RULES = (usage.flash_attention_3_elsewhere, usage.flash_attention_3_name, usage.refuses, usage.no_fp8)


def seen(*items: Generation, name: str = "package", capability: str | None = "9.0") -> FlashAttention:
    here = {item.generation: item for item in items}
    return FlashAttention(
        generations=tuple(here.get(item.generation, item) for item in ABSENT),
        flash_attn_name=name,
        compute_capability=capability,
    )


def findings(result: RuleResult) -> list[Finding]:
    return [item for item in (result if isinstance(result, list) else [result]) if isinstance(item, Finding)]


def fired(flash: FlashAttention) -> dict[str, Finding]:
    """The first finding of each rule, by the rule's id."""
    found = {}
    for check in (*BOX_RULES, *USAGE_RULES):
        for finding in findings(check(flash))[:1]:
            found[check.__fp8doctor__.id] = finding  # type: ignore[attr-defined]
    return found


def broken(item: Generation, error: str, outcome: str = "error", *, imported: bool = False) -> Generation:
    return replace(item, imported=imported, outcome=outcome, error=error, relative_error=None, fp8_outcome=None)


def test_nothing_installed_is_not_applicable() -> None:
    flash = seen(name="absent")
    assert fired(flash) == {}
    assert isinstance(box.does_not_run(flash), NotApplicable)
    assert isinstance(usage.no_fp8(flash), NotApplicable)


def test_a_healthy_hopper_gets_no_finding_on_the_box() -> None:
    assert fired(seen(FA2, FA3, FA4)) == {}
    assert set(fired(seen(FA2, FA4))) == {"FA008"}
    assert fired(seen(FA2, FA4))["FA008"].severity is Severity.INFO


def test_nobody_looked_is_unknown() -> None:
    for check in (*BOX_RULES, *USAGE_RULES):
        assert isinstance(check(FlashAttention()), Unknown)


def test_not_called_never_reads_as_passed() -> None:
    flash = seen(replace(FA2, outcome=None, fp8_outcome=None, not_called="torch sees no GPU"))
    for check in (box.built_without_this_gpu, box.does_not_run, box.wrong, usage.refuses):
        result = check(flash)
        assert isinstance(result, list)
        assert isinstance(result[0], Unknown)
        assert "torch sees no GPU" in result[0].reason
    assert box.built_for_another_torch(flash) == [None]  # it was imported
    assert isinstance(usage.no_fp8(flash), Unknown)


@pytest.mark.parametrize(
    "symbol", [MISSING_SYMBOL, "_ZN2at4_ops9_pad_enum4callERKNS_6TensorE", "aoti_torch_library_init"]
)
def test_a_symbol_of_torch_is_a_mismatch_with_torch(symbol: str) -> None:
    error = f"ImportError: /site/flash_attn_2_cuda.cpython-311-x86_64-linux-gnu.so: undefined symbol: {symbol}"
    assert set(fired(seen(broken(FA2, error)))) == {"FA001"}


def test_a_symbol_of_another_library_is_not() -> None:
    error = "ImportError: /site/flash_attn_2_cuda.so: undefined symbol: ncclCommRegister"
    assert set(fired(seen(broken(FA2, error)))) == {"FA005"}


def test_flash_attention_4_is_not_blamed_for_2() -> None:
    error = f"ImportError: /site/flash_attn_2_cuda.so: undefined symbol: {MISSING_SYMBOL}"
    result = box.built_for_another_torch(seen(broken(FA2, error), broken(FA4, error)))
    assert [finding.about for finding in findings(result)] == ["package:flash-attn"]


def test_no_kernel_image() -> None:
    error = "RuntimeError: CUDA error: no kernel image is available for execution on the device"
    assert set(fired(seen(broken(FA2, error, imported=True)))) == {"FA004"}


def test_flash_attention_3_on_other_gpus() -> None:
    error = "RuntimeError: CUDA error (hopper/flash_fwd_launch_template.h:188): invalid argument"
    fails = fired(seen(broken(FA3, error, imported=True), FA2, capability="12.0"))
    assert set(fails) == {"FA002", "FA008"}
    assert fails["FA002"].severity is None  # the rule's own: a warning
    assert "sm_120" in fails["FA002"].title
    runs = fired(seen(FA3, capability="8.0"))
    assert runs["FA002"].severity is Severity.INFO


def test_flash_attention_3_names() -> None:
    assert set(fired(seen(FA3, name="absent"))) == {"FA003"}
    nested = replace(FA3, modules=("flash_attn_3.flash_attn_interface",))
    assert "torch's switch" in fired(seen(nested, FA2))["FA003"].title


def test_wrong_results() -> None:
    far_off = replace(FA2, outcome="wrong", relative_error=0.7)
    assert "FA006" in fired(seen(far_off, FA3))
    words = "the result holds values that are not finite"
    not_finite = replace(FA3, fp8_outcome="wrong", fp8_relative_error=None, fp8_error=words)
    finding = fired(seen(not_finite, FA2))["FA006"]
    assert "not finite" in finding.evidence[0].text


def test_a_gpu_before_ampere_is_refused() -> None:
    error = "RuntimeError: FlashAttention only supports Ampere GPUs or newer."
    assert REFUSAL.search(error)
    assert set(fired(seen(broken(FA2, error, "refused", imported=True), capability="7.5"))) == {"FA007"}


def test_fp8_that_was_wrong_is_no_missing_fp8() -> None:
    assert usage.no_fp8(seen(replace(FA3, fp8_outcome="wrong"))) is None


def test_the_shared_name() -> None:
    alone = replace(seen(FA4, name="namespace"), namespace_folders=("cute",))
    assert fired(alone)["FA009"].scope == "usage"
    left_over = replace(seen(name="namespace"), namespace_folders=("__pycache__",))
    assert fired(left_over)["FA009"].scope is None  # the rule's own: the box


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (
            f"ImportError: /s/flash_attn_2_cuda.cpython-310-x86_64-linux-gnu.so: undefined symbol: {MISSING_SYMBOL}",
            "FA001",
        ),
        (f"ImportError: /s/flash_attn_3/_C.abi3.so: undefined symbol: {MISSING_SYMBOL}", "FA001"),
        ("RuntimeError: FlashAttention forward only supports head dimension at most 256", "FA007"),
        ("RuntimeError: This flash attention build does not support FP8.", "FA008"),
        ("RuntimeError: This flash attention build does not support varlen.", "FA007"),
        ("RuntimeError: FlashAttention-3 is only supported on CUDA 12.3 and above", "FA007"),
    ],
)
def test_literal_messages(line: str, rule: str) -> None:
    assert [text.rule for text in ERROR_TEXTS if re.search(text.pattern, line)] == [rule]


def test_kernel_names() -> None:
    hit = [k for k in KERNELS if re.search(k.pattern, "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 64>>")]
    assert len(hit) == 1
    assert not any(re.search(k.pattern, "void pytorch_flash::flash_fwd_kernel<...>") for k in KERNELS)


@needs_torch
def test_a_call_in_bf16_and_in_fp8() -> None:
    """The probe's own arithmetic, with a sound attention in the place of a package's kernel."""
    import torch

    def sound(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, None]:
        wide = (operand.transpose(1, 2).float() for operand in (query, key, value))
        return plain_attention(*wide).to(torch.bfloat16).transpose(1, 2), None

    def refusing(*operands: torch.Tensor) -> torch.Tensor:
        if operands[0].dtype is torch.float8_e4m3fn:
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        return sound(*operands)[0]

    small = small_attention("cpu")
    blank = Generation(generation=2, installed=True, module="flash_attn", imported=True)
    made = _call(sound, small.operands, small.reference, small.error_limit, 30)
    item = _with_fp8(_with_bf16(blank, made, small), small, sound, 30)
    assert (item.outcome, item.fp8_outcome) == ("ok", "ok")
    assert _with_fp8(item, small, refusing, 30).fp8_outcome == "refused"
    unscaled = _call(lambda q, k, v: sound(8 * q, k, v), small.operands, small.reference, small.error_limit, 30)
    assert _with_bf16(blank, unscaled, small).outcome == "wrong"


# The probe, on packages that are really broken.


@pytest.fixture
def site(tmp_path: Path) -> BrokenSite:
    return BrokenSite(tmp_path)


def flash_attn_2(site: BrokenSite, fault: Fault | None) -> None:
    """A FlashAttention 2 whose extension meets `fault`, as its own __init__ would load it."""
    site.metadata("flash-attn", "2.8.3")
    site.module("flash_attn", "import torch, flash_attn_2_cuda\ndef flash_attn_func(q, k, v): return q\n")
    if fault is None or fault in ("garbage", "system-exit"):
        site.module("flash_attn_2_cuda", fault=fault)
    else:
        site.extension("flash_attn_2_cuda", fault)


def probed(run: ProbeRun[FlashAttention]) -> FlashAttention:
    assert run.outcome == "ok", (run.detail, run.stderr_tail)
    assert run.facts is not None
    assert run.facts.attempting is None
    return run.facts


def test_an_empty_environment(site: BrokenSite) -> None:
    flash = probed(site.probe(gather))
    assert [item.installed for item in flash.generations or ()] == [False, False, False]
    assert flash.flash_attn_name == "absent"


def test_without_torch_nothing_is_imported(site: BrokenSite) -> None:
    flash_attn_2(site, "segfault")
    run = site.probe(gather, needs={"torch_build": ProbeRun("ok", TorchBuild(installed=False))})
    item = probed(run).generation(2)
    assert item is not None
    assert item.not_called == "torch is not installed"
    assert item.imported is None


@needs_torch
@pytest.mark.parametrize(
    ("fault", "rule", "words"),
    [
        ("undefined-symbol", "FA001", MISSING_SYMBOL),
        ("segfault", "FA005", "SIGSEGV"),
        ("abort", "FA005", "SIGABRT"),
        ("exit", "FA005", "status 0"),
        ("system-exit", "FA005", "SystemExit"),
    ],
)
def test_a_fault_costs_its_own_generation_only(site: BrokenSite, fault: Fault, rule: str, words: str) -> None:
    flash_attn_2(site, fault)
    site.metadata("flash-attn-3", "3.0.0")
    site.module("flash_attn_interface", "def flash_attn_func(q, k, v): return q\n")
    flash = probed(site.probe(gather))
    assert set(fired(flash)) & {"FA001", "FA004", "FA005"} == {rule}
    assert words in fired(flash)[rule].evidence[0].text
    third = flash.generation(3)
    assert third is not None
    assert third.imported is True


@needs_torch
def test_a_hang_is_ended_and_named(site: BrokenSite, tmp_path: Path) -> None:
    flash_attn_2(site, "hang")
    site.module("flash_attn_interface", "def flash_attn_func(q, k, v): return q\n")
    flash = probed(site.probe(gather, deadline_s=30))
    second, third = flash.generation(2), flash.generation(3)
    assert second is not None
    assert third is not None
    assert second.outcome == "timeout"
    assert third.imported is True
    assert set(fired(flash)) >= {"FA005"}


@needs_torch
def test_garbage_on_the_descriptors_changes_nothing(site: BrokenSite) -> None:
    flash_attn_2(site, "garbage")
    item = probed(site.probe(gather)).generation(2)
    assert item is not None
    assert item.imported is True


@needs_torch
def test_metadata_without_code(site: BrokenSite) -> None:
    site.metadata("flash-attn", "2.8.3")
    flash = probed(site.probe(gather))
    assert "its code is not there" in fired(flash)["FA005"].title


@needs_torch
def test_code_without_metadata(site: BrokenSite) -> None:
    site.module("flash_attn", "def flash_attn_func(q, k, v): return q\n")
    item = probed(site.probe(gather)).generation(2)
    assert item is not None
    assert (item.installed, item.version, item.imported) == (True, None, True)


def test_a_folder_left_by_an_uninstallation(site: BrokenSite) -> None:
    (site.folder / "flash_attn" / "__pycache__").mkdir(parents=True)
    flash = probed(site.probe(gather))
    assert flash.flash_attn_name == "namespace"
    assert flash.namespace_folders == ("__pycache__",)
    assert set(fired(flash)) == {"FA009"}


@needs_torch
def test_flash_attention_4_waits_for_more_than_a_quick_run(site: BrokenSite) -> None:
    site.metadata("flash-attn-4", "4.0.0b36")
    folder = site.folder / "flash_attn" / "cute"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("def flash_attn_func(q, k, v): return q\n")
    quick = probed(site.probe(gather, mode="quick")).generation(4)
    assert quick is not None
    assert (quick.imported, quick.outcome) == (None, None)
    assert quick.not_called
    flash = probed(site.probe(gather))
    item = flash.generation(4)
    assert item is not None
    assert item.imported is True
    assert flash.flash_attn_name == "namespace"


def test_the_early_copy_in_flash_attention_2_is_not_4(site: BrokenSite) -> None:
    site.metadata("flash-attn", "2.8.3")
    site.module("flash_attn", "raise ImportError('nothing here is imported to look')")
    site.module("flash_attn.cute")
    run = site.probe(gather, needs={"torch_build": ProbeRun("ok", TorchBuild(installed=False))})
    fourth = probed(run).generation(4)
    assert fourth is not None
    assert fourth.installed is False


def test_flash_attention_3_under_its_older_names(site: BrokenSite) -> None:
    site.metadata("flash-attn", "3.0.0b1")
    site.module("flash_attn_interface")
    run = site.probe(gather, needs={"torch_build": ProbeRun("ok", TorchBuild(installed=False))})
    second, third = probed(run).generation(2), probed(run).generation(3)
    assert second is not None
    assert third is not None
    assert (second.installed, third.installed, third.version) == (False, True, "3.0.0b1")


@needs_torch
def test_a_torch_that_ends_the_process(site: BrokenSite) -> None:
    flash_attn_2(site, None)
    site.break_import("torch", "segfault")
    item = probed(site.probe(gather)).generation(2)
    assert item is not None
    assert item.outcome is None
    assert "torch, or its first step on the GPU, failed: SIGSEGV" in (item.not_called or "")


def test_caption() -> None:
    assert FlashAttention((FA2, *ABSENT[1:])).caption() == Caption(33, "flash-attn 2.8.3")
    assert FlashAttention((FA2, ABSENT[1], FA4)).caption() == Caption(33, "flash-attn 2.8.3, 4.0.0b36")
    assert FlashAttention(ABSENT).caption() is None
    assert FlashAttention().caption() is None
