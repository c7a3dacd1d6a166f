"""Which Python is examined, and what is refused."""

from __future__ import annotations

import sys
import venv
from pathlib import Path

import pytest

from fp8doctor.probing.interpreters import NoInterpreterError, Target, choose

PYENV = Path("~/.pyenv/versions").expanduser()  # read before the home folder is exchanged


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("some") / "environment"
    venv.create(folder, symlinks=True, with_pip=False)
    return folder


def test_without_a_wish_it_is_our_own() -> None:
    assert choose(None) == Target(sys.executable, "own")


def test_an_interpreter_may_be_named_by_its_file_or_by_its_environments_folder(environment: Path) -> None:
    python = environment / "bin" / "python"
    assert choose(str(python)) == Target(str(python), "--python")
    assert choose(str(environment)) == Target(str(python), "--python")


def test_the_name_of_an_environments_interpreter_is_not_resolved(environment: Path) -> None:
    assert (environment / "bin" / "python").is_symlink()
    assert choose(str(environment)).path.startswith(str(environment))


def test_a_relative_path_and_a_tilde_are_understood(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(environment.parent)
    monkeypatch.setenv("HOME", str(environment.parent))
    assert choose("environment/bin/python").path == str(environment / "bin" / "python")
    assert choose("~/environment").path == str(environment / "bin" / "python")


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_active_environment_is_examined_when_we_live_elsewhere(
    environment: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(environment))
    assert choose(None) == Target(str(environment / "bin" / "python"), variable)


def test_an_active_environment_that_is_ours_or_is_gone_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (sys.prefix, str(tmp_path), ""):
        monkeypatch.setenv("VIRTUAL_ENV", folder)
        assert choose(None).chosen == "own"


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (None, 0, "no such file"),
        ("", 0o644, "not a Python interpreter"),
        ("", 0o755, "not a Python interpreter"),
        ("#!/bin/sh\nexit 0\n", 0o755, "not a Python interpreter"),
        ("#!/bin/sh\necho Python 3.12\n", 0o755, "not a Python interpreter"),
        ("#!/bin/sh\nhead -c 99 /dev/urandom\n", 0o755, "not a Python interpreter"),
        ("#!/no/such/python\n", 0o755, "no such file"),
        ("#!/bin/sh\necho 3.9\n", 0o755, "is Python 3.9; 3.10 or newer can be examined"),
        ("#!/bin/sh\necho 2.7\n", 0o755, "is Python 2.7; 3.10 or newer can be examined"),
    ],
)
def test_what_is_no_python_is_refused_in_one_line(tmp_path: Path, content: str | None, mode: int, said: str) -> None:
    python = tmp_path / "python"
    if content is not None:
        python.write_text(content)
        python.chmod(mode)
    with pytest.raises(NoInterpreterError) as refused:
        choose(str(python))
    assert str(refused.value) == f"{python}: {said}"


@pytest.mark.parametrize("python", ["", "no such place", "/", "/dev/null", "a\0b"])
def test_what_is_no_path_is_refused(python: str) -> None:
    with pytest.raises(NoInterpreterError):
        choose(python)


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.8", "3.9"])
def test_a_real_old_python_is_refused_with_its_version(version: str) -> None:
    found = sorted(PYENV.glob(f"{version}.*"))
    if not found:
        pytest.skip(f"no Python {version} here")
    with pytest.raises(NoInterpreterError, match=rf"is Python {version}; 3\.10 or newer"):
        choose(str(found[0]))


def test_a_refusal_does_not_wait_for_one_that_says_nothing(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nread line\n")  # would wait for a person, were there anything to read
    python.chmod(0o755)
    with pytest.raises(NoInterpreterError):
        choose(str(python))


@pytest.mark.parametrize(
    ("customized", "said"),
    [
        ("import os; os._exit(3)", "it ended with status 3"),
        ("import os, sys; sys.stderr.write('no licence\\n'); sys.stderr.flush(); os._exit(0)", "no licence"),
    ],
)
def test_a_python_that_does_not_start_is_refused_with_what_it_says(tmp_path: Path, customized: str, said: str) -> None:
    venv.create(tmp_path / "environment", symlinks=True, with_pip=False)
    (site_packages,) = tmp_path.glob("environment/lib/python*/site-packages")
    (site_packages / "sitecustomize.py").write_text(customized)
    with pytest.raises(NoInterpreterError, match=f"python: does not start: {said}"):
        choose(str(tmp_path / "environment"))


def test_a_python_that_prints_when_it_starts_is_examined(tmp_path: Path) -> None:
    venv.create(tmp_path / "environment", symlinks=True, with_pip=False)
    (site_packages,) = tmp_path.glob("environment/lib/python*/site-packages")
    (site_packages / "sitecustomize.py").write_text("print('welcome', 3.11)\nraise ImportError('and no more')")
    assert choose(str(tmp_path / "environment")).chosen == "--python"
