"""The driver: its rules as functions, its probe on a stub library."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fp8doctor.checks.driver import ERROR_TEXTS, Driver, kernel_module_version, libcuda_overrides, mismatch, too_old
from fp8doctor.checks.gpu.facts import Gpu, Gpus
from fp8doctor.checks.torch_build.facts import TorchBuild
from fp8doctor.model import Finding, NotApplicable, Unknown

NEW = Driver(installed=True, version="580.159.04", kernel_module_version="580.159.04", libcuda_overrides=())
CU130 = TorchBuild(installed=True, version="2.11.0+cu130", cuda="13.0", accelerator="cuda", cuda_available=False)
GEFORCE = Gpus(gpus=(Gpu(index=0, name="NVIDIA GeForce RTX 4090"),))


@pytest.mark.parametrize(
    ("version", "cuda", "fires"),
    [
        ("580.159.04", "13.0", False),
        ("575.57.08", "13.0", True),
        ("550.90.07", "12.8", False),
        ("525.60.13", "12.8", False),
        ("470.161.03", "12.1", True),
        ("470.161.03", "11.8", False),
        ("418.226.00", "11.8", True),
        ("1000.1", "13.2", False),
    ],
)
def test_driver_too_old(version: str, cuda: str, fires: bool) -> None:
    result = too_old(replace(NEW, version=version), replace(CU130, cuda=cuda), None)
    assert isinstance(result, Finding) is fires


def test_a_driver_that_works_is_not_too_old() -> None:
    through_compat = replace(CU130, cuda_available=True)
    assert too_old(replace(NEW, version="550.90.07"), through_compat, None) is None


def test_an_older_torch_is_offered_where_the_driver_can_run_it() -> None:
    for version in ("550.90.07", "525.60.13"):
        result = too_old(replace(NEW, version=version), CU130, None)
        assert isinstance(result, Finding)
        assert any("cu126" in (a.command or "") for a in result.actions)
    result = too_old(replace(NEW, version="470.161.03"), CU130, None)
    assert isinstance(result, Finding)
    assert not any("cu126" in (a.command or "") for a in result.actions)


def test_torchs_own_words_stand_beside_the_versions_where_it_spoke() -> None:
    old = replace(NEW, version="550.90.07")
    silent = too_old(old, CU130, None)
    assert isinstance(silent, Finding)
    assert [e.fact for e in silent.evidence] == ["torch_build.cuda", "driver.version"]
    error = "The NVIDIA driver on your system is too old (found version 12040)"
    spoke = too_old(old, replace(CU130, cuda_error=error), None)
    assert isinstance(spoke, Finding)
    assert error in spoke.evidence[-1].text


def test_forward_compatibility_on_geforce() -> None:
    refused = replace(CU130, cuda_error="Error 804: forward compatibility was attempted on non supported HW")
    result = too_old(replace(NEW, libcuda_overrides=("/usr/local/cuda/compat",)), refused, GEFORCE)
    assert isinstance(result, Finding)
    assert any("compat" in e.text for e in result.evidence)
    assert any(a.command == "unset LD_LIBRARY_PATH" for a in result.actions)


def test_what_is_not_known_of_the_driver() -> None:
    assert isinstance(too_old(NEW, None, None), Unknown)
    assert isinstance(too_old(NEW, TorchBuild(), None), Unknown)
    assert isinstance(too_old(replace(NEW, version=None), CU130, None), Unknown)
    assert isinstance(too_old(NEW, replace(CU130, cuda="14.0"), None), Unknown)
    halves = replace(NEW, version="550.90.07", nvml_error="LIB_RM_VERSION_MISMATCH: a mismatch")
    assert isinstance(too_old(halves, CU130, None), Unknown)
    assert isinstance(too_old(Driver(installed=False), CU130, None), NotApplicable)
    assert isinstance(too_old(NEW, TorchBuild(installed=False), None), NotApplicable)
    assert isinstance(too_old(NEW, TorchBuild(accelerator="cpu"), None), NotApplicable)


def test_driver_library_mismatch() -> None:
    broken = Driver(
        installed=True,
        version="580.95.05",
        kernel_module_version="580.95.05",
        library_version="580.159.04",
        nvml_error="LIB_RM_VERSION_MISMATCH: RM has detected an NVML/RM version mismatch.",
    )
    result = mismatch(broken, None)
    assert isinstance(result, Finding)
    assert {"580.95.05", "580.159.04"} <= {e.value for e in result.evidence}
    by_cuda = replace(CU130, cuda_error="Error 803: system has unsupported display driver / cuda driver combination")
    assert isinstance(mismatch(NEW, by_cuda), Finding)
    assert mismatch(NEW, CU130) is None
    assert isinstance(mismatch(Driver(installed=False), None), NotApplicable)
    assert isinstance(mismatch(Driver(), None), Unknown)


def test_caption() -> None:
    caption = NEW.caption()
    assert caption is not None
    assert (caption.place, caption.text) == (20, "driver 580.159.04")
    assert Driver().caption() is None


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build", "580.159.04"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19", "535.129.03"),
        ("something else", None),
    ],
)
def test_kernel_module_version(tmp_path: Path, line: str, version: str | None) -> None:
    file = tmp_path / "proc/driver/nvidia/version"
    file.parent.mkdir(parents=True)
    file.write_text(f"{line}\nGCC version:  gcc 12\n")
    assert kernel_module_version(tmp_path) == version
    assert kernel_module_version(tmp_path / "nothing") is None


def test_libcuda_overrides(tmp_path: Path) -> None:
    (tmp_path / "compat").mkdir()
    (tmp_path / "compat" / "libcuda.so.1").touch()
    (tmp_path / "lib").mkdir()
    assert libcuda_overrides(f"{tmp_path}/lib:{tmp_path}/compat::{tmp_path}/none") == (f"{tmp_path}/compat",)
    assert libcuda_overrides("") == ()


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        ("The NVIDIA driver on your system is too old (found version 11060). Please update", "DRV001"),
        ("CUDA error: CUDA driver version is insufficient for CUDA runtime version", "DRV001"),
        ("Error 804: forward compatibility was attempted on non supported HW (Triggered internally", "DRV001"),
        ("Failed to initialize NVML: Driver/library version mismatch", "DRV002"),
        ("Error 803: system has unsupported display driver / cuda driver combination", "DRV002"),
    ],
)
def test_error_texts(message: str, rule: str) -> None:
    assert [t.rule for t in ERROR_TEXTS if re.search(t.pattern, message)] == [rule]
