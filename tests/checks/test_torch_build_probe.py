"""torch's probe, on the real torch and on broken ones, and what its rules say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.gpu import Gpu, Gpus
from fp8doctor.checks.torch_build import rules
from fp8doctor.checks.torch_build.probe import gather, installed_build
from fp8doctor.checks.torch_build.scaled_gemms import cases
from fp8doctor.model import Finding, RuleResult, Unknown
from tests.broken_packages import BrokenSite

ONE_H200 = Gpus(gpus=(Gpu(index=0, name="NVIDIA H200", compute_capability="9.0", vendor="nvidia"),))


def findings(verdict: RuleResult) -> list[Finding]:
    return [v for v in (verdict if isinstance(verdict, list) else [verdict]) if isinstance(v, Finding)]


@pytest.mark.torch
def test_the_real_torch_is_described(tmp_path: Path) -> None:
    import torch

    run = BrokenSite(tmp_path).probe(gather, mode="quick")
    assert run.outcome == "ok", run.stderr_tail
    assert run.facts.version == torch.__version__
    assert run.facts.installed is True
    assert run.facts.attempting is None
    assert run.facts.import_s > 0
    assert "float8_e4m3fn" in run.facts.float8_dtypes
    assert run.facts.accelerator == ("cuda" if torch.version.cuda else "hip" if torch.version.hip else "cpu")


@pytest.mark.gpu
def test_products_on_a_real_gpu(tmp_path: Path) -> None:
    facts = BrokenSite(tmp_path).probe(gather).facts
    assert facts.trivial_kernel_ok
    assert len(facts.scaled_gemms) == len(cases(None))
    assert all(g.outcome != "wrong" for g in facts.scaled_gemms)


@pytest.mark.parametrize(
    ("fault", "said"),
    [("segfault", "SIGSEGV"), ("abort", "SIGABRT"), ("undefined-symbol", "undefined symbol"), ("exit", "status 0")],
)
def test_an_import_that_crashes_costs_one_more_child(tmp_path: Path, fault: Any, said: Any) -> None:
    site = BrokenSite(tmp_path)
    site.metadata("torch", "2.99.0")
    site.break_import("torch", fault)
    run = site.probe(gather)
    assert run.outcome == "ok"
    assert said in run.facts.import_error
    assert run.facts.version == "2.99.0"
    assert findings(rules.torch_broken(run))


def test_an_import_that_ends_the_interpreter_is_recorded(tmp_path: Path) -> None:
    site = BrokenSite(tmp_path)
    site.break_import("torch", "system-exit")
    assert "SystemExit" in site.probe(gather).facts.import_error


def test_an_import_that_hangs_keeps_what_the_files_said(tmp_path: Path) -> None:
    site = BrokenSite(tmp_path)
    site.metadata("torch", "2.99.0")
    site.break_import("torch", "hang")
    run = site.probe(gather, deadline_s=14.0)
    assert run.facts.version == "2.99.0"
    assert findings(rules.torch_broken(run))


def test_a_module_of_ones_own_named_torch(tmp_path: Path) -> None:
    site = BrokenSite(tmp_path)
    site.module("torch", "__version__ = 'mine'\n")
    run = site.probe(gather)
    assert "AttributeError" in run.facts.import_error
    assert findings(rules.torch_broken(run))


@pytest.mark.parametrize("name", ["random", "torch"])
def test_what_python_path_brings_in_place_of_others_is_named(tmp_path: Path, name: str) -> None:
    """The site of the test stands in PYTHONPATH."""
    site = BrokenSite(tmp_path)
    site.module("torch", "import random\nrandom.Random(0)\n" if name == "random" else "import nothing_like_it\n")
    if name == "random":
        (tmp_path / "random.py").write_text("dice = 6\n")
    run = site.probe(gather)
    found = findings(rules.torch_broken(run))[0]
    assert f"{name}.py" in found.actions[0].text or f"{name}/__init__.py" in found.actions[0].text
    assert "env -u PYTHONPATH" in (found.actions[0].command or "")


def test_a_torch_that_names_things_otherwise_is_described_as_far_as_it_goes(tmp_path: Path) -> None:
    site = BrokenSite(tmp_path)
    site.module("torch", "import types\n__version__ = '9.0'\nversion = types.SimpleNamespace()\n")
    run = site.probe(gather)
    assert (run.outcome, run.facts.version, run.facts.accelerator) == ("ok", "9.0", None)
    assert run.facts.import_error is None
    assert isinstance(rules.cuda_does_not_start(run, ONE_H200), Unknown)


def test_a_folder_without_code_is_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: the child's own torch, where there is one, would be found before a folder without code."""
    (tmp_path / "torch").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(__import__("sys").modules, "torch", raising=False)
    seen = installed_build()
    assert seen.installed is False
    assert seen.leftover_folder == str(tmp_path / "torch")
    assert findings(rules.torch_missing(seen))


# A torch that plays a GPU: enough of its surface to reach the products, which end as the test says.
PLAYED = """
import os, types
__version__ = "2.99.0+cu130"
version = types.SimpleNamespace(cuda="13.0", hip=None, xpu=None, git_version=None)
_C = types.SimpleNamespace(_cuda_getArchFlags=lambda: "sm_80 sm_90")
backends = types.SimpleNamespace(cudnn=types.SimpleNamespace(version=lambda: 91900))
_properties = types.SimpleNamespace(
    name="NVIDIA H200", major=9, minor=0, multi_processor_count=132, total_memory=150 << 30, L2_cache_size=60 << 20
)
cuda = types.SimpleNamespace(
    is_available=lambda: True, init=lambda: None, device_count=lambda: 1, get_device_properties=lambda i: _properties
)
def ones(*args, **kwargs):
    FAULT
"""


def test_a_crash_in_a_kernel_keeps_all_before_it(tmp_path: Path) -> None:
    site = BrokenSite(tmp_path)
    site.module("torch", PLAYED.replace("FAULT", "os.abort()"))
    run = site.probe(gather)
    assert run.outcome == "ok"
    assert "SIGABRT" in run.facts.trivial_kernel_error
    assert run.facts.cudnn == "9.19.0"
    assert run.facts.devices[0].l2_cache_bytes == 60 << 20
    assert run.facts.arch_list == ("sm_80", "sm_90")
    assert findings(rules.cuda_does_not_start(run, ONE_H200))
