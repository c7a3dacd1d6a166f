"""What every test may count on: a home of its own, and tests that lack what they need are skipped and say so."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from fp8doctor.reporting import html
from tests import browser

# A machine that also runs children is slow now and then; that is no failure.
hypothesis.settings.register_profile(
    "fp8doctor", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("fewer", hypothesis.settings.get_profile("fp8doctor"), max_examples=25)
hypothesis.settings.load_profile("fewer" if os.environ.get("FP8DOCTOR_FEWER_EXAMPLES") else "fp8doctor")

# Set by .ci/run where torch and the libraries of models were installed: a test that is skipped for want of one of them
# is a fault of the set-up there.
REQUIRE_TORCH = "FP8DOCTOR_REQUIRE_TORCH"
REQUIRED = ("torch", "torchao", "diffusers", "transformers", "accelerate", "peft", "torchmetrics", "PIL")
# The same of a browser and of axe-core, which looks for barriers in a page.
REQUIRE_BROWSER = "FP8DOCTOR_REQUIRE_BROWSER"
# Read before the home folder is exchanged.
PYENV = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    has_torch = importlib.util.find_spec("torch") is not None
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if os.environ.get(REQUIRE_TORCH) and missing:
        raise pytest.UsageError(f"{REQUIRE_TORCH} is set, and this Python has no {', '.join(missing)}")
    if os.environ.get(REQUIRE_TORCH) and not has_charts():
        raise pytest.UsageError(f"{REQUIRE_TORCH} is set, and this Python cannot draw charts (the extra html)")
    if os.environ.get(REQUIRE_BROWSER) and (lacking := browser.missing()):
        raise pytest.UsageError(f"{REQUIRE_BROWSER} is set, and there is no {lacking}")
    has_gpu = has_torch and any(item.get_closest_marker("gpu") for item in items) and _cuda_is_available()
    for item in items:
        if item.get_closest_marker("torch") and not has_torch:
            item.add_marker(pytest.mark.skip(reason="needs torch"))
        if item.get_closest_marker("charts") and not has_charts():
            item.add_marker(pytest.mark.skip(reason="needs the extra html"))
        if item.get_closest_marker("browser") and (lacking := browser.missing()):
            item.add_marker(pytest.mark.skip(reason=f"needs {lacking}"))
        if item.get_closest_marker("gpu") and not has_gpu:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU and a CUDA build of torch"))


def has_charts() -> bool:
    """Whether the extra `html` is here."""
    return all(importlib.util.find_spec(module) for module in html.NEEDS)


def _cuda_is_available() -> bool:
    import torch

    return bool(torch.cuda.is_available())


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home and cache folder that are gone afterwards, and no environment that happens to be active."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("XDG_CACHE_HOME", str(folder / ".cache"))
        for variable in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "FORCE_COLOR", "NO_COLOR"):
            patch.delenv(variable, raising=False)
        yield folder


@pytest.fixture(scope="session")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has the standard library and nothing else: another version's where there is one."""
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for python in sorted(PYENV.glob("versions/3.1[0-9].*/bin/python")):
        if f"/{own}." not in str(python) and _has_nothing_installed(python):
            return str(python)
    folder = tmp_path_factory.mktemp("bare") / "environment"
    venv.create(folder, symlinks=True, with_pip=False)
    return str(folder / "bin" / "python")


def _has_nothing_installed(python: Path) -> bool:
    ask = "from importlib.metadata import distributions; print(*{d.metadata['Name'] for d in distributions()})"
    answer = subprocess.run([python, "-c", ask], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return answer.returncode == 0 and set(answer.stdout.split()) <= {"pip", "setuptools"}
