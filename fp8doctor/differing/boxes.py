"""What is another box, other software, another setting in B, and what did one of the two not say?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fp8doctor.differing.gathering import Gathered, TraitName
from fp8doctor.differing.record import Change, Gpus, NotKnown, Value
from fp8doctor.model import Trait

# The order in which kinds of change are told.
KINDS = ("hardware", "software", "setting", "condition", "method")


@dataclass(frozen=True)
class Changed:
    """A change, and the traits that it is of: B's where B has one, else A's."""

    change: Change
    trait: Trait
    # Which report alone has it, where the other's list is whole and does not name it.
    only_in: Literal["before", "after"] | None = None


@dataclass(frozen=True)
class Comparison:
    """Two reports, trait by trait."""

    changed: tuple[Changed, ...]
    not_known: tuple[NotKnown, ...]
    alike: int
    gpus: Gpus


def compare(before: Gathered, after: Gathered) -> Comparison:
    """Compare all traits of both."""
    changed: list[Changed] = []
    unknown: list[NotKnown] = []
    alike = 0
    for name in dict.fromkeys([*before.traits, *after.traits]):
        listing = next(side.traits[name][1] for side in (before, after) if name in side.traits)
        old, new = before.value_of(name, listing), after.value_of(name, listing)
        trait = next((one for one in (new, old) if isinstance(one, Trait)), None)
        if trait is None:
            continue  # nobody observed it
        if old is None or new is None:
            unknown.append(NotKnown(*name, _value(trait), "before" if old is None else "after"))
        elif _alike(_value(old), _value(new), trait):
            alike += 1
        else:
            only_in = _only_in(_value(old), _value(new), before.absent_in(listing) or after.absent_in(listing))
            changed.append(Changed(_change(name, trait, _value(old), _value(new)), trait, only_in))
    changed.sort(key=lambda one: (KINDS.index(one.change.kind), one.change.why is None and not one.trait.is_identity))
    return Comparison(tuple(changed), tuple(unknown), alike, _gpus(before, after, changed))


def _value(one: Trait | str) -> Value:
    value = one.value if isinstance(one, Trait) else one
    assert value is not None, "what was not observed is not compared"
    return value


def _only_in(old: Value, new: Value, absent: str | None) -> Literal["before", "after"] | None:
    return None if absent is None else "before" if new == absent else "after" if old == absent else None


def _change(name: TraitName, trait: Trait, old: Value, new: Value) -> Change:
    return Change(*name, old, new, trait.unit, trait.fact, trait.why)


def _alike(old: Value, new: Value, trait: Trait) -> bool:
    """Whether two values are the same; the tolerance is a share of the smaller, so that it is that of both ways."""
    if isinstance(old, bool) or isinstance(new, bool) or isinstance(old, str) or isinstance(new, str):
        return old == new
    return old == new or abs(old - new) <= max(trait.points, trait.tolerance * min(abs(old), abs(new)))


def _gpus(before: Gathered, after: Gathered, changed: list[Changed]) -> Gpus:
    if any(one.trait.is_identity for one in changed):
        return "different"
    known = [any(trait.is_identity and trait.value is not None for trait, _ in side.traits.values())
             for side in (before, after)]  # fmt: skip
    return "same" if all(known) else "unknown"


def concerns(trait: Trait, words: frozenset[str]) -> bool:
    """Whether a trait concerns what these words are of (`differing.times.words_of`)."""
    return not trait.affects or not words.isdisjoint(trait.affects)
