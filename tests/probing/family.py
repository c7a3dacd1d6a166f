"""Probes that need one another, time the GPU and watch. Imported in children by its file, as a plug-in is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fp8doctor.model import Facts, ProbeRun, Request
from fp8doctor.registry import probe


@dataclass(frozen=True)
class Span(Facts):
    """When a probe ran, on the clock that all processes share, and what it was given."""

    began: float | None = None
    ended: float | None = None
    given: tuple[str, ...] = ()
    seconds_left: float | None = None


def spent(request: Request, kind: Callable[..., Any], seconds: float, **given: Any) -> Any:
    """Facts of `kind` that say when they were gathered; the workload names the keys that shall fail."""
    began = time.monotonic()
    time.sleep(seconds)
    if kind.key in (request.workload or "").split():  # type: ignore[attr-defined]
        raise RuntimeError("as asked")
    return kind(
        began, time.monotonic(), tuple(f"{name}: {value}" for name, value in given.items()), request.seconds_left
    )


# A folder in which the left and the right branch wait for one another.
MEETING = "FP8DOCTOR_TEST_MEETING"


def meet(key: str, wait_s: float = 15.0) -> None:
    """Wait until the other branch is there too, where a test names a folder to meet in."""
    if place := os.environ.get(MEETING):
        Path(place, key).touch()
        until = time.monotonic() + wait_s
        while len(list(Path(place).iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.01)


@dataclass(frozen=True)
class Root(Span, key="root"):
    pass


@dataclass(frozen=True)
class Left(Span, key="left"):
    pass


@dataclass(frozen=True)
class Right(Span, key="right"):
    pass


@dataclass(frozen=True)
class Leaf(Span, key="leaf"):
    pass


@dataclass(frozen=True)
class Tolerant(Span, key="tolerant"):
    pass


@dataclass(frozen=True)
class First(Span, key="first"):
    pass


@dataclass(frozen=True)
class Second(Span, key="second"):
    pass


@dataclass(frozen=True)
class Third(Span, key="third"):
    pass


@dataclass(frozen=True)
class Sensor(Span, key="sensor"):
    pass


@dataclass(frozen=True)
class Thorough(Span, key="thorough"):
    pass


@probe(runs_in="target", timeout_s=20)
def leaf(request: Request, left: Left, right: Right) -> Leaf:
    """The leaf."""
    made: Leaf = spent(request, Leaf, 0.0, left=left.began, right=right.began)
    return made


@probe(runs_in="target", timeout_s=20)
def tolerant(request: Request, left: Left | None, right: ProbeRun[Right]) -> Tolerant:
    """What goes on without the others."""
    made: Tolerant = spent(request, Tolerant, 0.0, left=left is not None, right=f"{right.outcome} {right.detail}")
    return made


@probe(runs_in="target", timeout_s=20)
def left(request: Request, root: Root) -> Left:
    """The left branch."""
    began = time.monotonic()
    meet("left")
    made: Left = spent(request, Left, 0.0, root=root.began)
    return replace(made, began=began)


@probe(runs_in="tool", timeout_s=20)
def right(request: Request, root: Root) -> Right:
    """The right branch."""
    began = time.monotonic()
    meet("right")
    made: Right = spent(request, Right, 0.0)
    return replace(made, began=began)


@probe(runs_in="tool", timeout_s=20)
def root(request: Request) -> Root:
    """The root."""
    made: Root = spent(request, Root, 0.0)
    return made


@probe(runs_in="target", timeout_s=20, times_gpu=True, order=2)
def second(request: Request, third: Third) -> Second:
    """Timed after the third, which it needs."""
    made: Second = spent(request, Second, 0.1, third=third.ended)
    return made


@probe(runs_in="target", timeout_s=20, times_gpu=True, order=9)
def third(request: Request) -> Third:
    """Timed last but for those that need it."""
    made: Third = spent(request, Third, 0.1)
    return made


@probe(runs_in="target", timeout_s=20, times_gpu=True, order=1)
def first(request: Request, root: Root) -> First:
    """Timed first."""
    made: First = spent(request, First, 0.1)
    return made


@probe(runs_in="tool", timeout_s=20, watches=True)
def sensor(request: Request) -> Iterator[Sensor]:
    """Watching meanwhile."""
    began = time.monotonic()
    while True:
        yield Sensor(began, time.monotonic())
        time.sleep(0.01)


@probe(runs_in="target", timeout_s=20, modes=("thorough",))
def thorough(request: Request) -> Thorough:
    """Only when there is time."""
    made: Thorough = spent(request, Thorough, 0.0)
    return made
