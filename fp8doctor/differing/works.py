"""Which workloads did each report measure, and which findings are of another one than the other report's?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fp8doctor.differing.gathering import Gathered
from fp8doctor.registry import Registry

# The workloads that a subject timed, by the subject's key.
BySubject = Mapping[str, frozenset[str]]
Which = Literal["before", "after"]


@dataclass(frozen=True)
class Works:
    """The workloads of both reports, as the subjects say of what they timed."""

    before: BySubject
    after: BySubject

    @property
    def apart(self) -> tuple[str, str] | None:
        """The workloads of A and of B in words, where both measured some and none is the same; None otherwise."""
        return _apart(_union(self.before), _union(self.after))

    def apart_for(self, rule_id: str, registry: Registry) -> tuple[str, str] | None:
        """The same of what this rule reads: where they lie apart its findings are of two models."""
        keys = _reads(rule_id, registry)
        return _apart(_union(self.before, keys), _union(self.after, keys))

    def in_one(self, rule_id: str, which: Which, registry: Registry) -> str | None:
        """What this report alone measured of all that the rule reads of, in words; None if the other did so too."""
        keys = _reads(rule_id, registry)
        mine, others = (self.before, self.after) if which == "before" else (self.after, self.before)
        return ", ".join(sorted(_union(mine, keys))) or None if not _union(others, keys) else None


def works_of(before: Gathered, after: Gathered) -> Works:
    """The workloads that both timed."""
    return Works(_by_subject(before), _by_subject(after))


def _by_subject(side: Gathered) -> BySubject:
    found: dict[str, set[str]] = {}
    for name, candidate in side.timed.items():
        if candidate.workload is not None:
            found.setdefault(name[0], set()).add(candidate.workload)
    return {subject: frozenset(works) for subject, works in found.items()}


def _reads(rule_id: str, registry: Registry) -> set[str]:
    rule = registry.rules.get(rule_id)
    return {need.key for need in rule.needs.values()} if rule else set()


def _union(side: BySubject, keys: set[str] | None = None) -> set[str]:
    return {work for subject, works in side.items() if keys is None or subject in keys for work in works}


def _apart(old: set[str], new: set[str]) -> tuple[str, str] | None:
    return (", ".join(sorted(old)), ", ".join(sorted(new))) if old and new and old.isdisjoint(new) else None
