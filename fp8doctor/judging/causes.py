"""Which finding is the cause, which the symptom, and in which order does a person want them?"""

from __future__ import annotations

import dataclasses

from fp8doctor.judging.outcomes import Outcome, effective_severity
from fp8doctor.judging.report import FindingRecord
from fp8doctor.model import Severity


def order_findings(outcomes: list[Outcome]) -> tuple[FindingRecord, ...]:
    """Turn the findings of all rules into records: box first, causes before symptoms, then severity and cost.

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
    # Ordered by their own severity: what is graver by itself comes before a cause that is grave for its symptoms.
    return tuple(_as_grave_as_symptoms(_causes_first(sorted(records, key=_rank), explains)))


def _as_grave_as_symptoms(records: list[FindingRecord]) -> list[FindingRecord]:
    """A cause that is told is as grave as the gravest symptom that is folded under it, or that one would go unseen."""
    gravest: dict[str, Severity] = {}
    for record in records:
        gravest[record.id] = min(record.severity, gravest.get(record.id, record.severity), key=lambda s: s.rank)

    def of(record: FindingRecord) -> Severity:
        symptoms = [gravest[id] for id in record.explains if scopes[id] == record.scope]
        return min([record.severity, *symptoms], key=lambda severity: severity.rank)

    scopes = {record.id: record.scope for record in records}
    return [
        record if record.severity is Severity.INFO else dataclasses.replace(record, severity=of(record))
        for record in records
    ]


def _rank(record: FindingRecord) -> tuple[int, int, bool, float, str, str]:
    """Box before use, the graver before the lesser; of errors what stops all programs before what stops a package."""
    cost = record.gain.speedup if record.gain else 0.0
    about = record.about or ""
    of_a_package = record.severity is Severity.ERROR and about.startswith("package:")
    return (0 if record.scope == "box" else 1, record.severity.rank, of_a_package, -cost, record.id, about)


def _causes_first(ranked: list[FindingRecord], explains: dict[str, tuple[str, ...]]) -> list[FindingRecord]:
    """Put every symptom right behind the last of its causes; a circle of explanations begins at its gravest finding.

    Causes of another scope do not count: box findings stand before usage findings.
    """
    waiting = list(ranked)
    placed: list[FindingRecord] = []

    def is_free(record: FindingRecord) -> bool:
        return not any(
            record.id in explains[cause.id] and cause.scope == record.scope and cause.id != record.id
            for cause in waiting
        )

    def place(record: FindingRecord) -> None:
        waiting.remove(record)
        placed.append(record)
        for symptom in [r for r in waiting if r.id in explains[record.id] and r.scope == record.scope]:
            if symptom in waiting and is_free(symptom):
                place(symptom)

    while waiting:
        place(next((record for record in waiting if is_free(record)), waiting[0]))
    return sorted(placed, key=lambda r: 0 if r.scope == "box" else 1)
