"""Which finding is the cause, which the symptom, and in which order does a person want them?"""

from __future__ import annotations

from fp8doctor.judging.outcomes import Outcome, effective_severity
from fp8doctor.judging.report import FindingRecord


def order_findings(outcomes: list[Outcome]) -> tuple[FindingRecord, ...]:
    """Turn the findings of all rules into records: box before usage, causes before symptoms, then severity and cost.

    A rule's `explains` names are resolved to the ids of those that fired.
    """
    fired = [outcome for outcome in outcomes if outcome.findings]
    ids_by_name: dict[str, list[str]] = {}
    for outcome in fired:
        ids_by_name.setdefault(outcome.rule.name, []).append(outcome.rule.id)
    explains = {
        outcome.rule.id: tuple(
            id for name in outcome.rule.explains for id in ids_by_name.get(name, []) if id != outcome.rule.id
        )
        for outcome in fired
    }
    records = [
        FindingRecord(
            id=outcome.rule.id,
            name=outcome.rule.name,
            severity=effective_severity(outcome.rule, finding),
            scope=finding.scope or outcome.rule.scope,
            title=finding.title,
            evidence=finding.evidence,
            explains=explains[outcome.rule.id],
            actions=finding.actions,
            gain=finding.gain,
            about=finding.about,
        )
        for outcome in fired
        for finding in outcome.findings
    ]
    depth = {id: _depth(id, explains, frozenset()) for id in explains}
    return tuple(sorted(records, key=lambda r: _rank(r, depth[r.id])))


def _rank(record: FindingRecord, depth: int) -> tuple[int, int, int, float, str, str]:
    cost = record.gain.speedup if record.gain else 0.0
    return (0 if record.scope == "box" else 1, depth, record.severity.rank, -cost, record.id, record.about or "")


def _depth(id: str, explains: dict[str, tuple[str, ...]], path: frozenset[str]) -> int:
    """How many causes stand above this finding; a circle of explanations counts once."""
    if id in path:
        return 0
    causes = [cause for cause, symptoms in explains.items() if id in symptoms]
    return max((1 + _depth(cause, explains, path | {id}) for cause in causes), default=0)
