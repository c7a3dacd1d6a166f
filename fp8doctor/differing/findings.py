"""Which findings came, went or stayed, and is the advice another?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from fp8doctor.differing.record import Advised, FindingChange
from fp8doctor.differing.works import Which, Works
from fp8doctor.judging.report import FindingRecord, Report, SilencedRecord, Speedup, Use
from fp8doctor.model import Clock
from fp8doctor.registry import Registry

# How a rule ended that looked, and found nothing.
LOOKED = ("pass", "not-applicable", "finding")
_ORDER = ("new", "gone", "not-asked", "stayed", "not-told")
Name = tuple[str, str | None]
# Which report has a finding that moved, and which does not.
_SIDES: dict[str, tuple[Which, Which]] = {"new": ("after", "before"), "gone": ("before", "after")}


def compare_findings(before: Report, after: Report, works: Works, registry: Registry) -> tuple[FindingChange, ...]:
    """The findings by their rule and what they are about: new ones first, the graver before the others.

    One whose question does not arise in B, since what it is about was uninstalled, is not gone but no longer asked.

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
            found.append(_moved(new[name], "new", before, works, registry))
        else:
            moved = _moved(old[name], "gone", after, works, registry)
            unasked = moved.what == "gone" and _is_unasked(moved.id, before, after, registry)
            found.append(replace(moved, what="not-asked") if unasked else moved)
    return tuple(sorted(found, key=lambda one: (_ORDER.index(one.what), one.severity.rank)))


def _is_unasked(rule_id: str, before: Report, after: Report, registry: Registry) -> bool:
    """Whether the rule has nothing to look at in B, and something that it read of was installed in A alone."""
    rule = registry.rules.get(rule_id)
    outcome = next((one.outcome for one in after.outcomes if one.id == rule_id), None)
    if rule is None or outcome != "not-applicable":
        return False
    return any(_was_removed(before.facts.get(need.key), after.facts.get(need.key)) for need in rule.needs.values())


def _was_removed(old: Any, new: Any) -> bool:
    """Whether facts say `installed` of something in A, and say in the same place that it is not in B."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if old.get("installed") is True and new.get("installed") is False:
            return True
        return any(_was_removed(value, new.get(name)) for name, value in old.items())
    if isinstance(old, Sequence) and isinstance(new, Sequence) and not isinstance(old, str):
        return any(_was_removed(*pair) for pair in zip(old, new, strict=False))
    return False


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
    works: Works,
    registry: Registry,
) -> FindingChange:
    outcome = next((one for one in other.outcomes if one.id == finding.id), None)
    rule = registry.rules.get(finding.id)
    needs = [need.key for need in rule.needs.values() if need.kind == "required"] if rule else []
    missing = [key for key in needs if other.facts.get(key) is None]
    ours, theirs = _SIDES[what]
    unmeasured = works.in_one(finding.id, ours, registry)
    if outcome is not None and outcome.outcome in LOOKED and not missing and unmeasured is None:
        return _record(finding, what, reason=outcome.reason)
    unasked = f"{missing[0]} was not observed" if missing else "this rule was not asked"
    if unmeasured is not None:
        unasked = f"it did not measure {unmeasured}"
    return _record(finding, "not-told", not_in=theirs, reason=(outcome.reason if outcome else None) or unasked)


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


def silenced_in(*reports: Report) -> tuple[SilencedRecord, ...]:
    """What one of the reports silences, each rule once with all that silenced it."""
    by: dict[tuple[str, str], dict[str, None]] = {}
    for one in (one for report in reports for one in report.silenced):
        by.setdefault((one.id, one.name), {})[one.by] = None
    return tuple(SilencedRecord(id, name, ", ".join(reasons)) for (id, name), reasons in by.items())


def compare_advice(before: Report, after: Report) -> tuple[Advised, ...]:
    """What each report advises, with the range of what it gives; what both advise first.

    One entry is one configuration for one workload: what is advised for another model is other advice.
    """
    old, new = _spans(before.use), _spans(after.use)
    found = [Advised(one[0], old.get(one), new.get(one), one in old, one in new, one[1]) for one in {**old, **new}]
    return tuple(sorted(found, key=lambda one: (not (one.in_before and one.in_after), not one.in_before)))


def is_comparable(advice: Sequence[Advised]) -> Callable[[Advised], bool]:
    """Which entries are of work that both reports advise something for: the others are no change of advice."""
    old, new = ({one.workload for one in advice if getattr(one, which)} for which in ("in_before", "in_after"))
    return lambda one: one.workload in old & new


def is_other_advice(advice: Sequence[Advised]) -> bool:
    """Whether something is advised in one report alone, for work that both advise something for."""
    comparable = is_comparable(advice)
    return any(one.in_before != one.in_after and comparable(one) for one in advice)


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
