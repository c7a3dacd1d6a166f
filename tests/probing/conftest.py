"""How the tests of this folder run a probe in a child."""

from __future__ import annotations

import importlib.util
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fp8doctor import store
from fp8doctor.model import Facts, ProbeRun, Request
from fp8doctor.probing.children import importable_here, run_probe
from fp8doctor.probing.schedule import child_environment
from fp8doctor.registry import Registry

Run = Callable[..., ProbeRun[Any]]


def collected(file: str) -> Registry:
    path = Path(__file__).with_name(f"{file}.py")
    registry = Registry(plugin_paths={file: str(path)})
    registry.collect(imported(file, path))
    return registry


def imported(name: str, path: Path) -> types.ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def knowledge_in() -> Callable[[str], Registry]:
    """What a module of this folder declares, known to children by its path: `knowledge_in("family")`."""
    return collected


@pytest.fixture(scope="session")
def trouble() -> Registry:
    return collected("trouble")


@pytest.fixture
def run(trouble: Registry) -> Run:
    """Run the probe `key` of trouble.py: `run(workload)`."""

    def run_it(workload: str, key: str = "trouble", deadline_s: float = 20, **options: Any) -> ProbeRun[Facts]:
        given = {
            "interpreter": sys.executable,
            "importable": importable_here(trouble.plugin_paths),
            "runs": {},
            "environment": child_environment([], None)[0],
            "decode": store.decode_facts,
            "cancel": threading.Event(),
        }
        seconds_left = options.pop("seconds_left", 60.0)
        request = Request(workload=workload, seconds_left=seconds_left)
        return run_probe(trouble.probes[key], request, deadline_s=deadline_s, **{**given, **options})

    return run_it
