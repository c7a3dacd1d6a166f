"""What does the doctor say? Facts in, the report's contents out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fp8doctor.judging.advice import advise
from fp8doctor.judging.causes import order_findings
from fp8doctor.judging.commands import for_examined
from fp8doctor.judging.outcomes import Outcome, effective_severity, judge_rules, make
from fp8doctor.judging.relying import relied_on, with_reasons
from fp8doctor.judging.report import FindingRecord, OutcomeRecord, SilencedRecord, Use, VerdictRecord
from fp8doctor.judging.silencing import EVERYTHING, Selection
from fp8doctor.judging.verdict import decide
from fp8doctor.model import Candidate, Caption, Exhibit, Facts, ProbeRun, Severity
from fp8doctor.observed import Model
from fp8doctor.pasted import Reading
from fp8doctor.registry import Registry
from fp8doctor.traced import Trace


@dataclass(frozen=True)
class Judgement:
    """The judged part of a report."""

    verdict: VerdictRecord
    use: tuple[Use, ...]
    findings: tuple[FindingRecord, ...]
    silenced: tuple[SilencedRecord, ...]
    outcomes: tuple[OutcomeRecord, ...]
    exhibits: tuple[Exhibit, ...]
    captions: tuple[str, ...]


def judge(registry: Registry, runs: Mapping[str, ProbeRun[Facts]], selection: Selection = EVERYTHING) -> Judgement:
    """Judge the facts in `runs`. Pure: the same facts give the same judgement anywhere.

    What `selection` silences is found all the same, and counts for the status; it is not told among the findings.
    """
    seen, runs = runs, relied_on(registry, runs)
    outcomes = with_reasons(judge_rules(registry, runs), registry, seen, runs)
    candidates: list[Candidate] = []
    exhibits: list[Exhibit] = []
    broken: list[OutcomeRecord] = [
        OutcomeRecord(f"plugin:{name}", "crashed", reason) for name, reason in registry.broken.items()
    ]
    for maker in registry.makers:
        if maker.makes not in ("candidates", "exhibit"):
            continue  # what two reports are compared by says nothing of one
        try:
            made = make(maker, runs)
        except Exception as error:  # as with a rule: its own fault costs itself alone
            broken.append(_crashed(f"{maker.makes}:{maker.function.__name__}", error))
            continue
        if maker.makes == "candidates":
            candidates += made
        else:
            exhibits += made
    captions = _captions(runs, broken)
    shown, silenced = selection.split(outcomes)
    findings = for_examined(order_findings(shown), runs)
    use = advise(candidates)
    verdict = decide(outcomes, findings, use, candidates, _said(runs, broken), of_a_model=_model(runs) is not None)
    # Hearsay of what pays is no advice to a box that is broken, or of which messages doubt the GPU.
    if verdict.fp8_software is False or _is_broken(outcomes) or _in_doubt(outcomes):
        use = tuple(one for one in use if one.basis != "known")
    return Judgement(
        verdict=replace(verdict, headline=" ".join([*_beforehand(runs), verdict.headline])),
        use=use,
        findings=findings,
        silenced=silenced,
        outcomes=tuple(OutcomeRecord(o.rule.id, o.name, o.reason) for o in outcomes) + tuple(broken),
        exhibits=tuple(exhibits),
        captions=(*captions, *_ranks(runs)),
    )


def _is_broken(outcomes: list[Outcome]) -> bool:
    """Whether an error of the box was found; that the hardware has no FP8 is none that keeps 16 bits from running."""
    return any(
        effective_severity(o.rule, finding) is Severity.ERROR and (finding.scope or o.rule.scope) == "box"
        for o in outcomes
        for finding in o.findings
        if o.rule.settles != "hardware"
    )


def _in_doubt(outcomes: list[Outcome]) -> bool:
    return any(o.rule.settles == "hardware" and o.name == "unknown" and not o.unseen for o in outcomes)


def _beforehand(runs: Mapping[str, ProbeRun[Facts]]) -> list[str]:
    """That a text is of several boxes, before what is said of the first."""
    reading = runs.get(Reading.key)
    boxes = reading.facts.boxes if reading is not None and isinstance(reading.facts, Reading) else None
    several = boxes is not None and boxes > 1
    return [f"{boxes} boxes or environments in this text; only the first was judged."] if several else []


def _said(runs: Mapping[str, ProbeRun[Facts]], broken: list[OutcomeRecord]) -> str | None:
    """What facts answer by themselves, the first that do.

    A model of the person's own answers before all others; where its step was watched and not timed, its trace after it.
    """
    answers: dict[str, str] = {}
    for key, run in runs.items():
        try:
            said = run.facts.headline() if run.facts is not None else None
        except Exception as error:
            broken.append(_crashed(f"headline:{key}", error))
            continue
        if said is not None:
            answers[key] = said
    model = _model(runs)
    if model is not None and Model.key in answers:
        watched = model.run is None and not model.on_cpu and Trace.key in answers
        return f"{answers[Model.key]}. {answers[Trace.key]}" if watched else answers[Model.key]
    return next(iter(answers.values()), None)


def _model(runs: Mapping[str, ProbeRun[Facts]]) -> Model | None:
    run = runs.get(Model.key)
    return run.facts if run is not None and isinstance(run.facts, Model) else None


def _captions(runs: Mapping[str, ProbeRun[Facts]], broken: list[OutcomeRecord]) -> tuple[str, ...]:
    captions: list[Caption] = []
    for key, run in runs.items():
        try:
            caption = run.facts.caption() if run.facts is not None else None
        except Exception as error:
            broken.append(_crashed(f"caption:{key}", error))
            continue
        if caption is not None:
            captions.append(caption)
    return tuple(caption.text for caption in sorted(captions, key=lambda caption: caption.place))


def _ranks(runs: Mapping[str, ProbeRun[Facts]]) -> list[str]:
    """Which of several files of one run the report is of."""
    trace = runs.get(Trace.key)
    ranks = trace.facts.ranks if trace is not None and isinstance(trace.facts, Trace) else None
    return [f"rank {ranks[0].rank} of {len(ranks)} files"] if ranks else []


def _crashed(where: str, error: Exception) -> OutcomeRecord:
    return OutcomeRecord(where, "crashed", f"{type(error).__name__}: {error}")
