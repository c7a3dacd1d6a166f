"""Which findings came, went or stayed, and is the advice another?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from fp8doctor.differing.record import Advised, FindingChange
from fp8doctor.differing.works import Works
from fp8doctor.judging.report import FindingRecord, Report, Speedup, Use
from fp8doctor.model import Clock
from fp8doctor.registry import Registry

# How a rule ended that looked, and found nothing.
LOOKED = ("pass", "not-applicable", "finding")
_ORDER = ("new", "gone", "stayed", "not-told")
Name = tuple[str, str | None]
Which = Literal["before", "after"]


def compare_findings(before: Report, after: Report, works: Works, registry: Registry) -> tuple[FindingChange, ...]:
    """The findings by their rule and what they are about: new ones first, the graver before the others.

    One that the other report's rule could not tell of, or had no facts for, is neither new nor gone; nor is one of a
    workload that the other report did not measure.
    """
    old, new = _by_name(before), _by_name(after)
    found: list[FindingChange] = []
    for name in dict.fromkeys([*new, *old]):
        if apart := works.apart_for(name[0], registry):
            found += _of_two_works(old.get(name), new.get(name), apart)
        elif name in new and name in old:
            found.append(_stayed(old[name], new[name]))
        elif name in new:
            found.append(_moved(new[name], "new", before, "before", registry))
        else:
            found.append(_moved(old[name], "gone", after, "after", registry))
    return tuple(sorted(found, key=lambda one: (_ORDER.index(one.what), one.severity.rank)))


def _by_name(report: Report) -> dict[Name, FindingRecord]:
    """Each finding once; of several that are about one thing the gravest."""
    found: dict[Name, FindingRecord] = {}
    for finding in sorted(report.findings, key=lambda finding: finding.severity.rank):
        found.setdefault((finding.id, finding.about), finding)
    return {(f.id, f.about): found[f.id, f.about] for f in report.findings}


def _of_two_works(
    old: FindingRecord | None, new: FindingRecord | None, works: tuple[str, str]
) -> Iterator[FindingChange]:
    """What each says of its own workload: the other did not look at that one."""
    sides: tuple[tuple[FindingRecord | None, Which, int], ...] = ((old, "after", 1), (new, "before", 0))
    for finding, other, number in sides:
        if finding is not None:
            reason = f"it measured {works[number]}, not {works[1 - number]}"
            yield _record(finding, "not-told", not_in=other, reason=reason)


def _stayed(old: FindingRecord, new: FindingRecord) -> FindingChange:
    was = old.severity if old.severity != new.severity else None
    return _record(new, "stayed", severity_before=was)


def _moved(
    finding: FindingRecord,
    what: Literal["new", "gone"],
    other: Report,
    which: Literal["before", "after"],
    registry: Registry,
) -> FindingChange:
    outcome = next((one for one in other.outcomes if one.id == finding.id), None)
    rule = registry.rules.get(finding.id)
    needs = [need.key for need in rule.needs.values() if need.kind == "required"] if rule else []
    missing = [key for key in needs if other.facts.get(key) is None]
    if outcome is not None and outcome.outcome in LOOKED and not missing:
        return _record(finding, what, reason=outcome.reason)
    unasked = f"{missing[0]} was not observed" if missing else "this rule was not asked"
    return _record(finding, "not-told", not_in=which, reason=(outcome.reason if outcome else None) or unasked)


def _record(
    finding: FindingRecord,
    what: Literal["new", "gone", "stayed", "not-told"],
    **more: object,
) -> FindingChange:
    return FindingChange(
        id=finding.id, name=finding.name, what=what, severity=finding.severity, scope=finding.scope,
        title=finding.title, about=finding.about, explains=finding.explains,
        facts=tuple(dict.fromkeys(evidence.fact for evidence in finding.evidence if evidence.fact)), **more,  # type: ignore[arg-type]
    )  # fmt: skip


def compare_advice(before: Report, after: Report) -> tuple[Advised, ...]:
    """What each report advises, with the range of what it gives; what both advise first.

    One entry is one configuration for one workload: what is advised for another model is other advice.
    """
    old, new = _spans(before.use), _spans(after.use)
    found = [Advised(one[0], old.get(one), new.get(one), one in old, one in new, one[1]) for one in {**old, **new}]
    return tuple(sorted(found, key=lambda one: (not (one.in_before and one.in_after), not one.in_before)))


def _spans(uses: tuple[Use, ...]) -> dict[Name, Speedup | None]:
    """What each advised configuration gives its workload, from the least to the most."""
    found: dict[Name, list[Speedup]] = {}
    for use in uses:
        found.setdefault((use.label, use.when.workload), []).extend([use.speedup] if use.speedup else [])
    return {name: _span(speedups) for name, speedups in found.items()}


def _span(speedups: list[Speedup]) -> Speedup | None:
    if not speedups:
        return None
    clock: Clock = "device" if all(one.clock == "device" for one in speedups) else "call"
    return Speedup(min(one.low for one in speedups), max(one.high for one in speedups), clock)
