"""What a child can see: the standard library and fp8doctor by its path, and nothing that lies around."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fp8doctor
from fp8doctor.model import ProbeRun
from fp8doctor.probing.schedule import child_environment

Run = Callable[..., ProbeRun[Any]]


def words(ended: ProbeRun[Any]) -> tuple[str, ...]:
    assert (ended.outcome, ended.detail) == ("ok", None)
    assert ended.facts is not None
    found: tuple[str, ...] = ended.facts.words
    return found


def test_another_interpreter_gets_fp8doctor_by_its_path_and_nothing_of_ours(run: Run, other_python: str) -> None:
    assert words(run("looks_for_others", interpreter=other_python)) == ("trouble", "fp8doctor")


def test_the_same_holds_with_no_site_packages_at_all(run: Run, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    assert words(run("looks_for_others", interpreter=str(python))) == ("trouble", "fp8doctor")


def test_every_part_of_fp8doctor_in_a_child_is_the_running_one(run: Run, other_python: str, tmp_path: Path) -> None:
    stale = tmp_path / "fp8doctor"
    stale.mkdir()
    (stale / "__init__.py").write_text("raise RuntimeError('another fp8doctor')")
    environment, _ = child_environment([], None, {"PYTHONPATH": str(tmp_path)})
    _, _, _, *own = words(run("imports_widely", interpreter=other_python, environment=environment))
    root = str(Path(fp8doctor.__file__).parent)
    assert len(own) > 3
    assert all(entry.partition("=")[2].startswith(root) for entry in own), own


def test_sys_path_has_neither_the_scripts_folder_nor_the_working_directory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for python_path in ("", os.pathsep, f"{os.pathsep}/some/where", f"/some/where{os.pathsep}"):
        environment, _ = child_environment([], None, {"PYTHONPATH": python_path})
        path = words(run("lists_its_path", environment=environment))
        assert "" not in path
        assert str(tmp_path) not in path
        assert not [entry for entry in path if entry.endswith("/probing")]
        assert ("/some/where" in path) == ("/some/where" in python_path)


def test_pythonpath_is_kept_as_the_user_set_it(run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    environment, _ = child_environment([], None, {"PYTHONPATH": f"{first}{os.pathsep}{second}"})
    path = words(run("lists_its_path", environment=environment))
    assert path[:2] == (str(first), str(second))


def test_a_module_named_like_one_of_the_standard_library_is_not_picked_up_from_the_working_directory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wave", "json", "typing", "statistics", "psutil", "fp8doctor", "trouble"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong module')")
    monkeypatch.chdir(tmp_path)
    files = words(run("imports_widely"))
    assert not [file for file in files if str(tmp_path) in file]


def test_compile_caches_point_to_the_doctors_folder_and_the_users_are_remembered(tmp_path: Path) -> None:
    own = {"TRITON_CACHE_DIR": "/home/someone/triton", "PATH": "/bin"}
    environment, replaced = child_environment(["TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"], str(tmp_path), own)
    assert environment == {
        "PATH": "/bin",
        "TRITON_CACHE_DIR": str(tmp_path / "triton_cache_dir"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "torchinductor_cache_dir"),
    }
    assert replaced == {"TRITON_CACHE_DIR": "/home/someone/triton", "TORCHINDUCTOR_CACHE_DIR": None}
    assert child_environment(["TRITON_CACHE_DIR"], None, own) == (own, {})
