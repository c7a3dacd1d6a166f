"""Extensions that lack code for the GPU or miss a symbol of torch: whose fault is it, as far as a text settles it?"""

from __future__ import annotations

import pytest

from fp8doctor.checks.flash_attention.rules import built_for_another_torch
from fp8doctor.checks.gpu import Gpu, Gpus
from fp8doctor.checks.libraries.facts import Libraries
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torch_build.no_image import extension_without_code, torch_before_the_gpu
from fp8doctor.checks.transformer_engine.facts import TransformerEngine
from fp8doctor.checks.transformer_engine.import_rules import abi_mismatch
from fp8doctor.model import Finding, Message, Messages, NotApplicable, ProbeRun, Unknown

NO_IMAGE = Messages((Message("TOR021", "no kernel image is available for execution on the device", "the text"),))
NO_SYMBOL = Messages((Message("TOR022", "undefined symbol: _ZN3c105ErrorC2E", "the text"),))
BLACKWELL = Gpus(gpus=(Gpu(index=0, name="RTX 5090", compute_capability="12.0"),))
HOPPER = Gpus(gpus=(Gpu(index=0, name="H100", compute_capability="9.0"),))
UNSEEN: ProbeRun[TransformerEngine] = ProbeRun("not-observed")


def torch(version: str, cuda: str, *archs: str) -> TorchBuild:
    return TorchBuild(installed=True, accelerator="cuda", version=version, cuda=cuda, arch_list=archs or None)


@pytest.mark.parametrize(
    ("build", "gpus"),
    [
        (torch("2.8.0+cu128", "12.8"), BLACKWELL),
        (torch("2.9.1", "13.0"), BLACKWELL),
        (torch("2.4.0a0+git", "12.4", "sm_80", "sm_90"), HOPPER),
    ],
)
def test_where_torch_has_code_for_the_gpu_an_extension_lacks_it(build: TorchBuild, gpus: Gpus) -> None:
    assert isinstance(extension_without_code(NO_IMAGE, build, gpus), Finding)
    assert isinstance(torch_before_the_gpu(NO_IMAGE, build, gpus), NotApplicable)


@pytest.mark.parametrize(
    ("messages", "build", "gpus"),
    [
        (None, torch("2.8.0+cu128", "12.8"), BLACKWELL),
        (NO_IMAGE, None, BLACKWELL),
        (NO_IMAGE, torch("2.8.0+cu128", "12.8"), None),
        (NO_IMAGE, torch("2.6.0+cu124", "12.4"), BLACKWELL),
        (NO_IMAGE, torch("2.8.0a0+nv25.05", "12.9"), BLACKWELL),
        (NO_IMAGE, torch("2.8.0+cu126", "12.6", "sm_80", "sm_90"), BLACKWELL),
    ],
)
def test_where_that_is_not_certain_nobody_is_accused(
    messages: Messages | None, build: TorchBuild | None, gpus: Gpus | None
) -> None:
    assert isinstance(extension_without_code(messages, build, gpus), NotApplicable)


def test_a_torch_older_than_the_gpu_lacks_the_code_itself() -> None:
    assert isinstance(torch_before_the_gpu(NO_IMAGE, torch("2.6.0", "12.4"), BLACKWELL), Finding)
    assert isinstance(torch_before_the_gpu(NO_IMAGE, torch("2.7.0", "12.8"), BLACKWELL), NotApplicable)
    assert isinstance(torch_before_the_gpu(NO_IMAGE, torch("2.6.0", "12.4"), HOPPER), NotApplicable)
    assert isinstance(torch_before_the_gpu(None, torch("2.6.0", "12.4"), BLACKWELL), NotApplicable)


def test_a_missing_symbol_of_torch_is_of_the_only_extension_that_is_named() -> None:
    flash = Libraries(installed={"flash-attn": "2.7.4", "numpy": "2.0"})
    engine = Libraries(installed={"transformer-engine": "2.1.0"})
    both = Libraries(installed={"transformer-engine": "2.1.0", "flash-attn": "2.7.4"})
    assert isinstance(built_for_another_torch(None, NO_SYMBOL, flash), Finding)
    assert isinstance(abi_mismatch(UNSEEN, NO_SYMBOL, engine), Finding)
    for named in (both, engine, Libraries(), None):
        assert isinstance(built_for_another_torch(None, NO_SYMBOL, named), Unknown)
    for named in (both, flash, Libraries(), None):
        assert isinstance(abi_mismatch(UNSEEN, NO_SYMBOL, named), Unknown)
    assert isinstance(abi_mismatch(UNSEEN, None, engine), Unknown)
