"""What do the subjects say of one report: its traits, and all that was timed?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fp8doctor.judging.advice import effective
from fp8doctor.judging.outcomes import make
from fp8doctor.judging.relying import relied_on
from fp8doctor.judging.report import Report
from fp8doctor.model import Candidate, Facts, Listing, ProbeRun, Trait, TraitKind
from fp8doctor.plain import from_plain
from fp8doctor.registry import Registry
from fp8doctor.specs import Maker

TraitName = tuple[TraitKind, str]
# Which subject timed it, the task, the configuration, its size.
CaseName = tuple[str, str, str, tuple[tuple[str, int], ...], int | None, str | None]


@dataclass
class Gathered:
    """One report, as the subjects describe it."""

    # Each trait with the listing that it stands in.
    traits: dict[TraitName, tuple[Trait, str | None]] = field(default_factory=dict)
    # What it means that a listing does not name something; None: nothing.
    absent: dict[str, str | None] = field(default_factory=dict)
    timed: dict[CaseName, Candidate] = field(default_factory=dict)

    def value_of(self, name: TraitName, listing: str | None) -> Trait | str | None:
        """The trait of this name, the word for its absence where its listing would name it, or None: not known."""
        if name in self.traits and self.traits[name][0].value is not None:
            return self.traits[name][0]
        return self.absent_in(listing)

    def absent_in(self, listing: str | None) -> str | None:
        """The word for what this listing does not name, None if that means nothing."""
        return self.absent.get(listing) if listing is not None else None


def gather(report: Report, registry: Registry) -> Gathered:
    """Ask every subject about the report. One that fails costs itself alone, as in judging."""
    runs = relied_on(registry, typed(report, registry))
    found = Gathered()
    # What was timed and not advised first: it says more of the same case.
    for maker in sorted(registry.makers, key=lambda maker: maker.makes != "timings"):
        if maker.makes in ("exhibit", "disturbances"):
            continue
        try:
            made = make(maker, runs)
        except Exception:  # the report itself says what crashed
            continue
        if maker.makes == "traits":
            _take_traits(found, made, f"{maker.function.__module__}.{maker.function.__name__}")
        else:
            for candidate in made:
                if effective(candidate) is not None:
                    found.timed.setdefault(_name(maker, candidate), candidate)
    return found


def typed(report: Report, registry: Registry) -> dict[str, ProbeRun[Facts]]:
    """The report's facts as their types; what does not fit its type is left out."""
    runs: dict[str, ProbeRun[Facts]] = {}
    for key, facts_type in registry.facts_types.items():
        record = report.probes.get(key)
        facts = _facts(facts_type, report.facts.get(key))
        outcome = record.outcome if record else "ok" if facts is not None else "not-observed"
        runs[key] = ProbeRun(outcome, facts, record.detail if record else None)
    return runs


def _facts(facts_type: type[Facts], plain: Any) -> Facts | None:
    if not isinstance(plain, Mapping):
        return None
    try:
        return from_plain(facts_type, dict(plain))
    except TypeError:
        return None


def _take_traits(found: Gathered, made: list[Trait | Listing], where: str) -> None:
    for number, one in enumerate(made):
        listing = f"{where}:{number}" if isinstance(one, Listing) else None
        if isinstance(one, Listing) and listing is not None:
            found.absent[listing] = one.absent
        for trait in one.traits if isinstance(one, Listing) else (one,):
            name = (trait.kind, trait.name)
            # Of two that say the same, the first that was observed.
            if name not in found.traits or found.traits[name][0].value is None:
                found.traits[name] = (trait, listing)


def _name(maker: Maker, candidate: Candidate) -> CaseName:
    needs = [need.key for need in maker.needs.values()]
    size = tuple(sorted(candidate.shape.items()))
    return (needs[0] if needs else "", candidate.task, candidate.config, size, candidate.sweep, candidate.doing)
