"""A package whose import takes its process along left no error behind; how the process ended tells it."""

from __future__ import annotations

from dataclasses import replace

from fp8doctor.checks.torchao import Torchao
from fp8doctor.checks.torchao import rules as ao_rules
from fp8doctor.checks.torchao.facts import IMPORTING as IMPORTING_AO
from fp8doctor.checks.torchao.facts import IMPORTING_TORCH
from fp8doctor.checks.transformer_engine import TransformerEngine, import_rules
from fp8doctor.checks.transformer_engine.facts import IMPORTING as IMPORTING_TE
from fp8doctor.model import Finding, ProbeRun, Unknown

TE = TransformerEngine(installed=True, version="2.20.2")
AO = Torchao(installed=True, version="0.17.0", torch_version="2.11.0")


def test_an_import_that_ends_its_process_is_told_by_how_it_ended() -> None:
    engine = import_rules.import_fails(ProbeRun("signal", replace(TE, attempting=IMPORTING_TE), detail="SIGSEGV"))
    kernels = replace(AO, attempting=IMPORTING_AO, imports_without_kernels=False)
    torchao = ao_rules.import_fails(ProbeRun("signal", kernels, detail="SIGSEGV"))
    for found in (engine, torchao):
        assert isinstance(found, Finding)
        assert "SIGSEGV" in found.evidence[0].text


def test_whether_kernels_are_at_fault_is_not_known_before_an_import_without_them() -> None:
    ended = replace(AO, attempting=IMPORTING_AO)
    assert isinstance(ao_rules.kernels_end_the_process(ProbeRun("signal", ended, detail="SIGABRT")), Unknown)
    tried = replace(ended, imports_without_kernels=True)
    assert isinstance(ao_rules.kernels_end_the_process(ProbeRun("signal", tried, detail="SIGABRT")), Finding)


def test_a_crash_after_an_import_is_no_fault_of_the_import() -> None:
    later = ProbeRun("signal", replace(AO, import_ok=True, attempting="a layer"), detail="SIGSEGV")
    assert ao_rules.kernels_end_the_process(later) is None
    assert ao_rules.import_fails(later) is None
    assert import_rules.import_fails(ProbeRun("signal", replace(TE, import_ok=True), detail="SIGSEGV")) is None


def test_a_process_that_ended_before_the_import_tells_nothing_of_it() -> None:
    early = ProbeRun("signal", replace(TE, attempting=IMPORTING_TORCH), detail="SIGSEGV")
    assert isinstance(import_rules.import_fails(early), Unknown)
    assert isinstance(
        ao_rules.import_fails(ProbeRun("signal", replace(AO, attempting=IMPORTING_TORCH), detail="SIGSEGV")), Unknown
    )


def test_where_torch_is_what_fails_the_report_says_that_nothing_was_imported() -> None:
    said = "ImportError: libtorch.so"
    for verdict in (
        import_rules.abi_mismatch(ProbeRun("ok", replace(TE, torch_error=said))),
        ao_rules.kernels_end_the_process(ProbeRun("ok", replace(AO, torch_error=said))),
    ):
        assert isinstance(verdict, Unknown)
        assert said in verdict.reason
    unseen = import_rules.abi_mismatch(ProbeRun("ok", TE))
    assert isinstance(unseen, Unknown)
    assert "torch cannot be" not in unseen.reason
