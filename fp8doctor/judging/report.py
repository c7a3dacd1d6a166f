"""What a report is: the shape that people's scripts rely on (version 1.0 of the JSON)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fp8doctor.model import Action, Basis, Clock, Evidence, Exhibit, Gain, ProbeOutcome, Scope, Severity

SCHEMA_VERSION = "1.0"
Status = Literal["ready", "slow", "unavailable", "broken", "unknown"]
OutcomeName = Literal["pass", "finding", "not-applicable", "unknown", "crashed"]
Source = Literal["live", "facts", "text", "trace", "model", "demo", "fleet"]
# Why no probe ran where a model was examined in its own process: nobody asked about the box.
BOX_NOT_ASKED = "only the command fp8doctor examines the box"


# The facts that readers of text fill, too, and that other people's scripts rely on: a shortened report keeps them.
CONTRACT_FACTS = ("gpus", "driver", "torch_build", "libraries")


@dataclass(frozen=True)
class VerdictRecord:
    """The answer: a status, one sentence, and the three questions apart."""

    status: Status
    headline: str
    fp8_hardware: bool | None = None
    fp8_software: bool | None = None
    fp8_runs: bool | None = None


@dataclass(frozen=True)
class When:
    """Where a piece of advice holds: a range of tokens M at a layer's K and N; None is "any" or "not said".

    `doing` says what is done there, where the size does not say it ("training").
    """

    text: str
    workload: str | None = None
    k: int | None = None
    n: int | None = None
    m_min: int | None = None
    m_max: int | None = None
    doing: str | None = None


@dataclass(frozen=True)
class Speedup:
    """The range of measured factors, and the clock that counts there."""

    low: float
    high: float
    clock: Clock


@dataclass(frozen=True)
class Use:
    """What to use, where, what it gives over `versus`, and the code that gets it.

    `fp8_timed` says whether FP8 (or MXFP8, NVFP4) was timed there at all: where it was not, advising BF16 does not say
    that FP8 loses. None if nothing was timed.
    """

    when: When
    config: str
    label: str
    speedup: Speedup | None
    versus: str | None
    basis: Basis
    how: str
    fp8_timed: bool | None = None
    # `versus` in words.
    versus_label: str | None = None


@dataclass(frozen=True)
class FindingRecord:
    """A finding with the identity of its rule; `explains` holds the ids of findings that are its symptoms."""

    id: str
    name: str
    severity: Severity
    scope: Scope
    title: str
    evidence: tuple[Evidence, ...] = ()
    explains: tuple[str, ...] = ()
    actions: tuple[Action, ...] = ()
    gain: Gain | None = None
    about: str | None = None


@dataclass(frozen=True)
class OutcomeRecord:
    """What became of one rule."""

    id: str
    outcome: OutcomeName
    reason: str | None = None


@dataclass(frozen=True)
class SilencedRecord:
    """A rule that found something and is not shown, by the option or the file that asked for that."""

    id: str
    name: str
    by: str


@dataclass(frozen=True)
class ProbeRecord:
    """How one probe ended."""

    outcome: ProbeOutcome
    detail: str | None = None
    stderr_tail: str | None = None
    elapsed_ms: float | None = None
    interpreter: str | None = None


@dataclass(frozen=True)
class Tool:
    """Which fp8doctor wrote this."""

    version: str
    name: str = "fp8doctor"


@dataclass(frozen=True)
class Judged:
    """What a report says of its facts, as it was written."""

    verdict: VerdictRecord
    use: tuple[Use, ...] = ()
    findings: tuple[FindingRecord, ...] = ()
    silenced: tuple[SilencedRecord, ...] = ()
    outcomes: tuple[OutcomeRecord, ...] = ()
    # The header line's pieces, which follow from facts that may be gone.
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """The whole report. `facts` are plain JSON values by key."""

    tool: Tool
    created: str
    source: Source
    verdict: VerdictRecord
    elapsed_s: float | None = None
    use: tuple[Use, ...] = ()
    findings: tuple[FindingRecord, ...] = ()
    silenced: tuple[SilencedRecord, ...] = ()
    outcomes: tuple[OutcomeRecord, ...] = ()
    exhibits: tuple[Exhibit, ...] = ()
    probes: dict[str, ProbeRecord] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    # What a paste that this report was read from had no room for, as paths ("facts.linear.cases"). Where facts are
    # among it the report says what the paste said: rules would take for unseen what was left out.
    left_out: tuple[str, ...] = ()
    # The header line's pieces; derived, and not part of the JSON contract.
    captions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        # One line: a report has some 40,000 characters, and consoles and notebooks show this of what is not printed.
        return f"<Report of fp8doctor: {self.verdict.status}, {len(self.findings)} findings: {self.verdict.headline}>"

    def to_text(self, *, verbose: bool = False, redact: bool = True) -> str:
        """The report as a terminal shows it, without colours; `verbose` also tells what one screen has no place for."""
        from fp8doctor import api

        return api.report_to_text(self, verbose=verbose, redact=redact)

    def to_json(self, *, redact: bool = True) -> str:
        """The report as JSON text (`fp8doctor schema` describes it)."""
        from fp8doctor import api

        return api.report_to_json(self, redact=redact)

    def to_markdown(self, *, redact: bool = True) -> str:
        """The report as Markdown for an issue."""
        from fp8doctor import api

        return api.report_to_markdown(self, redact=redact)

    def to_html(self, *, redact: bool = True) -> str:
        """The report as one HTML page with charts; it needs the extra `html`."""
        from fp8doctor import api

        return api.report_to_html(self, redact=redact)
