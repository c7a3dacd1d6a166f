"""Which findings does a person not want to be shown, and what said so?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fp8doctor.judging.outcomes import Outcome
from fp8doctor.judging.report import FindingRecord, SilencedRecord


@dataclass(frozen=True)
class Choice:
    """Rules that are named by an id, a name or the beginning of ids, and what named them ("--ignore LIN")."""

    named: str
    by: str

    def holds(self, id: str, name: str) -> bool:
        """Whether it names the rule of this id and name."""
        asked = self.named.strip()
        return bool(asked) and (id.startswith(asked.upper()) or name == asked.lower())


@dataclass(frozen=True)
class Selection:
    """The findings to show: those selected (of nothing selected, all), without those ignored.

    `again` names what is shown though an earlier report silenced it.
    """

    select: tuple[Choice, ...] = ()
    ignore: tuple[Choice, ...] = ()
    again: tuple[Choice, ...] = ()

    def silenced_by(self, id: str, name: str) -> str | None:
        """What silences the findings of a rule; None if they are shown."""
        for choice in self.ignore:
            if choice.holds(id, name):
                return choice.by
        if self.select and not any(choice.holds(id, name) for choice in self.select):
            return ", ".join(dict.fromkeys(choice.by for choice in self.select))
        return None

    def with_silenced(self, before: Iterable[SilencedRecord]) -> Selection:
        """The same, and what an earlier report silenced stays silenced, for the reason given there."""
        kept = [one for one in before if not any(choice.holds(one.id, one.name) for choice in self.again)]
        return replace(self, ignore=(*(Choice(one.id, one.by) for one in kept), *self.ignore))

    def split(self, outcomes: Iterable[Outcome]) -> tuple[list[Outcome], tuple[SilencedRecord, ...]]:
        """The outcomes whose findings are shown, and the rules that found something and are silenced."""
        shown: list[Outcome] = []
        silenced: list[SilencedRecord] = []
        for outcome in outcomes:
            by = self.silenced_by(outcome.rule.id, outcome.rule.name) if outcome.findings else None
            if by is None:
                shown.append(outcome)
            else:
                silenced.append(SilencedRecord(outcome.rule.id, outcome.rule.name, by))
        return shown, tuple(silenced)

    def split_records(
        self, findings: Sequence[FindingRecord]
    ) -> tuple[tuple[FindingRecord, ...], tuple[SilencedRecord, ...]]:
        """The same of findings that were written before."""
        by = {one.id: self.silenced_by(one.id, one.name) for one in findings}
        shown = tuple(one for one in findings if by[one.id] is None)
        silenced = {one.id: SilencedRecord(one.id, one.name, why) for one in findings if (why := by[one.id])}
        return shown, tuple(silenced.values())


EVERYTHING = Selection()
