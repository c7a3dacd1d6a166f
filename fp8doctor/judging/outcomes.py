"""What does each rule say of these facts?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fp8doctor.judging.report import BOX_NOT_ASKED, OutcomeName
from fp8doctor.model import (
    Action,
    Candidate,
    Evidence,
    Exhibit,
    Facts,
    Finding,
    Listing,
    Messages,
    NotApplicable,
    NotObservedError,
    ProbeRun,
    RuleResult,
    Severity,
    Trait,
    Unknown,
)
from fp8doctor.observed import Model
from fp8doctor.registry import Registry
from fp8doctor.reliance import Disturbance
from fp8doctor.specs import Maker, Makes, Need, Rule
from fp8doctor.traced import Trace

Runs = Mapping[str, ProbeRun[Facts]]
_MADE: dict[Makes, tuple[type[Any], ...]] = {
    "candidates": (Candidate,),
    "exhibit": (Exhibit,),
    "traits": (Trait, Listing),
    "timings": (Candidate,),
    "disturbances": (Disturbance,),
}

_ON_THE_CPU = "the step ran on the CPU, and this is asked of a GPU"
_CONTRADICTS = "a message contradicts what was seen (is another GPU in the box, or in the text?)"


@dataclass(frozen=True)
class Outcome:
    """What became of one rule: its name, the findings, and whether the judged items disagreed."""

    rule: Rule
    name: OutcomeName
    reason: str | None = None
    findings: tuple[Finding, ...] = ()
    # Some items (GPUs, say) passed and others did not.
    mixed: bool = False
    # Its facts are none that this source has (a trace knows no torch build): it does not speak against who saw more.
    unseen: bool = False


class MissingFactsError(Exception):
    """A function needs facts that are not there; the text says why, `unseen` whether nobody looked."""

    def __init__(self, why: str, unseen: bool) -> None:
        super().__init__(why)
        self.unseen = unseen


def judge_rules(registry: Registry, runs: Runs) -> list[Outcome]:
    """Run every rule on the facts in `runs`; a rule that raises is "crashed" and costs itself alone."""
    probes = registry.probes
    unprobed = {key for key in registry.facts_types if key not in probes or probes[key].for_model}
    return [_with_messages(registry, _judge(rule, runs, unprobed), runs) for rule in registry.rules.values()]


def arguments(needs: Mapping[str, Need], runs: Runs) -> dict[str, Any]:
    """The keyword arguments that `needs` describe.

    Raises:
        MissingFactsError: if required facts are missing.
    """
    found: dict[str, Any] = {}
    for name, need in needs.items():
        run = runs.get(need.key) or ProbeRun("not-observed")
        if need.kind == "run":
            found[name] = run
        elif need.kind == "required" and run.facts is None:
            raise MissingFactsError(_why_missing(need.key, run), run.outcome == "not-observed")
        else:
            found[name] = run.facts
    return found


def make(maker: Maker, runs: Runs) -> list[Any]:
    """Call a maker; nothing if facts it needs are missing or were not observed.

    Raises:
        TypeError: if it made something else than it is marked for.
    """
    try:
        made = maker.function(**arguments(maker.needs, runs))
    except (MissingFactsError, NotObservedError):
        return []
    things = list(made or []) if maker.makes != "exhibit" else [] if made is None else [made]
    wanted = _MADE[maker.makes]
    for thing in things:
        if not isinstance(thing, wanted):
            raise TypeError(f"it made a {type(thing).__name__}")
    return things


def _why_missing(key: str, run: ProbeRun[Facts]) -> str:
    if run.outcome == "not-observed":
        return f"{key} was not observed"
    if run.outcome == "skipped":
        return f"{key} was not examined: {run.detail}"
    return f"the probe of {key} ended by {run.outcome}" + (f" ({run.detail})" if run.detail else "")


def _judge(rule: Rule, runs: Runs, unprobed: set[str]) -> Outcome:
    # What only a text, a trace or a model of the person's own can say is no question where there is none.
    unread = [
        need.key for need in rule.needs.values() if need.kind == "required" and need.key in unprobed - _seen(runs)
    ]
    if unread:
        return Outcome(rule, "not-applicable", f"no {unread[0]} was read")
    if _not_asked(rule, runs):
        return Outcome(rule, "not-applicable", BOX_NOT_ASKED)
    try:
        outcome = _outcome(rule, rule.function(**arguments(rule.needs, runs)))
    except MissingFactsError as missing:
        return Outcome(rule, "unknown", str(missing), unseen=missing.unseen)
    except Exception as error:  # a rule's own fault must not take the report down
        return Outcome(rule, "crashed", f"{type(error).__name__}: {error}")
    # That the question does not arise it may say without facts; that it cannot tell is then no news.
    if outcome.name == "unknown" and (unseen := _unseen(rule, runs, unprobed)) is not None:
        return Outcome(rule, "unknown", _why_missing(unseen, ProbeRun("not-observed")), unseen=True)
    if outcome.name == "unknown" and _is_of_a_trace(rule) and _ran_on_the_cpu(runs):
        return Outcome(rule, "not-applicable", _ON_THE_CPU)
    return outcome


def _not_asked(rule: Rule, runs: Runs) -> bool:
    """Whether the rule is about the box, where nobody asked about it: it needs what no probe saw, or has nothing else.

    A rule that looks at a model, and at the box only if that is known, is judged.
    """
    unasked = [need for need in rule.needs.values() if _is_unasked(runs.get(need.key))]
    sees_another = not _seen(runs).isdisjoint(need.key for need in rule.needs.values())
    return any(need.kind == "required" for need in unasked) or (bool(unasked) and not sees_another)


def _is_unasked(run: ProbeRun[Facts] | None) -> bool:
    return run is not None and run.outcome == "skipped" and run.detail == BOX_NOT_ASKED


def _is_of_a_trace(rule: Rule) -> bool:
    return any(need.key == Trace.key and need.kind == "required" for need in rule.needs.values())


def _ran_on_the_cpu(runs: Runs) -> bool:
    """Whether a model's step was recorded on the CPU: that its trace holds no GPU activity is then no gap in it."""
    model, trace = (runs[key].facts if key in runs else None for key in (Model.key, Trace.key))
    return isinstance(model, Model) and model.on_cpu and isinstance(trace, Trace) and trace.accelerator == "cpu"


def _unseen(rule: Rule, runs: Runs, unprobed: set[str]) -> str | None:
    """The first of a rule's facts, where nobody looked at any of them; None if somebody did.

    What a rule can do without says nothing of that, unless it can do without everything.
    """
    needed = [need.key for need in rule.needs.values() if need.kind != "optional"]
    keys = needed or [need.key for need in rule.needs.values()]
    if any(key in runs and runs[key].outcome != "not-observed" for key in keys):
        return None
    return next((key for key in keys if key not in unprobed), None)


def _seen(runs: Runs) -> set[str]:
    return {key for key, run in runs.items() if run.facts is not None}


def _outcome(rule: Rule, result: RuleResult) -> Outcome:
    verdicts = result if isinstance(result, list) else [result]
    findings = tuple(v for v in verdicts if isinstance(v, Finding))
    unknowns = [v for v in verdicts if isinstance(v, Unknown)]
    passes = [v for v in verdicts if v is None]
    not_applicable = [v for v in verdicts if isinstance(v, NotApplicable)]
    strangers = [v for v in verdicts if not isinstance(v, (Finding, Unknown, NotApplicable, type(None)))]
    if strangers:
        raise TypeError(f"the rule returned a {type(strangers[0]).__name__}")
    if findings:
        return Outcome(rule, "finding", None, findings, mixed=bool(passes or unknowns))
    if unknowns:
        return Outcome(rule, "unknown", "; ".join(dict.fromkeys(u.reason for u in unknowns)))
    if not_applicable and not passes:
        return Outcome(rule, "not-applicable", "; ".join(dict.fromkeys(v.reason for v in not_applicable)))
    return Outcome(rule, "pass")


def _with_messages(registry: Registry, outcome: Outcome, runs: Runs) -> Outcome:
    """A literal message settles its rule even where the rule's facts are missing.

    What the hardware has is no question of what was printed: against facts that show it, a message is a riddle.
    """
    run = runs.get(Messages.key)
    if outcome.name == "finding" or run is None or not isinstance(run.facts, Messages):
        return outcome
    seen = [m for m in run.facts.messages if m.rule == outcome.rule.id]
    if not seen:
        return outcome
    if outcome.name == "pass" and outcome.rule.settles == "hardware":
        return Outcome(outcome.rule, "unknown", f"{_CONTRADICTS}: {seen[0].text}")
    texts = [t for t in registry.error_texts if t.rule == outcome.rule.id]
    fixes = [t for t in texts if any(re.search(t.pattern, m.text) for m in seen)]
    first = next((t for t in fixes if re.search(t.pattern, seen[0].text)), None)
    finding = Finding(
        title=(first.title if first else None) or outcome.rule.title,
        evidence=tuple(Evidence(f"{m.source} printed: {m.text}", fact="messages") for m in seen[:3]),
        actions=tuple(Action(t.fix, t.command) for t in fixes[:2]),
    )
    return Outcome(outcome.rule, "finding", None, (finding,))


def effective_severity(rule: Rule, finding: Finding) -> Severity:
    """A finding may lower its rule's severity, never raise it."""
    if finding.severity is None:
        return rule.severity
    return max(rule.severity, finding.severity, key=lambda severity: severity.rank)
