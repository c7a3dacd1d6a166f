"""What is the answer in one sentence, and what are the three answers behind it?"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fp8doctor.judging.advice import advise, compared_steps, effective, in_fp8
from fp8doctor.judging.outcomes import Outcome
from fp8doctor.judging.report import FindingRecord, Status, Use, VerdictRecord
from fp8doctor.model import Candidate, Clock, Settles, Severity

# Titles that begin with one of these go on in small letters after a colon; "Triton" and "Transformer" do not.
_NO_NAMES = {"A", "An", "Each", "Every", "It", "No", "None", "Nothing", "One", "Some", "The", "There", "These", "This"}

# What a factor is a factor of: the GPU's own time, or what a program waits for.
_CLOCKS: dict[Clock, str] = {"device": "on the GPU", "call": "at the call (Python's time included)"}


def decide(
    outcomes: list[Outcome],
    findings: tuple[FindingRecord, ...],
    use: tuple[Use, ...],
    candidates: Iterable[Candidate],
    said: str | None = None,
    *,
    of_a_model: bool = False,
) -> VerdictRecord:
    """Decide the status from the three answers and from what was timed, and put it in a sentence.

    `said` is what the facts answer by themselves; with the first finding it is then the sentence. `of_a_model` says
    whether they are those of a model of the person's own. An outcome whose findings are not among `findings` is
    silenced: it counts, and is not named.
    """
    # INT8 or another attention may be the better advice; whether FP8 pays is asked of FP8 and its 16-bit twins alone.
    members = compared_steps(candidates)
    fp8_and_twins = [c for c in members if c.baseline or in_fp8(c)]
    paying = [u for u in (advise(fp8_and_twins) if len(fp8_and_twins) < len(members) else use) if _pays(u)]
    hardware = _answer(outcomes, "hardware")
    software = _answer(outcomes, "software")
    runs = _answer(outcomes, "runs")
    status = _status(hardware, software, runs, paying, fp8_and_twins)
    # That there is no FP8 in the hardware is the answer, whatever else is wrong with the box.
    lacking = {o.rule.id for o in outcomes if o.rule.settles == "hardware"} if status == "unavailable" else set()
    leading = tuple(sorted(findings, key=lambda finding: finding.id not in lacking))
    if said is not None:
        shown = {finding.id for finding in findings}
        silenced = any(outcome.findings and outcome.rule.id not in shown for outcome in outcomes)
        examined = not silenced and any(outcome.name == "pass" for outcome in outcomes)
        headline = (_of_a_model if of_a_model else _recorded)(leading, said, examined)
    elif hardware is None:
        headline = _undecided(outcomes, findings)
    else:
        headline = _headline(status, leading, use, paying, runs)
    return VerdictRecord(status, headline, hardware, software, runs)


def _recorded(findings: tuple[FindingRecord, ...], said: str, examined: bool) -> str:
    """What was found in a recording and where its time went; a mere note comes second, and that nothing more is last.

    `examined` says whether any rule had something to look at and no finding was silenced: what holds no GPU activity
    is not therefore well.
    """
    titles = [finding.title for finding in findings[:1]]
    if any(finding.severity is not Severity.INFO for finding in findings):
        return " ".join(map(_sentence, (*titles, said)))
    return " ".join(map(_sentence, (said, *titles, *(["Nothing to mend was found"] if examined else []))))


def _of_a_model(findings: tuple[FindingRecord, ...], said: str, examined: bool) -> str:
    """As of a recording; the gravest cause comes first, and where that is the box's, the model's own after it.

    An error of the box may be why the model does not run; what else is amiss with it comes after the like of the model.
    """
    grave = [finding for finding in findings if finding.severity is not Severity.INFO]
    symptoms = {id for finding in grave for id in finding.explains}
    grave.sort(key=lambda f: (f.id in symptoms, f.severity.rank, f.scope == "box" and f.severity is Severity.WARNING))
    titles = [finding.title for finding in grave[:1]]
    if grave and grave[0].scope == "box":
        titles += [finding.title for finding in grave if finding.scope == "usage"][:1]
    return " ".join(map(_sentence, (*titles, said))) if grave else _recorded(findings, said, examined)


def _answer(outcomes: list[Outcome], question: Settles) -> bool | None:
    """True if every rule that settles the question passed, False if one found something, else None.

    Where the judged items (GPUs that are unlike) disagree, the answer is None and the findings name each.
    """
    asked = [o for o in outcomes if o.rule.settles == question and o.name != "not-applicable"]
    deciding = [o for o in asked if not o.unseen] or asked
    if any(o.name == "finding" and not o.mixed for o in deciding):
        return False
    if deciding and all(o.name == "pass" for o in deciding):
        return True
    return None


def _status(
    hardware: bool | None,
    software: bool | None,
    runs: bool | None,
    paying: list[Use],
    candidates: list[Candidate],
) -> Status:
    if hardware is False:
        return "unavailable"
    if hardware is None:
        return "unknown"
    if software is False or runs is False:
        return "broken"
    if runs is None:
        return "unknown"
    if paying:
        return "ready"
    timed = any(not c.baseline and c.basis == "measured" and effective(c) is not None for c in candidates)
    return "slow" if timed else "unknown"


def _pays(use: Use) -> bool:
    return use.speedup is not None and use.basis == "measured"


def _headline(
    status: Status,
    findings: tuple[FindingRecord, ...],
    use: tuple[Use, ...],
    paying: list[Use],
    runs: bool | None,
) -> str:
    cause = findings[0].title if findings else None
    error = next((f.title for f in findings if f.severity is Severity.ERROR), None)
    grave = error or cause
    if status == "ready":
        best = paying[0]
        assert best.speedup is not None
        where = f" (Linear({best.when.k}, {best.when.n}))" if best.when.k and best.when.n else ""
        if best.when.workload:
            factor = f"{best.speedup.high:.2f}x the best 16-bit configuration"
            said = f"{best.when.workload}, {best.when.text}: {factor} with {best.label}."
            return f"{said} {_sentence(cause)}" if cause else said
        speed = f"up to {best.speedup.high:.2f}x BF16's speed {_CLOCKS[best.speedup.clock]}"
        said = f"FP8 pays on this box: {speed} with {best.label}{where}."
        return f"{said} {_sentence(cause)}" if cause else said
    if status == "slow":
        said = f"FP8 runs on this box, and even its best path gains nothing over BF16{_where(use)}."
        return f"{said} {_sentence(grave)}" if grave else said
    if status == "unavailable":
        return f"No FP8 compute here: {_clause(grave)}." if grave else "This GPU has no FP8 tensor cores."
    if status == "broken":
        said = "The GPU has FP8, and the software here does not get there"
        return f"{said}: {_clause(grave)}." if grave else f"{said}."
    if runs:
        said = "FP8 runs here and is right; whether it pays was not measured."
        return f"{said} {_sentence(grave)}" if grave else said
    said = "The GPU has FP8; whether FP8 runs here was not seen"
    return f"{said}: {_clause(error)}." if error else f"{said}."


def _undecided(outcomes: list[Outcome], findings: tuple[FindingRecord, ...]) -> str:
    """Why the hardware's answer is open: an error, GPUs that are unlike, or what was not seen of them."""
    asked = [o for o in outcomes if o.rule.settles == "hardware"]
    shown = {finding.id for finding in findings}
    differing = [o for o in asked if o.mixed and o.findings]
    unlike = next((o.findings[0].title for o in differing if o.rule.id in shown), None)
    lacking = {o.rule.id for o in asked} if unlike else set()
    error = next((f.title for f in findings if f.severity is Severity.ERROR and f.id not in lacking), None)
    reasons = [o.reason for o in asked if o.name == "unknown" and o.reason and not o.unseen]
    lacks = re.compile(r"not observed: | was not observed$")
    open_ = next((reason for reason in reasons if not lacks.search(reason)), None)
    said = [f"Cannot say: {_clause(error)}."] if error else []
    if unlike:
        return " ".join([*said, _sentence(unlike)])
    grave = next((f.title for f in findings if f.severity is not Severity.INFO), None)
    if not said and open_ is None and grave:  # of a log, say, that names no GPU
        return _sentence(grave)
    if open_ is None:
        open_ = "the GPUs of this box differ" if differing else "not enough of this box was seen"
    return said[0] if said else f"Cannot say: {_clause(open_)}."


def _where(use: tuple[Use, ...]) -> str:
    """ " in flux", if only a workload's steps were advised on; else nothing."""
    workloads = {u.when.workload for u in use}
    return f" in {', '.join(sorted(map(str, workloads)))}" if workloads and None not in workloads else ""


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _clause(text: str | None) -> str:
    """A title as the rest of a sentence: no full stop, and a small letter where the first word is surely no name."""
    text = (text or "").rstrip(".")
    first, space, rest = text.partition(" ")
    return f"{first.lower()}{space}{rest}" if first in _NO_NAMES else text
