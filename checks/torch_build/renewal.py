"""Which torch should be installed here? The one that the driver serves and the GPU has code in."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fp8doctor.checks.driver import LEAST_DRIVER, Driver
from fp8doctor.checks.gpu.facts import capability
from fp8doctor.checks.libraries.facts import Libraries
from fp8doctor.checks.machine.facts import Machine
from fp8doctor.checks.torch_build.hardware import SeenGpu
from fp8doctor.model import Action

# What is round torch: it decides which one runs here.
Around = tuple[Machine | None, Driver | None, Libraries | None]
_PIP = "python -m pip install"
_INDEX = "https://download.pytorch.org/whl/"
# Engines that pin one release of torch (requirements/cuda.txt of vLLM, pyproject.toml of SGLang).
_PINNING = ("vllm", "sglang")
# Code for 10.0 and 12.0 begins with CUDA 12.8, code before 7.5 ends with CUDA 12 (release notes of 12.8 and 13.0).
_BLACKWELL, _TURING = (10, 0), (7, 5)
# It runs on every driver from 525 on, and has code for all GPUs that multiply FP8: for where nothing is known.
ANYWHERE = f"{_PIP} --upgrade torch --index-url {_INDEX}cu128"


def install(
    text: str,
    seen: Iterable[SeenGpu],
    around: Around,
    how: str = "--upgrade",
) -> Action:
    """What to do, and the command: PyPI's torch is for CUDA 13 on Linux since 2.11, and has no CUDA on Windows."""
    machine, driver, libraries = around
    engine = next((name for name in _PINNING if libraries is not None and libraries.version(name)), None)
    if engine is not None:
        return Action(f"Update {engine}, which brings its own torch; look up which driver that one needs.")
    architectures = [gpu.capability or "" for gpu in seen]
    if any(name.startswith("gfx") for name in architectures):
        return Action("Install the ROCm build that pytorch.org/get-started/locally names for this release of ROCm.")
    branch = _branch(driver)
    if branch is not None and branch < LEAST_DRIVER[12]:
        text = f"{text} First update the driver: CUDA 12 needs {LEAST_DRIVER[12]} or newer."
    index = _index([found for name in architectures if (found := capability(name))], branch, on_windows(machine))
    return Action(text, f"{_PIP} {how} torch" + (f" --index-url {_INDEX}{index}" if index else ""))


def on_windows(machine: Machine | None) -> bool:
    """Whether the box is known to run Windows itself, not WSL."""
    return bool(machine and re.match(r"(microsoft )?windows", machine.os or "", re.IGNORECASE))


def _index(capabilities: list[tuple[int, int]], branch: int | None, windows: bool) -> str | None:
    if any(found >= _BLACKWELL for found in capabilities):
        return "cu128"
    old = any(found < _TURING for found in capabilities)
    if branch is None or branch < LEAST_DRIVER[13] or old:
        return "cu126"
    return "cu130" if windows else None


def _branch(driver: Driver | None) -> int | None:
    found = re.match(r"\d+", (driver.version if driver else None) or "")
    return int(found[0]) if found else None
