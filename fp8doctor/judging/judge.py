"""What does the doctor say? Facts in, the report's contents out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fp8doctor.judging.advice import advise
from fp8doctor.judging.causes import order_findings
from fp8doctor.judging.outcomes import judge_rules, make
from fp8doctor.judging.report import FindingRecord, OutcomeRecord, Use, VerdictRecord
from fp8doctor.judging.verdict import decide
from fp8doctor.model import Candidate, Exhibit, Facts, ProbeRun
from fp8doctor.registry import Registry


@dataclass(frozen=True)
class Judgement:
    """The judged part of a report."""

    verdict: VerdictRecord
    use: tuple[Use, ...]
    findings: tuple[FindingRecord, ...]
    outcomes: tuple[OutcomeRecord, ...]
    exhibits: tuple[Exhibit, ...]
    captions: tuple[str, ...]


def judge(registry: Registry, runs: Mapping[str, ProbeRun[Facts]]) -> Judgement:
    """Judge the facts in `runs`. Pure: the same facts give the same judgement anywhere."""
    outcomes = judge_rules(registry, runs)
    candidates: list[Candidate] = []
    exhibits: list[Exhibit] = []
    broken: list[OutcomeRecord] = [
        OutcomeRecord(f"plugin:{name}", "crashed", reason) for name, reason in registry.broken.items()
    ]
    for maker in registry.makers:
        try:
            made = make(maker, runs)
        except Exception as error:  # as with a rule: its own fault costs itself alone
            where = f"{maker.makes}:{maker.function.__name__}"
            broken.append(OutcomeRecord(where, "crashed", f"{type(error).__name__}: {error}"))
            continue
        if maker.makes == "candidates":
            candidates += made or []
        elif made is not None:
            exhibits.append(made)
    findings = order_findings(outcomes)
    use = advise(candidates)
    captions = sorted((c for run in runs.values() if run.facts and (c := run.facts.caption())), key=lambda c: c.place)
    return Judgement(
        verdict=decide(outcomes, findings, use, candidates),
        use=use,
        findings=findings,
        outcomes=tuple(OutcomeRecord(o.rule.id, o.name, o.reason) for o in outcomes) + tuple(broken),  # type: ignore[arg-type]
        exhibits=tuple(exhibits),
        captions=tuple(c.text for c in captions),
    )
