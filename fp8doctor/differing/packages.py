"""Which distributions are one package, and what does a package take with it that only one report has?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from fp8doctor.differing.boxes import Changed
from fp8doctor.differing.findings import is_comparable
from fp8doctor.differing.gathering import Gathered
from fp8doctor.differing.record import Advised, Explanation


def one_each(changed: Sequence[Changed]) -> list[Changed]:
    """The changes, with distributions that changed along with the one whose name they lengthen told as its parts."""
    found: list[Changed] = []
    for one in changed:
        if any(_is_part(one, other) for other in changed):
            continue
        parts = tuple(other.change.name for other in changed if _is_part(other, one))
        found.append(replace(one, change=replace(one.change, parts=parts)) if parts else one)
    return found


def _is_part(one: Changed, whole: Changed) -> bool:
    part, change = one.change, whole.change
    if part.kind != "software" or not part.name.startswith(f"{change.name}-") or one.trait.why != whole.trait.why:
        return False
    return (part.kind, part.before, part.after) == (change.kind, change.before, change.after)


def taken_along(
    changed: Sequence[Changed], before: Gathered, after: Gathered, advice: Sequence[Advised]
) -> Iterator[Explanation]:
    """The packages that one report alone has, where it timed or advises what needs them, and the other does not."""
    comparable = is_comparable(advice)
    for one in changed:
        if one.change.kind != "software" or one.only_in is None:
            continue
        here, there = (before, after) if one.only_in == "before" else (after, before)
        # Where the other timed nothing of the kind, that the package is not there is not why.
        both = {name[:2] for name in there.timed}
        names = _names(one, here)
        needing = [(name, each) for name, each in here.timed.items() if name[:2] in both and names & set(each.requires)]
        alone = sum(name not in there.timed for name, _ in needing)
        uses = {(each.label, each.workload) for _, each in needing}
        labels = [each.label for each in advice if (each.label, each.workload) in uses and comparable(each)
                  and not (each.in_before if one.only_in == "after" else each.in_after)]  # fmt: skip
        if alone or labels:
            yield _explanation(one, alone, labels)


def _names(one: Changed, side: Gathered) -> set[str]:
    """The words for the package itself in what a configuration requires; a word for another package is that one's."""
    name, affects = one.change.name, set(one.trait.affects)
    others = {other for _, other in side.traits if other != name}
    return {name} | (affects - others if name in affects else set())


def _explanation(one: Changed, cases: int, labels: Sequence[str]) -> Explanation:
    letter = "A" if one.only_in == "before" else "B"
    was = "case that needs it was" if cases == 1 else "cases that need it were"
    told = [f"{cases} {was} timed there alone"] if cases else []
    told += [f"{', '.join(labels)} {'is' if len(labels) == 1 else 'are'} advised there alone"] if labels else []
    change = one.change
    return Explanation(
        "certain", change.kind, change.name, change.before, change.after, change.unit,
        f"{letter} alone has it: {', and '.join(told)}",
    )  # fmt: skip
