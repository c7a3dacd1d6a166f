"""Plug-ins: real distributions in a folder, found by their entry point, and what they may cost."""

from __future__ import annotations

import sys
import textwrap
import threading
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from fp8doctor import store
from fp8doctor.model import ProbeRun, Request
from fp8doctor.plugins import plug_in
from fp8doctor.probing.children import importable_here, run_probe
from fp8doctor.registry import Registry

WORKING = '''
from dataclasses import dataclass
from fp8doctor.model import ErrorText, Facts, Finding, Request, Severity
from fp8doctor.registry import probe, rule

@dataclass(frozen=True)
class {name}(Facts, key="{key}"):
    python: str | None = None

@probe(runs_in="target", timeout_s=20)
def gather(request: Request) -> {name}:
    """Looking."""
    import sys
    return {name}(python=sys.executable)

@rule("{id}", "some-problem", Severity.INFO, scope="box")
def judge(it: {name}) -> Finding | None:
    """There is a problem."""
    return None

ERROR_TEXTS = (ErrorText("boom", rule="{id}", fix="mend it"),)
'''


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path, as site-packages is; the modules imported from it are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in set(sys.modules) - before:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def install(site: Path, distribution: str, module: str, source: str, entry_points: str | None = None) -> None:
    """Put a distribution into `site` the way an installer leaves it."""
    file = site.joinpath(*module.split(".")).with_suffix(".py")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    info = site / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    text = f"{distribution} = {module}\n" if entry_points is None else entry_points
    (info / "entry_points.txt").write_text(f"[fp8doctor.checks]\n{text}")


def plugged_in() -> Registry:
    registry = Registry()
    plug_in(registry)
    return registry


def run(registry: Registry, key: str, interpreter: str) -> ProbeRun[Any]:
    return run_probe(
        registry.probes[key],
        Request(),
        interpreter=interpreter,
        importable=importable_here(registry.plugin_paths),
        runs={},
        environment={},
        deadline_s=20,
        decode=store.decode_facts,
        cancel=threading.Event(),
    )


def test_a_plug_in_is_found_and_its_probe_runs_in_another_interpreter(site: Path, other_python: str) -> None:
    install(site, "pump-doctor", "pump_doctor", WORKING.format(name="Pump", key="pump", id="PMP001"))
    registry = plugged_in()
    assert registry.broken == {}
    assert list(registry.rules) == ["PMP001"]
    assert [text.pattern for text in registry.error_texts] == ["boom"]
    ended = run(registry, "pump", other_python)
    assert (ended.outcome, ended.detail) == ("ok", None)
    assert ended.facts == registry.facts_types["pump"](python=other_python)  # type: ignore[call-arg]


def test_a_plug_in_in_a_namespace_that_others_share_is_refused(site: Path) -> None:
    install(site, "acme-pump", "acme.gpu.pump", WORKING.format(name="Pump", key="pump", id="PMP001"))
    registry = plugged_in()
    assert registry.rules == {}
    assert "acme is a namespace package" in registry.broken["acme-pump"]


def test_a_plug_in_that_ends_the_interpreter_or_raises_costs_itself_alone(site: Path) -> None:
    install(site, "a-quitter", "a_quitter", "raise SystemExit('goodbye')")
    install(site, "b-crasher", "b_crasher", "import no_such_module")
    install(site, "c-typo", "c_typo", "def broken(:")
    install(site, "d-missing", "d_missing", "", "d-missing = not_there\n")
    install(site, "e-function", "e_function", "def f(): ...", "e-function = e_function:f\n")
    install(site, "f-pump", "f_pump", WORKING.format(name="Pump", key="pump", id="PMP001"))
    registry = plugged_in()
    assert list(registry.rules) == ["PMP001"]
    assert registry.broken.keys() == {"a-quitter", "b-crasher", "c-typo", "d-missing", "e-function"}
    assert registry.broken["a-quitter"] == "SystemExit: goodbye"
    assert "no_such_module" in registry.broken["b-crasher"]
    assert "is no module" in registry.broken["e-function"]


def test_a_plug_in_that_repeats_an_id_or_a_key_is_left_out_whole(site: Path) -> None:
    install(site, "a-pump", "a_pump", WORKING.format(name="Pump", key="pump", id="PMP001"))
    install(site, "b-same-id", "b_same_id", WORKING.format(name="Valve", key="valve", id="PMP001"))
    install(site, "c-same-key", "c_same_key", WORKING.format(name="Pump", key="pump", id="PMP003"))
    registry = plugged_in()
    assert registry.broken == {
        "b-same-id": "RegistrationError: already taken: PMP001",
        "c-same-key": "RegistrationError: already taken: pump",
    }
    assert list(registry.rules) == ["PMP001"]
    assert list(registry.probes) == ["pump"]
    assert registry.plugin_paths == {"a_pump": str(site / "a_pump.py")}


def test_a_plug_in_that_prints_does_not_print_into_the_report(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "chatty", "chatty", "print('hello from a plug-in')")
    assert plugged_in().broken == {}
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "hello from a plug-in" in printed.err


def test_a_plug_in_that_only_the_tool_can_import_costs_no_other_probe(site: Path, other_python: str) -> None:
    needs_rich = "import rich\n" + WORKING.format(name="Valve", key="valve", id="VLV001")
    install(site, "needs-rich", "needs_rich", needs_rich)
    install(site, "pump-doctor", "pump_doctor", WORKING.format(name="Pump", key="pump", id="PMP001"))
    registry = plugged_in()
    assert registry.broken == {}
    ended = run(registry, "valve", other_python)
    assert ended.outcome == "exception"
    assert "No module named 'rich'" in (ended.detail or "")
    assert run(registry, "pump", other_python).outcome == "ok"


def test_a_distribution_with_damaged_metadata_does_not_stop_the_doctor(site: Path) -> None:
    install(site, "damaged", "damaged", "", "this line is no entry point\n")
    broken = plugged_in().broken
    assert list(broken) in ([], ["entry points"])  # depends on how strict this Python's importlib.metadata is


def test_an_entry_point_can_be_given_by_hand(site: Path) -> None:
    (site / "by_hand.py").write_text(textwrap.dedent(WORKING.format(name="Pump", key="pump", id="PMP001")))
    registry = Registry()
    plug_in(registry, [EntryPoint("by-hand", "by_hand", "fp8doctor.checks")])
    assert list(registry.probes) == ["pump"]
