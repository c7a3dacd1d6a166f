"""What is installed: every package of the repository, under one name."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import fp8doctor

ROOT = Path(__file__).resolve().parent.parent
BUILD = "import sys; from setuptools import build_meta; print(build_meta.{hook}(sys.argv[1]))"


def in_pyproject(pattern: str) -> str:
    found = re.search(pattern, (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def packages_on_disk() -> set[str]:
    found = {"fp8doctor.boxes"}
    for folder, package in ((ROOT / "fp8doctor", "fp8doctor"), (ROOT / "checks", "fp8doctor.checks")):
        for file in folder.rglob("__init__.py"):
            inner = file.parent.relative_to(folder)
            if not (package == "fp8doctor" and inner.parts[:1] == ("checks",)):  # the link
                found.add(".".join([package, *inner.parts]))
    return found


def test_the_list_of_packages_is_what_is_on_disk() -> None:
    assert ast.literal_eval(in_pyproject(r"^packages = (\[.*?\])")) == sorted(packages_on_disk())


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {file.parent for top in ("fp8doctor", "checks") for file in (ROOT / top).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_version_is_said_once_more_where_nothing_need_be_looked_up() -> None:
    assert in_pyproject(r'^version = "(.*?)"') == fp8doctor.__version__


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=100,
    )


def build(source: Path, hook: str, into: Path) -> Path:
    into.mkdir(exist_ok=True)
    built = run(sys.executable, "-c", BUILD.format(hook=hook), str(into), cwd=source)
    assert built.returncode == 0, built.stderr
    return into / built.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layout")


@pytest.fixture(scope="module")
def clone(folder: Path) -> Path:
    """What a clone holds of what is built, without what earlier builds left behind."""
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    clone = folder / "clone"
    clone.mkdir()
    for name in ("fp8doctor", "checks", "tests"):
        shutil.copytree(ROOT / name, clone / name, symlinks=True, ignore=leave)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone / name)
    return clone


@pytest.fixture(scope="module")
def wheel(clone: Path, folder: Path) -> Path:
    return build(clone, "build_wheel", folder / "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, folder: Path) -> Path:
    """The wheel as an installer unpacks it."""
    site = folder / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")}


def test_the_wheels_only_top_level_name_is_fp8doctor(wheel: Path) -> None:
    assert {name.partition("/")[0] for name in names(wheel)} == {"fp8doctor"}


def test_the_wheel_holds_every_package_and_what_is_no_module(wheel: Path) -> None:
    for package in packages_on_disk():
        assert f"{package.replace('.', '/')}/__init__.py" in names(wheel)
    assert "fp8doctor/py.typed" in names(wheel)
    for folder, inside in ((ROOT / "fp8doctor" / "schema", "schema"), (ROOT / "tests" / "boxes", "boxes")):
        for file in folder.glob("*.json"):
            assert f"fp8doctor/{inside}/{file.name}" in names(wheel)
    assert not [name for name in names(wheel) if "test" in name]


def test_a_wheel_built_from_the_source_distribution_is_the_same(clone: Path, wheel: Path, folder: Path) -> None:
    with tarfile.open(build(clone, "build_sdist", folder / "sdist")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    assert names(build(source, "build_wheel", folder / "second-wheel")) == names(wheel)


def test_a_clone_whose_links_became_text_files_builds_the_same(clone: Path, wheel: Path, folder: Path) -> None:
    flat = folder / "flat"
    shutil.copytree(clone, flat, symlinks=True)
    (flat / "fp8doctor" / "checks").unlink()
    (flat / "fp8doctor" / "checks").write_text("../checks")
    assert names(build(flat, "build_wheel", folder / "third-wheel")) == names(wheel)


def test_from_an_install_subjects_have_one_name_alone(installed: Path) -> None:
    show = "import fp8doctor.checks.gpu as subject; print(subject.__file__)"
    good = run(sys.executable, "-c", show, cwd=installed.parent, PYTHONPATH=str(installed))
    assert good.stdout.strip() == str(installed / "fp8doctor" / "checks" / "gpu" / "__init__.py"), good.stderr
    bad = run(sys.executable, "-c", "import checks", cwd=installed.parent, PYTHONPATH=str(installed))
    assert "No module named 'checks'" in bad.stderr


def test_from_an_install_the_command_runs(installed: Path) -> None:
    said = run(sys.executable, "-m", "fp8doctor", "--version", cwd=installed.parent, PYTHONPATH=str(installed))
    assert (said.returncode, said.stderr) == (0, "")
    assert fp8doctor.__version__ in said.stdout
