"""Which change may be why something is slower, or newly wrong, and how sure is that?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fp8doctor.differing.boxes import Changed, concerns
from fp8doctor.differing.record import Certainty, Change, Direction, Explanation, FindingChange, Gpus, Shift
from fp8doctor.differing.times import Compared
from fp8doctor.model import Severity

_RANK: dict[Certainty, int] = {"certain": 0, "likely": 1, "coincident": 2}
_KIND_RANK = ("hardware", "setting", "software", "condition", "method")
# This many names are listed where several changes cannot be told apart.
MOST_NAMES = 4


@dataclass(frozen=True)
class _Weighed:
    explanation: Explanation
    # The share of the cases it concerns that did change: a change that also concerns what stood still explains less.
    share: float = 0.0

    @property
    def place(self) -> tuple[int, bool, int, float, int]:
        one = self.explanation
        rank = _KIND_RANK.index(one.kind)
        # A condition follows from something else, which comes first.
        return _RANK[one.certainty], one.kind == "condition", -len(one.shifts), -self.share, rank


def explain(
    changed: Sequence[Changed],
    shifts: Sequence[Shift],
    compared: Sequence[Compared],
    findings: Sequence[FindingChange],
    gpus: Gpus,
    taken_along: Sequence[Explanation],
    advice_changed: bool,
) -> tuple[Explanation, ...]:
    """The changes that may be why: of times first, of advice then, of findings last, each the surest first.

    Nothing where nothing is to be explained: no time changed its speed beyond the noise, no finding that is more than
    a lesson came or went, and the advice is the same. `taken_along` is what packages took with them.

    That a change is why a time is another is never certain: two reports show what changed together, not what followed
    from what.
    """
    moved = [one for one in findings if one.what in ("new", "gone") and one.severity is not Severity.INFO]
    if not moved and not advice_changed and all(shift.lone for shift in shifts):
        return ()
    of_times: list[_Weighed] = []
    if any(not shift.lone for shift in shifts):
        able = [one for one in changed if one.change.kind != "method"]
        if gpus == "different":
            of_times = [_another_box(one, shifts) for one in able if one.trait.is_identity]
        else:
            of_times = [_of_times(one, shifts, compared) for one in able]
    ranked = tuple(one.explanation for one in sorted(of_times, key=lambda one: one.place))
    told = {one.name for one in taken_along}
    ranked = tuple(one for one in ranked if one.certainty != "coincident" or one.name not in told)
    return (*ranked, *taken_along, *_of_findings(changed, moved))


def _another_box(one: Changed, shifts: Sequence[Shift]) -> _Weighed:
    text = "another GPU has times of its own, beside which no other change can be seen in them"
    return _Weighed(_explanation(one.change, "likely", text, tuple(range(len(shifts)))))


def _of_times(one: Changed, shifts: Sequence[Shift], compared: Sequence[Compared]) -> _Weighed:
    concerned = [each for each in compared if concerns(one.trait, each.words)] if one.trait.why else []
    way = _expected(one)
    cases = [each for each in concerned if each.case.changed and way in (None, each.case.changed)]
    explained = tuple(
        number for number, shift in enumerate(shifts) if not shift.lone and any(_is_of(shift, each) for each in cases)
    )
    if explained:
        return _Weighed(_explanation(one.change, "likely", one.trait.why or "", explained), len(cases) / len(concerned))
    if not one.trait.why:
        text = "changed as well, and not known to matter"
    elif not concerned:
        text = "changed as well; nothing that it concerns was timed in both"
    else:
        text = "changed as well; what it concerns did not change its speed that way"
    return _Weighed(_explanation(one.change, "coincident", text))


def _of_findings(changed: Sequence[Changed], moved: Sequence[FindingChange]) -> Iterator[Explanation]:
    """The changes that findings which came or went are about: the findings themselves say so."""
    for one in changed:
        if ids := tuple(dict.fromkeys(finding.id for finding in moved if _is_about(finding, one.change))):
            verb = "is" if len(ids) == 1 else "are"
            yield _explanation(one.change, "certain", f"{', '.join(ids)} {verb} about it", (), ids)


def _explanation(
    change: Change, certainty: Certainty, text: str, shifts: tuple[int, ...] = (), findings: tuple[str, ...] = ()
) -> Explanation:
    return Explanation(
        certainty, change.kind, change.name, change.before, change.after, change.unit, text, shifts, findings
    )


def _expected(one: Changed) -> Direction | None:
    """What the change of a number makes of times; None if either way is possible."""
    old, new, more = one.change.before, one.change.after, one.trait.more_is
    if more is None or isinstance(old, str) or isinstance(new, str):
        return None
    return more if new > old else "faster" if more == "slower" else "slower"


def _is_of(shift: Shift, each: Compared) -> bool:
    case = each.case
    same_way = (case.changed, case.clock) == (shift.direction, shift.clock)
    return same_way and case.task in shift.tasks and case.config in shift.configs


def _is_about(finding: FindingChange, change: Change) -> bool:
    """Whether one of the finding's proofs was read where the change was, or it is about the package that changed."""
    fact = change.fact
    if finding.about == f"package:{change.name}":
        return True
    return fact is not None and any(one == fact or one.startswith((f"{fact}.", f"{fact}[")) for one in finding.facts)


def what_to_try(explanations: Sequence[Explanation], gpus: Gpus) -> str | None:
    """What to do first where several changes may be why times are others; None where that is no question."""
    able = [one for one in explanations if one.certainty == "likely" and one.kind != "condition"]
    if len(able) < 2 or gpus == "different":
        return None
    names = [one.name for one in able]
    listed = ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) <= MOST_NAMES else f"{len(names)} such things"
    return (
        f"{listed} changed together, and these two reports cannot tell them apart."
        f" Change one back at a time and measure again, first {names[0]}."
    )
