"""Two cuDNN in one process: the rule on an H200's facts, and real libraries that are kept or brought by an import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.libraries.facts import Libraries, LoadedLibrary
from fp8doctor.checks.transformer_engine import TransformerEngine
from fp8doctor.checks.transformer_engine.cudnn_rules import another_cudnn
from fp8doctor.checks.transformer_engine.probe import gather
from fp8doctor.model import Finding, NotApplicable, Severity, Unknown
from fp8doctor.registry import Registry
from tests.broken_packages import BrokenSite

ROOT = Path(__file__).parents[2]
WHEEL = "/opt/venv/lib/python3.12/site-packages/nvidia/cudnn/lib"
SYSTEM = "/usr/lib/x86_64-linux-gnu"


def part(name: str, folder: str, version: str = "9", version_from: str = "file name") -> LoadedLibrary:
    place = "wheel" if "site-packages" in folder else "system"
    return LoadedLibrary(name, version, version_from, f"{folder}/{name}.so.{version}", place, False)


# As an H200 with a vendor's image had it: torch 2.11 from its wheel, cuDNN 9.14 among the system's libraries.
OWN = (
    replace(part("libcudnn", WHEEL), version="9.19.0", version_from="call"),
    part("libcudnn_graph", WHEEL),
    part("libcudnn_ops", WHEEL),
    part("libcublasLt", "/usr/local/cuda/lib64", "13"),
)
MIXED = (
    part("libcudnn", WHEEL),
    part("libcudnn_adv", SYSTEM, "9.14.0"),
    part("libcudnn_cnn", SYSTEM, "9.14.0"),
    part("libcudnn_graph", SYSTEM, "9.14.0"),
)
LIBRARIES = Libraries(loaded=OWN, torch_use="used")
TE = TransformerEngine(installed=True, version="2.20.2", import_ok=True, cudnn=MIXED, cudnn_version="9.14.0")


# --- what is said of it ----------------------------------------------------------------------------------------------


def test_an_import_that_brings_torch_another_cudnn_is_found_with_both_versions_and_folders() -> None:
    found = another_cudnn(TE, LIBRARIES)
    assert isinstance(found, Finding)
    assert found.title == "Importing Transformer Engine makes torch call cuDNN 9.14.0 in place of its own 9.19.0"
    assert [e.text for e in found.evidence] == [
        f"torch alone: cuDNN 9.19.0 from {WHEEL}",
        f"with Transformer Engine: cuDNN 9.14.0, 3 of its parts from {SYSTEM}",
    ]
    assert found.about == "package:transformer-engine"
    assert found.actions[0].command


def test_it_is_a_warning_on_the_box() -> None:
    registry = Registry()
    registry.collect(sys.modules["fp8doctor.checks.transformer_engine"])
    rule = registry.rules["TE023"]
    assert (rule.name, rule.severity, rule.scope) == ("cudnn-mixed-by-te", Severity.WARNING, "box")


@pytest.mark.parametrize(
    "te",
    [
        replace(TE, cudnn=OWN[:3], cudnn_version="9.19.0"),
        replace(TE, cudnn_version="9.19.0"),
    ],
    ids=["all parts from one folder", "another folder with the same version"],
)
def test_one_cudnn_or_one_version_is_no_fault(te: TransformerEngine) -> None:
    assert another_cudnn(te, LIBRARIES) is None


def test_two_folders_without_transformer_engine_are_another_rules_matter() -> None:
    both = (*OWN, part("libcudnn_cnn", SYSTEM, "9.14.0"))
    assert another_cudnn(TE, replace(LIBRARIES, loaded=both)) is None


@pytest.mark.parametrize(
    ("te", "libraries", "why"),
    [
        (TransformerEngine(installed=False), LIBRARIES, "Transformer Engine is not installed"),
        (replace(TE, cudnn=()), LIBRARIES, "no cuDNN is loaded"),
        (TE, replace(LIBRARIES, loaded=OWN[3:]), "no cuDNN is loaded"),
    ],
    ids=["no Transformer Engine", "no cuDNN with it", "no cuDNN with torch alone"],
)
def test_without_either_the_question_does_not_arise(te: TransformerEngine, libraries: Libraries, why: str) -> None:
    assert another_cudnn(te, libraries) == NotApplicable(why)


@pytest.mark.parametrize(
    ("te", "libraries"),
    [
        (TransformerEngine(), LIBRARIES),
        (TransformerEngine(installed=True, import_ok=False, import_error="OSError: x"), LIBRARIES),
        (TE, Libraries()),
        (replace(TE, cudnn_version=None), LIBRARIES),
        (TE, replace(LIBRARIES, loaded=tuple(replace(one, version_from="file name") for one in OWN))),
    ],
    ids=["nothing of it", "it does not import", "nothing of torch alone", "torch did not say", "nor torch alone"],
)
def test_what_was_not_seen_never_passes(te: TransformerEngine, libraries: Libraries) -> None:
    assert isinstance(another_cudnn(te, libraries), Unknown)


# --- torch's own is kept ---------------------------------------------------------------------------------------------

KEEP = """
import json, os, re
from fp8doctor.checks.transformer_engine.cudnn import keep_torchs_cudnn
before = dict(os.environ)
keep_torchs_cudnn()
loaded = sorted(set(re.findall(r"/\\S*libcudnn\\S*", open("/proc/self/maps").read())))
print(json.dumps({"loaded": loaded, "changed": {k: v for k, v in os.environ.items() if before.get(k) != v}}))
"""


def kept(folder: Path, **environment: str) -> dict[str, Any]:
    """What a process whose packages lie in `folder` has loaded of cuDNN, and what it changed in its environment."""
    others = {name: value for name, value in os.environ.items() if name != "CUDNN_HOME"}
    ended = subprocess.run(
        [sys.executable, "-c", KEEP],
        cwd=ROOT,
        env={**others, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.fixture
def site(tmp_path: Path) -> BrokenSite:
    return BrokenSite(tmp_path.resolve())


def wheel(site: BrokenSite, *names: str) -> Path:
    """A package as cuDNN's wheel is one, with libraries that can really be loaded."""
    folder = site.module("nvidia.cudnn")
    for name in names:
        site.library(f"nvidia/cudnn/lib/{name}", "loads")
    return folder


def test_all_of_the_wheels_cudnn_is_loaded_and_named_to_transformer_engine(site: BrokenSite) -> None:
    folder = wheel(site, "libcudnn.so.9", "libcudnn_graph.so.9", "libcudnn_ops.so.9")
    site.library("nvidia/cudnn/lib/libother.so.9", "loads")
    found = kept(site.folder)
    names = ("libcudnn.so.9", "libcudnn_graph.so.9", "libcudnn_ops.so.9")
    assert found["loaded"] == [str(folder / "lib" / name) for name in names]
    assert found["changed"] == {"CUDNN_HOME": str(folder)}


def test_a_wheel_whose_parent_is_no_package_is_found_too(site: BrokenSite) -> None:
    folder = wheel(site, "libcudnn.so.9")
    (folder.parent / "__init__.py").unlink()  # as the wheels have it: a namespace of several distributions
    (folder / "__init__.py").unlink()
    assert kept(site.folder)["changed"] == {"CUDNN_HOME": str(folder)}


def test_a_folder_that_a_person_set_stays(site: BrokenSite) -> None:
    wheel(site, "libcudnn.so.9")
    found = kept(site.folder, CUDNN_HOME="/opt/cudnn")
    assert found["changed"] == {}
    assert len(found["loaded"]) == 1


def test_a_part_that_does_not_load_costs_itself_alone(site: BrokenSite) -> None:
    folder = wheel(site, "libcudnn.so.9", "libcudnn_ops.so.9")
    (folder / "lib" / "libcudnn_adv.so.9").write_text("half a download")
    site.library("nvidia/cudnn/lib/libcudnn_cnn.so.9", "undefined-symbol")
    found = kept(site.folder)
    assert [Path(path).name for path in found["loaded"]] == ["libcudnn.so.9", "libcudnn_ops.so.9"]
    assert found["changed"] == {"CUDNN_HOME": str(folder)}


def test_without_the_wheel_nothing_is_loaded_and_nothing_set(site: BrokenSite) -> None:
    nothing: dict[str, Any] = {"loaded": [], "changed": {}}
    assert kept(site.folder) == nothing
    site.module("nvidia.cublas")
    assert kept(site.folder) == nothing, "another of its packages"
    wheel(site)
    assert kept(site.folder) == nothing, "the package, and no library in it"
    site.library("nvidia/cudnn/lib/libcudnn_ops.so.9", "loads")
    assert kept(site.folder) == nothing, "parts without the library that calls them"


# --- what an import brings -------------------------------------------------------------------------------------------

# A torch with a cuDNN that answers for the library that was loaded last, as the parts of another one do.
TORCH = """
class cuda:
    is_available = staticmethod(lambda: False)
class _C:
    class _cudnn:
        @staticmethod
        def getRuntimeVersion():
            {answer}
"""
TRANSFORMER_ENGINE = """
import ctypes, pathlib
for path in sorted((pathlib.Path(__file__).parents[2] / "system").glob("libcudnn*")):
    ctypes.CDLL(str(path))
"""


def imported(site: BrokenSite, answer: str, *libraries: str) -> TransformerEngine:
    """What the probe sees of a Transformer Engine that loads these libraries while it is imported."""
    site.module("torch", TORCH.format(answer=answer))
    site.metadata("transformer-engine", "2.20.2")
    site.module("transformer_engine.pytorch", TRANSFORMER_ENGINE)
    for name in libraries:
        site.library(f"system/{name}", "loads")
    facts = site.probe(gather).facts
    assert isinstance(facts, TransformerEngine)
    assert facts.import_ok is True
    return facts


def test_the_probe_sees_which_parts_an_import_loaded_and_which_version_torch_then_calls(site: BrokenSite) -> None:
    seen = imported(site, "return (9, 14, 0)", "libcudnn_graph.so.9.14.0", "libcudnn_ops.so.9", "libcublasLt.so.13")
    assert [(p.name, p.version, p.path) for p in seen.cudnn or ()] == [
        ("libcudnn_graph", "9.14.0", str(site.folder / "system" / "libcudnn_graph.so.9.14.0")),
        ("libcudnn_ops", "9", str(site.folder / "system" / "libcudnn_ops.so.9")),
    ]
    assert seen.cudnn_version == "9.14.0"
    assert isinstance(another_cudnn(seen, LIBRARIES), Finding)


def test_a_torch_that_cannot_say_its_cudnn_is_no_failed_import(site: BrokenSite) -> None:
    seen = imported(site, "raise RuntimeError('cuDNN version incompatibility')", "libcudnn_graph.so.9")
    assert (len(seen.cudnn or ()), seen.cudnn_version) == (1, None)


def test_where_no_cudnn_is_loaded_torch_is_not_asked(site: BrokenSite) -> None:
    seen = imported(site, "import os; os.abort()")
    assert (seen.cudnn, seen.cudnn_version) == ((), None)
