"""Libraries: rules on records, and the probe on real folders of packages and libraries that are really loaded."""

from __future__ import annotations

import ctypes
import shutil
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path

import pytest

from fp8doctor.checks.claims import Claims, Said
from fp8doctor.checks.gpu import Gpu, Gpus
from fp8doctor.checks.libraries import Libraries, LoadedLibrary, Overwritten, release, rules
from fp8doctor.checks.libraries.probe import (
    gather,
    installed_packages,
    loaded_libraries,
    normalized,
    place_of,
    with_versions,
)
from fp8doctor.model import Finding, NotApplicable, RuleResult, Severity, Unknown
from tests.broken_packages import BrokenSite

WHEEL = "/venv/lib/python3.11/site-packages/nvidia"
H200 = Gpus(gpus=(Gpu(index=0, compute_capability="9.0"),))
B200 = Gpus(gpus=(Gpu(index=0, compute_capability="10.0"),))


def library(
    name: str, path: str, version: str | None = "9", place: str = "wheel", shadows: bool = False
) -> LoadedLibrary:
    return LoadedLibrary(name, version, "file name", path, place, shadows)


HEALTHY = Libraries(
    installed={"torch": "2.11.0+cu130", "nvidia-cublas": "13.1.0.3", "nvidia-cudnn-cu13": "9.19.0.56"},
    absent=("torchao",),
    complete=True,
    duplicates={},
    overwritten=(),
    loaded=(
        library("libcudnn", f"{WHEEL}/cudnn/lib/libcudnn.so.9", "9.19.0"),
        library("libcudnn_graph", f"{WHEEL}/cudnn/lib/libcudnn_graph.so.9"),
        library("libcublasLt", f"{WHEEL}/cu13/lib/libcublasLt.so.13", "13.1.0"),
        library("libcuda", "/usr/lib/x86_64-linux-gnu/libcuda.so.580.159.03", "580.159.03", "system"),
    ),
    torch_use="used",
    cudnn_version="9.19.0",
    cublaslt_version="13.1.0",
    torch_requires_cublas="nvidia-cublas",
)
SYSTEM = "/usr/lib/x86_64-linux-gnu"


def one(result: RuleResult) -> Finding:
    found = [v for v in (result if isinstance(result, list) else [result]) if isinstance(v, Finding)]
    assert len(found) == 1
    return found[0]


def test_a_healthy_box_gets_no_finding() -> None:
    assert rules.cudnn_mixed_libraries(HEALTHY) is None
    assert rules.cudnn_too_old(HEALTHY, H200) is None
    assert rules.cublas_version(HEALTHY) is None
    assert rules.loader_path_shadows_wheel(HEALTHY) is None
    assert rules.distribution_twice(HEALTHY) is None
    assert rules.packages_overwrite_each_other(HEALTHY) is None


def test_cudnn_from_two_folders_is_an_error_only_where_it_failed() -> None:
    stray = library("libcudnn_engines_tensor_ir", f"{SYSTEM}/libcudnn_engines_tensor_ir.so.9.23.0", "9.23.0", "system")
    mixed = replace(HEALTHY, loaded=(*(HEALTHY.loaded or ()), stray))
    assert one(rules.cudnn_mixed_libraries(mixed)).severity is Severity.WARNING
    failed = replace(mixed, cudnn_error="RuntimeError: CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH")
    finding = one(rules.cudnn_mixed_libraries(failed))
    assert finding.severity is Severity.ERROR
    assert any("tensor_ir" in evidence.text for evidence in finding.evidence)


def test_cudnn_in_two_versions_in_one_folder() -> None:
    parts = tuple(
        library(f"libcudnn{part}", f"/opt/l/libcudnn{part}.so.{v}", v) for part, v in (("", "9.1.0"), ("_ops", "9.2.0"))
    )
    assert "9.1.0, 9.2.0" in one(rules.cudnn_mixed_libraries(replace(HEALTHY, loaded=parts))).title


def test_cudnn_that_was_not_used_is_not_called_sound() -> None:
    assert isinstance(rules.cudnn_mixed_libraries(replace(HEALTHY, torch_use="imported")), Unknown)
    assert isinstance(rules.cudnn_mixed_libraries(replace(HEALTHY, loaded=())), NotApplicable)
    assert isinstance(rules.cudnn_mixed_libraries(Libraries(installed={})), Unknown)
    assert isinstance(rules.cudnn_mixed_libraries(Libraries(torch_use="absent")), NotApplicable)


@pytest.mark.parametrize(
    ("te", "cudnn", "fires"), [("2.20.2", "9.10.2", True), ("2.20.2", "9.12.0", False), ("2.19.0", "9.10.2", False)]
)
def test_cudnn_too_old_for_transformer_engine(te: str, cudnn: str, fires: bool) -> None:
    facts = replace(HEALTHY, installed={**(HEALTHY.installed or {}), "transformer-engine": te}, cudnn_version=cudnn)
    result = rules.cudnn_too_old(facts, H200)
    assert isinstance(result, Finding) is fires
    assert fires or result is None


def test_a_cudnn_release_with_a_known_fault_matters_on_blackwell() -> None:
    facts = replace(
        HEALTHY, installed={**(HEALTHY.installed or {}), "transformer-engine": "2.17.0"}, cudnn_version="9.23.1"
    )
    assert "known fault" in one(rules.cudnn_too_old(facts, B200)).title
    assert rules.cudnn_too_old(facts, H200) is None


def test_that_release_matters_too_where_the_text_speaks_of_mxfp8_attention() -> None:
    said = Claims(said=(Said("mxfp8-attention", "mxfp8 attention gives NaN"),))
    blackwell = Gpus(gpus=(Gpu(compute_capability="10.0"),))
    assert one(rules.cudnn_too_old(Libraries(cudnn_version="9.23.1"), blackwell, said)).severity is Severity.WARNING
    assert rules.cudnn_too_old(Libraries(cudnn_version="9.23.1"), blackwell) is None
    assert rules.cudnn_too_old(Libraries(cudnn_version="9.23.2"), blackwell, said) is None


def test_torch_refuses_its_cudnn() -> None:
    said = "RuntimeError: cuDNN version incompatibility: PyTorch was compiled  against (9, 10, 2) but found (9, 1, 0)"
    assert "refuses" in one(rules.cudnn_too_old(replace(HEALTHY, cudnn_error=said, cudnn_version=None), H200)).title


@pytest.mark.parametrize(("loaded", "fires"), [("12.9.1", True), ("13.1.0", False), ("13.2.0", False)])
def test_an_older_cublaslt_is_a_finding_and_a_newer_one_is_not(loaded: str, fires: bool) -> None:
    assert isinstance(rules.cublas_version(replace(HEALTHY, cublaslt_version=loaded)), Finding) is fires


def test_cublas_of_a_torch_that_names_none() -> None:
    assert isinstance(rules.cublas_version(replace(HEALTHY, torch_requires_cublas=None)), NotApplicable)


def test_loader_path_shadows_wheel() -> None:
    stray = library("libcublasLt", "/usr/local/cuda-12.4/lib64/libcublasLt.so.12", "12", "system", shadows=True)
    finding = one(rules.loader_path_shadows_wheel(replace(HEALTHY, loaded=(stray,))))
    assert "libcublasLt" in finding.title
    without_wheels = replace(HEALTHY, loaded=(stray,), installed={"torch": "2.11.0"})
    assert rules.loader_path_shadows_wheel(without_wheels) is None  # a container that was built so


def test_distribution_twice_and_overwritten() -> None:
    twice = replace(HEALTHY, duplicates={"transformer-engine": ("2.17.0", "2.20.2")})
    assert "2.17.0 and as 2.20.2" in one(rules.distribution_twice(twice)).title
    owners = ("nvidia-cudnn-cu12 9.10.2.21", "nvidia-cudnn-cu13 9.19.0.56")
    both = replace(
        HEALTHY, overwritten=(Overwritten("a/libcudnn.so.9", owners), Overwritten("a/libcudnn_ops.so.9", owners))
    )
    assert one(rules.packages_overwrite_each_other(both)).evidence[0].value == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [("9.10.2.21+x", (9, 10, 2, 21)), ("2.11.0a0", (2, 11, 0)), ("v3", (3,)), ("unknown", None), (None, None)],
)
def test_release(text: str | None, expected: tuple[int, ...] | None) -> None:
    assert release(text) == expected


# The probe


def record(site: Path, info: str, files: list[str]) -> None:
    for name in files:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("")
    with (site / info / "RECORD").open("a") as lines:
        lines.writelines(f"{name},,\n" for name in files)


def test_packages_by_their_metadata(tmp_path: Path) -> None:
    site = BrokenSite(tmp_path / "a")
    site.metadata("Flash_Attn", "2.8.3")
    site.metadata("some-private-package", "1.0")
    site.metadata("transformer-engine", "2.17.0")
    site.metadata("transformer-engine", "2.20.2")
    BrokenSite(tmp_path / "b").metadata("flash-attn", "2.7.0")  # shadowed, as an overlay of site-packages has it
    site.metadata("nvidia-cudnn-cu12", "9.10.2.21")
    site.metadata("nvidia-cudnn-cu13", "9.19.0.56")
    for info in ("nvidia_cudnn_cu12-9.10.2.21.dist-info", "nvidia_cudnn_cu13-9.19.0.56.dist-info"):
        record(tmp_path / "a", info, ["nvidia/cudnn/lib/libcudnn.so.9", "nvidia/__init__.py"])
    (tmp_path / "a" / "~orch-2.0.dist-info").mkdir()  # what pip leaves behind
    facts = installed_packages(distributions(path=[str(tmp_path / "a"), str(tmp_path / "b")]))
    assert facts.installed is not None
    assert facts.installed["flash-attn"] == "2.8.3"
    assert "some-private-package" not in facts.installed
    assert facts.duplicates == {"transformer-engine": ("2.17.0", "2.20.2")}
    assert facts.absent is not None
    assert "torchao" in facts.absent
    assert "flash-attn" not in facts.absent
    (shared,) = facts.overwritten or ()
    assert shared.file is not None
    assert shared.file.endswith("libcudnn.so.9")
    assert shared.owners == ("nvidia-cudnn-cu12 9.10.2.21", "nvidia-cudnn-cu13 9.19.0.56")


@pytest.mark.parametrize(
    ("name", "expected"), [("Transformer_Engine", "transformer-engine"), ("nvidia.cublas", "nvidia-cublas")]
)
def test_names_are_compared_as_pep_503_says(name: str, expected: str) -> None:
    assert normalized(name) == expected


MAPS = """\
7f0 r-xp 00000000 fe:00 1 /venv/lib/python3.11/site-packages/nvidia/cudnn/lib/libcudnn_engines_precompiled.so.9
7f1 r--p 00000000 fe:00 1 /venv/lib/python3.11/site-packages/nvidia/cudnn/lib/libcudnn_engines_precompiled.so.9
7f2 r-xp 00000000 fe:00 2 /usr/lib/x86_64-linux-gnu/libcuda.so.580.159.03
7f3 r-xp 00000000 fe:00 3 /opt/my libs/libcublasLt.so.12.9.1 (deleted)
7f4 r-xp 00000000 fe:00 4 /usr/lib/libcudadebugger.so.1
7f5 rw-p 00000000 00:00 0
7f6 r-xp 00000000 fe:00 5 /usr/lib/libnvrtc-builtins.so.13.0
"""


def test_the_maps_of_a_process() -> None:
    seen = {found.name: found for found in loaded_libraries(MAPS)}
    assert set(seen) == {"libcudnn_engines_precompiled", "libcuda", "libcublasLt"}
    assert (seen["libcublasLt"].version, seen["libcublasLt"].place) == ("12.9.1", "system")
    assert (seen["libcudnn_engines_precompiled"].version, seen["libcudnn_engines_precompiled"].place) == ("9", "wheel")
    assert seen["libcuda"].place == "system"


def test_versions_that_were_asked_for_replace_those_of_file_names() -> None:
    loaded = (library("libcudnn", "/a/libcudnn.so.9"), library("libcublasLt", "/a/x"), library("libcublasLt", "/b/x"))
    cudnn, first, second = with_versions(loaded, Libraries(cudnn_version="9.19.0", cublaslt_version="13.1.0"))
    assert (cudnn.version, cudnn.version_from) == ("9.19.0", "call")
    assert (first.version_from, second.version_from) == ("file name", "file name")  # which of them answered?


def test_the_place_of_a_linked_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv can link files from its cache: the loader then shows a path outside site-packages."""
    store, site = tmp_path / "archive", tmp_path / "env"
    (site / "nvidia" / "cudnn" / "lib").mkdir(parents=True)
    store.mkdir()
    (store / "libcudnn.so.9").write_text("")
    (site / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9").symlink_to(store / "libcudnn.so.9")
    monkeypatch.syspath_prepend(str(site))
    assert place_of(str(store / "libcudnn.so.9")) == "wheel"
    assert place_of(str(tmp_path / "elsewhere" / "libcudnn.so.9")) == "other"


def test_libraries_that_torch_really_loads(tmp_path: Path) -> None:
    """A torch that loads two parts of cuDNN from two folders, one of them by LD_LIBRARY_PATH."""
    site = BrokenSite(tmp_path / "site")
    first = site.library("nvidia/cudnn/lib/libcudnn.so.9", "loads")
    second = BrokenSite(tmp_path / "system").library("libcudnn_ops.so.9.23.0", "loads")
    site.module("torch", f"import ctypes\nkept = [ctypes.CDLL(p) for p in ({str(first)!r}, {str(second)!r})]\n")
    site.metadata("torch", "2.11.0", requires=("cuda-toolkit[cublas,cudart]==13.0.2", "nvidia-cudnn-cu13==9.19.0.56"))
    site.metadata("nvidia-cudnn-cu13", "9.19.0.56")
    run = site.probe(gather, environment={"LD_LIBRARY_PATH": str(second.parent)})
    facts = run.facts
    assert run.outcome == "ok", run
    assert isinstance(facts, Libraries)
    assert [(part.name, part.place, part.in_ld_library_path) for part in facts.loaded or ()] == [
        ("libcudnn", "wheel", False),
        ("libcudnn_ops", "other", True),
    ]
    assert facts.torch_requires_cublas == "nvidia-cublas"
    assert "2 folders" in one(rules.cudnn_mixed_libraries(facts)).title
    assert "libcudnn_ops" in one(rules.loader_path_shadows_wheel(facts)).title


def test_a_torch_that_crashes_on_import_costs_only_what_is_loaded(tmp_path: Path) -> None:
    site = BrokenSite(tmp_path)
    site.metadata("torch", "2.11.0", requires=("nvidia-cublas-cu12==12.8.4.1",))
    site.break_import("torch", "segfault")
    run = site.probe(gather)
    assert run.outcome == "ok", run
    assert isinstance(run.facts, Libraries)
    assert run.facts.version("torch") == "2.11.0"
    assert (run.facts.torch_use, run.facts.loaded) == ("import-failed", None)
    assert run.facts.torch_requires_cublas == "nvidia-cublas-cu12"


def test_an_environment_without_torch(tmp_path: Path) -> None:
    site = BrokenSite(tmp_path)
    site.module("torch", "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    run = site.probe(gather)
    assert isinstance(run.facts, Libraries)
    assert run.facts.torch_use == "absent"
    assert isinstance(rules.cublas_version(run.facts), NotApplicable)


def test_a_library_loaded_here_shows_up(tmp_path: Path) -> None:
    built = BrokenSite(tmp_path).library("libcudnn_cnn.so.9", "loads")
    copied = tmp_path / "copy" / built.name
    copied.parent.mkdir()
    shutil.copy(built, copied)
    handles = [ctypes.CDLL(str(path)) for path in (built, copied)]
    folders = {str(Path(found.path or "").parent) for found in loaded_libraries() if found.name == "libcudnn_cnn"}
    assert {str(built.parent), str(copied.parent)} <= folders
    assert len(handles) == 2


@pytest.mark.gpu
def test_on_a_real_gpu(tmp_path: Path) -> None:
    facts = BrokenSite(tmp_path).probe(gather).facts
    assert isinstance(facts, Libraries)
    assert facts.torch_use == "used"
    assert facts.cudnn_version
    assert facts.cublaslt_version
    assert facts.loaded_as("libcudnn_graph")


def test_a_folder_that_an_uninstallation_left_is_named(tmp_path: Path) -> None:
    packages = tmp_path / "site-packages"
    (packages / "transformer_engine" / "__pycache__").mkdir(parents=True)
    run = BrokenSite(packages).probe(gather)
    assert run.facts.left_over == {"transformer_engine": (str(packages / "transformer_engine"),)}
    finding = one(rules.left_over_folder(run.facts))
    assert finding.title == "A folder named transformer_engine is there, and no package of that name is installed"


def test_a_folder_of_ones_own_is_no_left_over(tmp_path: Path) -> None:
    (tmp_path / "clone" / "triton").mkdir(parents=True)
    assert BrokenSite(tmp_path / "clone").probe(gather).facts.left_over == {}
    (tmp_path / "site-packages" / "torchao").mkdir(parents=True)
    (tmp_path / "site-packages" / "torchao" / "README.md").write_text("mine")
    assert BrokenSite(tmp_path / "site-packages").probe(gather).facts.left_over == {}


def test_words_of_a_strangers_facts_get_into_no_command() -> None:
    assert rules.left_over_folder(Libraries(left_over={"os; os.abort()": ("/x",)})) is None


def test_a_package_is_no_left_over(tmp_path: Path) -> None:
    site = BrokenSite(tmp_path)
    site.metadata("transformer-engine-torch", "2.20.2")
    (tmp_path / "transformer_engine").mkdir()
    site.module("torchao", "")
    run = site.probe(gather)
    assert run.facts.left_over == {}
    assert rules.left_over_folder(run.facts) is None
    assert isinstance(rules.left_over_folder(Libraries()), Unknown)
