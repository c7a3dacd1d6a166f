"""Boxes to compare: recorded ones, and the same with one thing changed as it would be on a real box."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from fp8doctor import api
from fp8doctor.judging.report import Report

Document = dict[str, Any]
BOXES = Path(__file__).parent / "boxes"
NAMES = sorted(path.stem for path in BOXES.glob("*.json"))
TIMES = ("device_us", "call_us", "host_us", "step_ms", "host_ms", "image_s")


@cache
def _text(name: str) -> str:
    return (BOXES / f"{name}.json").read_text(encoding="utf-8")


def document(name: str = "h200") -> Document:
    """The facts file of a recorded box, to be changed."""
    found: Document = json.loads(_text(name))
    return found


@cache
def recorded(name: str = "h200") -> Report:
    """The report of a recorded box."""
    return api.diagnose(document(name))


def changed(change: Callable[[Document], None], name: str = "h200") -> Report:
    """The report of a recorded box after `change` was made to its facts (those by key)."""
    found = document(name)
    change(found["facts"])
    return api.diagnose(found)


def scale(estimate: Document | None, factor: float) -> None:
    """Make a time longer, its interval with it."""
    for part in ("median", "low", "high"):
        if estimate is not None:
            estimate[part] = estimate[part] * factor


def slower(factor: float, which: Callable[[Document], bool] = lambda case: True) -> Callable[[Document], None]:
    """A change: the linear layer's cases that `which` names take `factor` of the time, on every clock."""

    def change(facts: Document) -> None:
        for case in facts["linear"]["cases"]:
            if which(case):
                for name in TIMES:
                    scale(case.get(name), factor)

    return change


def both(*changes: Callable[[Document], None]) -> Callable[[Document], None]:
    """Several changes, one after another."""

    def change(facts: Document) -> None:
        for one in changes:
            one(facts)

    return change


def fact(path: str, value: Any) -> Callable[[Document], None]:
    """A change: one fact by its path ("gpus.gpus.0.power_limit_w")."""

    def change(facts: Document) -> None:
        *way, last = path.split(".")
        place: Any = facts
        for step in way:
            place = place[int(step)] if step.isdigit() else place[step]
        if isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value

    return change


def facts_file(path: Path, change: Callable[[Document], None] = lambda facts: None, name: str = "h200") -> Path:
    """A facts file on disk."""
    found = copy.deepcopy(document(name))
    change(found["facts"])
    path.write_text(json.dumps(found), encoding="utf-8")
    return path
