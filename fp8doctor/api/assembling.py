"""How do facts become a report?"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import fp8doctor
from fp8doctor import registry as _registry
from fp8doctor import store
from fp8doctor.judging.judge import judge
from fp8doctor.judging.report import BOX_NOT_ASKED, ProbeRecord, Report, Source, Tool
from fp8doctor.judging.silencing import EVERYTHING, Selection
from fp8doctor.model import Facts, Message, Messages, ProbeRun
from fp8doctor.plain import to_plain
from fp8doctor.registry import OWN_FACTS, Registry


@lru_cache(maxsize=1)
def knowledge() -> Registry:
    """All probes and rules, built in and plugged in."""
    return _registry.load()


def read_report(
    registry: Registry, facts: dict[str, Facts], source: Source, selection: Selection = EVERYTHING
) -> Report:
    """The report of what was read or watched, and not probed."""
    unseen = dict.fromkeys(registry.facts_types, ProbeRun[Facts]("not-observed"))
    if source == "model":
        # A text or a trace says of the box what it says; beside a model of the person's own nobody asked about it.
        unasked = ProbeRun[Facts]("skipped", detail=BOX_NOT_ASKED)
        unseen |= {key: unasked for key, probe in registry.probes.items() if not probe.for_model}
    runs = unseen | {key: ProbeRun("ok", seen) for key, seen in facts.items()}
    return report_of(registry, runs, source, store.now(), None, None, selection)


def live_report(
    registry: Registry, runs: dict[str, ProbeRun[Facts]], elapsed_s: float, source: Source, selection: Selection
) -> Report:
    """The report of what probes saw in this run, with the messages that they printed."""
    runs = {**runs, Messages.key: ProbeRun("ok", _messages(registry, runs))}
    return report_of(registry, runs, source, store.now(), round(elapsed_s, 1), None, selection)


def saved_report(registry: Registry, saved: store.Saved, source: Source, selection: Selection) -> Report:
    """The report of saved facts; of a saved report, without what it silenced.

    What was written stands where facts were left out of it: judged again, they would read as never seen.
    """
    created, kept = saved.created or store.now(), selection.with_silenced(saved.silenced)
    report = report_of(registry, saved.runs, source, created, saved.elapsed_s, saved.raw_facts, kept)
    report = dataclasses.replace(report, left_out=saved.left_out)
    if saved.judged is None:
        return report
    said = saved.judged
    shown, silenced = kept.split_records(said.findings)
    return dataclasses.replace(
        report,
        verdict=said.verdict,
        use=said.use,
        findings=shown,
        silenced=(*saved.silenced, *silenced),
        outcomes=said.outcomes,
        captions=said.captions or report.captions,
    )


def report_of(
    registry: Registry,
    runs: dict[str, ProbeRun[Facts]],
    source: Source,
    created: str,
    elapsed_s: float | None,
    raw_facts: dict[str, Any] | None,
    selection: Selection,
) -> Report:
    """Judge the facts of `runs`; `raw_facts` stand in the report in their place where they were read from a file."""
    judged = judge(registry, runs, selection)
    if raw_facts is None:
        raw_facts = {key: None if run.facts is None else to_plain(run.facts) for key, run in runs.items()}
    return Report(
        tool=Tool(fp8doctor.__version__),
        created=created,
        source=source,
        elapsed_s=elapsed_s,
        verdict=judged.verdict,
        use=judged.use,
        findings=judged.findings,
        silenced=judged.silenced,
        outcomes=judged.outcomes,
        exhibits=judged.exhibits,
        captions=judged.captions,
        probes={
            key: ProbeRecord(run.outcome, run.detail, run.stderr_tail, run.elapsed_ms, run.interpreter)
            for key, run in runs.items()
            if _is_told(registry, key, run)
        },
        facts=raw_facts,
    )


def _is_told(registry: Registry, key: str, run: ProbeRun[Facts]) -> bool:
    """Whether how a probe ended belongs into the report: not of what readers fill, nor of a model that none named."""
    probe = registry.probes.get(key)
    asked = probe is not None and not (probe.for_model and run.outcome in ("skipped", "not-observed"))
    return key not in OWN_FACTS and (asked or run.facts is not None)


def _messages(registry: Registry, runs: dict[str, ProbeRun[Facts]]) -> Messages:
    """The lines that children printed, or ended by, which some subject knows as settling a rule."""
    from fp8doctor.reading.messages import known_lines

    found: dict[Message, None] = {}
    for key, run in runs.items():
        lines = f"{run.detail or ''}\n{run.stderr_tail or ''}".splitlines()
        found.update(dict.fromkeys(known_lines(registry.error_texts, lines, key)))
    return Messages(tuple(found))
