"""Packages that eager layers search for in vain: how often torchao does, and what is said of it."""

from __future__ import annotations

import importlib.util
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest

from fp8doctor.checks.linear.facts import Case, Linear
from fp8doctor.checks.torchao import PackageSearch, Torchao, searching
from fp8doctor.checks.torchao.facts import SEARCHING
from fp8doctor.checks.torchao.probe import _after_crash, gather
from fp8doctor.checks.torchao.search_rules import LEAST_US, searched_each_call
from fp8doctor.model import Estimate, Finding, NotApplicable, Unknown
from fp8doctor.registry import load
from tests.broken_packages import BrokenSite

ROWWISE = PackageSearch("dynamic-rowwise", "mslk", searches_per_call=2, searches_per_call_torch=0, search_us=67.0)
TENSORWISE = replace(ROWWISE, config="dynamic-tensorwise", search_us=66.5)
AO = Torchao(installed=True, mslk_installed=False, searches=(ROWWISE, TENSORWISE), path_entries=7)
# As torchao 0.17.0 says it where there is no GPU.
REFUSED = "AssertionError: Float8 dynamic quantization requires CUDA compute capability ≥8.9 or MI300+ or XPU."


def found(ao: Torchao, linear: Linear | None = None) -> Finding:
    finding = searched_each_call(ao, linear)
    assert isinstance(finding, Finding)
    return finding


def us(median: float) -> Estimate:
    return Estimate(median, median, median, 7)


def test_searches_at_each_call_are_told_with_what_they_cost() -> None:
    finding = found(AO)
    assert "spends 134 us searching for mslk" in finding.title
    assert [evidence.text for evidence in finding.evidence] == [
        "dynamic-rowwise: 2 searches a call, 67 us each",
        "dynamic-tensorwise: 2 searches a call, 66 us each",
        "sys.path has 7 entries",
    ]
    assert finding.evidence[0].value == 134.0
    assert "kernel_preference=KernelPreference.TORCH" in str(finding.actions[0].command)
    assert finding.actions[1].command == "model = torch.compile(model)"


def test_the_choice_of_kernels_is_advised_only_where_it_was_seen_to_help() -> None:
    for searches in (None, 2):
        finding = found(replace(AO, searches=(replace(ROWWISE, searches_per_call_torch=searches),)))
        assert [action.command for action in finding.actions] == ["model = torch.compile(model)"]


def test_the_whole_call_stands_beside_it_where_it_was_timed() -> None:
    cases = [
        Case(config=config, m=m, k=3072, n=3072, host_us=host_us)
        for config, m, host_us in (
            ("torchao-fp8-rowwise", 1024, us(375.1)),
            ("torchao-fp8-rowwise", 16, us(391.7)),
            ("torchao-fp8-rowwise", 1, None),
            ("torchao-fp8-tensorwise", 16, us(363.0)),
        )
    ]
    assert found(AO, Linear(cases=tuple(cases))).evidence[-1].text == (
        "the host spends 392 us on such a call in all (16x3072x3072)"
    )
    for nothing in (Linear(), Linear(cases=())):
        assert found(AO, nothing).evidence == found(AO).evidence


def test_searches_that_cost_little_pass() -> None:
    quick = replace(ROWWISE, search_us=LEAST_US / 2 - 0.1)
    assert searched_each_call(replace(AO, searches=(quick,)), None) is None
    assert found(replace(AO, searches=(replace(quick, search_us=LEAST_US / 2),)))


def test_a_torchao_that_searches_no_more_passes() -> None:
    none = PackageSearch("dynamic-rowwise", searches_per_call=0)
    assert searched_each_call(replace(AO, searches=(none,)), None) is None


def test_where_nothing_is_searched_in_vain_the_question_does_not_arise() -> None:
    refused = replace(AO, searches=(PackageSearch("dynamic-rowwise", error=REFUSED),))
    for ao in (Torchao(installed=False), replace(AO, mslk_installed=True, searches=()), refused):
        assert isinstance(searched_each_call(ao, None), NotApplicable)


def test_what_was_not_counted_is_not_known() -> None:
    # A recording from before this was looked at, and one whose child ended.
    assert isinstance(searched_each_call(Torchao(installed=True, import_ok=True), None), Unknown)
    ended = _after_crash(Torchao(installed=True, mslk_installed=False, attempting=SEARCHING), "SIGSEGV")
    told = searched_each_call(ended, None)
    assert isinstance(told, Unknown)
    assert "SIGSEGV" in told.reason
    assert isinstance(searched_each_call(replace(AO, searches=(replace(ROWWISE, search_us=None),)), None), Unknown)


def test_its_page_shows_the_way_out() -> None:
    rule = load(plugins=[]).rules["AO010"]
    assert (rule.name, rule.severity.value, rule.scope) == ("package-searched-each-call", "info", "usage")
    assert "KernelPreference.TORCH" in rule.page


def test_a_package_that_is_there_is_told_from_one_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert searching.installed("json")
    assert not searching.installed("fp8doctor_has_no_such_package")
    without_spec = types.ModuleType("without_spec")
    without_spec.__spec__ = None
    monkeypatch.setitem(sys.modules, "without_spec", without_spec)
    assert searching.installed("without_spec")


@pytest.mark.torch
def test_only_what_each_call_searches_for_is_counted() -> None:
    pytest.importorskip("torch")
    missing, calls = "fp8doctor_has_no_such_package", 0

    def call() -> None:
        nonlocal calls
        calls += 1
        for name in [missing, "os", *(["only_the_first_call_asks"] if calls == 1 else [])]:
            importlib.util.find_spec(name)

    finders = list(sys.meta_path)
    assert searching._missing(searching._searched_for(call)) == [missing]
    assert sys.meta_path == finders
    assert searching._search_us(missing) > 0


@pytest.mark.torch
def test_what_torchao_really_searches_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its check of the hardware is lifted: the layers are on the meta device."""
    pytest.importorskip("torch")
    quant_api = pytest.importorskip("torchao.quantization.quant_api", reason="needs torchao")
    if searching.installed(searching.MSLK):
        pytest.skip("mslk is installed")
    monkeypatch.setattr(quant_api, "_check_hardware_support", lambda granularity: None)
    seen = searching.observe()
    assert [(s.config, s.package, s.searches_per_call, s.searches_per_call_torch, s.error) for s in seen] == [
        ("dynamic-rowwise", "mslk", 2, 0, None),
        ("dynamic-tensorwise", "mslk", 2, 0, None),
    ]
    assert all((s.search_us or 0) > 0 for s in seen)


@pytest.mark.torch
def test_the_probe_says_what_it_could_count() -> None:
    spec = importlib.util.find_spec("torchao")
    if spec is None or spec.origin is None:
        pytest.skip("needs torchao")
    run = BrokenSite(Path(spec.origin).parents[1]).probe(gather)
    assert (run.outcome, run.facts.mslk_installed) == ("ok", searching.installed(searching.MSLK))
    assert run.facts.path_entries > 0
    # Without a GPU that has FP8, torchao makes no such layer.
    assert all(seen.searches_per_call is not None or "CUDA" in seen.error for seen in run.facts.searches)
    assert not isinstance(searched_each_call(run.facts, None), Unknown)
