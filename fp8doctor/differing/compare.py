"""Two reports in, their difference out. Pure: no clock, no environment, no file."""

from __future__ import annotations

from collections.abc import Sequence

from fp8doctor.differing import boxes
from fp8doctor.differing.explaining import explain, what_to_try
from fp8doctor.differing.findings import compare_advice, compare_findings, is_other_advice, silenced_in
from fp8doctor.differing.gathering import gather
from fp8doctor.differing.packages import one_each, taken_along
from fp8doctor.differing.record import Change, Difference, FindingChange, Gpus, Shift, Side, TimedCase, Times
from fp8doctor.differing.shifts import shifts_of
from fp8doctor.differing.times import compare_times
from fp8doctor.differing.works import works_of
from fp8doctor.judging.report import Report
from fp8doctor.model import Severity
from fp8doctor.registry import Registry


def difference(before: Report, after: Report, registry: Registry, names: tuple[str, str] = ("A", "B")) -> Difference:
    """Compare two reports.

    Args:
        before: the report called A.
        after: the report called B.
        registry: the subjects, which know what of their facts lasts and what was timed.
        names: what the reports are called beside A and B, as their files' names.
    """
    old, new = gather(before, registry), gather(after, registry)
    found = boxes.compare(old, new)
    everything = one_each(found.changed)
    works = works_of(old, new)
    advice = compare_advice(before, after)
    lasting = [one for one in everything if one.change.kind not in ("condition", "method")]
    pairs = compare_times(old, new, [one for one in found.changed if one.change.kind == "method"])
    cases = tuple(one.case for one in pairs.compared)
    shifts = shifts_of(cases)
    findings = compare_findings(before, after, works, registry)
    # Conditions are no cause by themselves where something else is known to bring them about; they are told apart.
    explanations = explain(
        [one for one in everything if one.change.kind != "condition" or one.trait.why],
        shifts, pairs.compared, findings, found.gpus,
        tuple(taken_along(everything, old, new, advice)), is_other_advice(advice),
    )  # fmt: skip
    changes = tuple(one.change for one in lasting)
    return Difference(
        before=_side(before, names[0]),
        after=_side(after, names[1]),
        gpus=found.gpus,
        headline=_headline(found.gpus, changes, shifts, findings, cases, _advised(before, after), works.apart),
        changes=changes,
        conditions=tuple(one.change for one in found.changed if one.change.kind == "condition"),
        not_known=found.not_known,
        alike=found.alike,
        times=Times(
            compared=len(cases),
            alike=sum(case.changed is None for case in cases),
            shifts=shifts,
            cases=cases,
            one_sided=pairs.one_sided,
            not_compared=pairs.not_compared,
        ),
        finding_changes=findings,
        silenced=silenced_in(before, after),
        advice=advice,
        explanations=explanations,
        try_first=what_to_try(explanations, found.gpus),
    )


def _side(report: Report, name: str) -> Side:
    verdict = report.verdict
    return Side(
        name=name,
        captions=report.captions,
        created=report.created,
        source=report.source,
        tool_version=report.tool.version,
        status=verdict.status,
        headline=verdict.headline,
        fp8_hardware=verdict.fp8_hardware,
        fp8_software=verdict.fp8_software,
        fp8_runs=verdict.fp8_runs,
    )


def _advised(before: Report, after: Report) -> tuple[str, str] | None:
    """What each report advises first, where that is of the same work and not the same; None otherwise."""
    if not before.use or not after.use or before.use[0].when.workload != after.use[0].when.workload:
        return None
    first = (before.use[0].label, after.use[0].label)
    return first if first[0] != first[1] else None


def _headline(
    gpus: Gpus,
    changes: Sequence[Change],
    shifts: Sequence[Shift],
    findings: Sequence[FindingChange],
    cases: Sequence[TimedCase],
    first: tuple[str, str] | None,
    apart: tuple[str, str] | None,
) -> str:
    """The answer in some sentences.

    `first` is what each report advises first, where that differs, `apart` what each measured, where that is other work.
    """
    came = [one for one in findings if one.what == "new"]
    went = [one for one in findings if one.what == "gone"]
    unasked = [one for one in findings if one.what == "not-asked"]
    if not (changes or shifts or came or went or unasked or apart):
        timed = f"{len(cases)} times agree" if cases else "nothing was timed in both"
        timed = _recorded(cases) or timed
        return f"No difference in what both reports tell: nothing that lasts changed, and {timed}."
    speed = _speed(gpus, shifts, cases, apart)
    advised = f" B advises {first[1]} where A advised {first[0]}." if first else ""
    parts = [f"{len(changes)} {'thing' if len(changes) == 1 else 'things'} changed" if changes else ""]
    parts += [f"{len(came)} new finding{'s' * (len(came) != 1)}" if came else ""]
    parts += [f"{len(went)} finding{'s' * (len(went) != 1)} gone" if went else ""]
    no_more = "no longer asked, since what it is about was removed"
    if len(unasked) > 1:
        no_more = "no longer asked, since what they are about was removed"
    parts += [f"{len(unasked)} finding{'s' * (len(unasked) != 1)} {no_more}"] if unasked else []
    told = ", ".join(filter(None, parts))
    if grave := [one for one in came if one.severity is Severity.ERROR]:
        advised = f" New in B: {grave[0].title}.{advised}"
    elif untold := [one for one in findings if one.not_in == "before" and one.severity is Severity.ERROR]:
        advised = f" Wrong in B, and nothing that A tells of: {untold[0].title}.{advised}"
    return f"{speed} {told[:1].upper()}{told[1:]}.{advised}" if told else f"{speed}{advised}"


def _recorded(cases: Sequence[TimedCase]) -> str | None:
    """What two traces say of their steps; None of anything else."""
    if len(cases) != 1 or not cases[0].is_recorded:
        return None
    before, after = (estimate.median / 1e3 for estimate in (cases[0].before, cases[0].after))
    if cases[0].changed is None:
        return f"one step takes {before:.3g} and {after:.3g} ms on the GPU, which one recording each cannot tell apart"
    return f"one step takes {before:.3g} ms on the GPU in A and {after:.3g} ms in B, by one recording each"


def _speed(gpus: Gpus, shifts: Sequence[Shift], cases: Sequence[TimedCase], apart: tuple[str, str] | None) -> str:
    compared = len(cases)
    if apart:
        measured = f"A measured {apart[0]}, B {apart[1]}"
        if not compared:
            return f"{measured}: only the box can be compared."
        return f"{measured}: these are not compared. {_speed(gpus, shifts, cases, None)}"
    if recorded := _recorded(cases):
        return f"{recorded[:1].upper()}{recorded[1:]}."
    if not compared:
        return "Nothing was timed in both, so neither is known to be slower."
    slower = sum(one.changed for one in shifts if one.direction == "slower" and not one.lone)
    faster = sum(one.changed for one in shifts if one.direction == "faster" and not one.lone)
    if gpus == "different":
        return f"Other GPUs in A and B: of {compared} times B's is shorter in {faster}, longer in {slower}."
    if not slower and not faster:
        return f"No times differ beyond the noise ({compared} compared)."
    parts = [f"{slower} slower" if slower else "", f"{faster} faster" if faster else ""]
    return f"Of {compared} times compared, {' and '.join(filter(None, parts))} in B, beyond the noise."
