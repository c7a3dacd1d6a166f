"""Probes that wait for one another. Imported in children by its file, as a plug-in is."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Facts, Request
from fp8doctor.registry import probe


@dataclass(frozen=True)
class Hen(Facts, key="hen"):
    age: int | None = None


@dataclass(frozen=True)
class Egg(Facts, key="egg"):
    age: int | None = None


@dataclass(frozen=True)
class Omelette(Facts, key="omelette"):
    age: int | None = None


@dataclass(frozen=True)
class Narcissus(Facts, key="narcissus"):
    age: int | None = None


@dataclass(frozen=True)
class Bystander(Facts, key="bystander"):
    age: int | None = None


@dataclass(frozen=True)
class TimedHen(Facts, key="timed_hen"):
    age: int | None = None


@dataclass(frozen=True)
class TimedEgg(Facts, key="timed_egg"):
    age: int | None = None


@probe(runs_in="target", timeout_s=5)
def hen(request: Request, egg: Egg) -> Hen:
    """The hen."""
    return Hen(1)


@probe(runs_in="target", timeout_s=5)
def egg(request: Request, hen: Hen | None) -> Egg:
    """The egg."""
    return Egg(1)


@probe(runs_in="target", timeout_s=5)
def omelette(request: Request, egg: Egg) -> Omelette:
    """What comes of eggs."""
    return Omelette(1)


@probe(runs_in="target", timeout_s=5)
def narcissus(request: Request, narcissus: Narcissus) -> Narcissus:
    """Who needs himself."""
    return Narcissus(1)


@probe(runs_in="target", timeout_s=5)
def bystander(request: Request) -> Bystander:
    """Who has nothing to do with it."""
    return Bystander(1)


@probe(runs_in="target", timeout_s=5, times_gpu=True)
def timed_hen(request: Request, timed_egg: TimedEgg) -> TimedHen:
    """The hen, timed."""
    return TimedHen(1)


@probe(runs_in="target", timeout_s=5, times_gpu=True)
def timed_egg(request: Request, timed_hen: TimedHen) -> TimedEgg:
    """The egg, timed."""
    return TimedEgg(1)
