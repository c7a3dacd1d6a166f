"""What does an eager call of a float8 layer search the Python path for, although it is not there?

Runs in the child. The layers are on the meta device: their calls go the same way through torchao, and no kernel runs.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

from fp8doctor.checks.torchao.coverage import CONFIGS
from fp8doctor.checks.torchao.facts import PackageSearch

# How `PackageSearch.config` calls them, and their granularities in torchao.quantization.
GRANULARITIES = {"dynamic-rowwise": "PerRow", "dynamic-tensorwise": "PerTensor"}
# What torchao 0.17 and 0.18 look for; where it is, a layer on the meta device would call its kernels.
MSLK = "mslk"
TOKENS, IN_FEATURES, OUT_FEATURES = 16, 64, 32
TIMES = 50


def installed(package: str) -> bool:
    """Whether a search for the package finds it, as torchao searches."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a module of that name is there, and says nothing of where it comes from
        return package in sys.modules


def observe() -> tuple[PackageSearch, ...]:
    """Count the searches in one call of a layer of each kind, not the first one, and time such a search."""
    return tuple(_observed(how, granularity) for how, granularity in GRANULARITIES.items())


def _observed(how: str, granularity: str) -> PackageSearch:
    try:
        names = _missing(_searched_for(_layer(granularity)))
    except Exception as error:  # no FP8 hardware, or a torchao without this way
        return PackageSearch(config=how, error=f"{type(error).__name__}: {error}"[:300])
    if not names:
        return PackageSearch(config=how, searches_per_call=0)
    package, searches = Counter(names).most_common(1)[0]
    seen = PackageSearch(config=how, package=package, searches_per_call=searches, search_us=_search_us(package))
    try:
        return replace(
            seen, searches_per_call_torch=_searched_for(_layer(granularity, torch_kernels=True)).count(package)
        )
    except Exception:  # a torchao without this choice
        return seen


def _layer(granularity: str, *, torch_kernels: bool = False) -> Callable[[], object]:
    """The call of a quantised layer."""
    import torch
    from torchao import quantization

    options: dict[str, Any] = {"granularity": getattr(quantization, granularity)()}
    if torch_kernels:
        from torchao.quantization.quantize_.common import KernelPreference

        options["kernel_preference"] = KernelPreference.TORCH
    on_meta: dict[str, Any] = {"device": "meta", "dtype": torch.bfloat16}
    model = torch.nn.Sequential(torch.nn.Linear(IN_FEATURES, OUT_FEATURES, bias=False, **on_meta))
    quantization.quantize_(model, getattr(quantization, CONFIGS["dynamic"])(**options))
    x = torch.randn(TOKENS, IN_FEATURES, **on_meta)
    return lambda: model(x)


def _searched_for(call: Callable[[], object]) -> list[str]:
    """The names that the second call asks Python's finders for: whatever is asked for once is no matter."""
    import torch

    asked = _Asked()
    with torch.no_grad():
        call()
        sys.meta_path.insert(0, asked)
        try:
            call()
        finally:
            sys.meta_path.remove(asked)
    return asked.names


def _missing(names: list[str]) -> list[str]:
    there = {name: installed(name) for name in names if "." not in name}
    return [name for name in names if there.get(name) is False]


def _search_us(package: str) -> float:
    took_us = []
    for _ in range(TIMES):
        started_ns = time.perf_counter_ns()
        importlib.util.find_spec(package)
        took_us.append((time.perf_counter_ns() - started_ns) / 1e3)
    return round(median(took_us), 2)


class _Asked:
    """The first of Python's finders: it finds nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Remember the name."""
        self.names.append(name)
