"""What is a difference? The shape that people's scripts rely on (version 1.0 of the JSON)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fp8doctor.judging.report import SilencedRecord, Source, Speedup, Status
from fp8doctor.model import Clock, Estimate, Scope, Severity, TraitKind

DIFFERENCE_SCHEMA = "fp8doctor.difference"
DIFFERENCE_VERSION = "1.0"
Value = str | float | int | bool
# The same GPUs by name, others, or not known of one of the two.
Gpus = Literal["same", "different", "unknown"]
Direction = Literal["slower", "faster"]
# "certain": a finding that came or went is about this change, or what one report alone timed or advises needs this
# package. "likely": it is known to matter to what changed its speed, and in this direction, or it is another GPU.
# "coincident": it changed as well, and nothing shows that it matters.
Certainty = Literal["certain", "likely", "coincident"]


@dataclass(frozen=True)
class Side:
    """One of the two reports."""

    name: str
    captions: tuple[str, ...]
    created: str
    source: Source
    tool_version: str
    status: Status
    headline: str
    fp8_hardware: bool | None
    fp8_software: bool | None
    fp8_runs: bool | None


@dataclass(frozen=True)
class Change:
    """Something that is another in B than in A; both values were observed."""

    kind: TraitKind
    name: str
    before: Value
    after: Value
    unit: str | None = None
    fact: str | None = None
    # How a change of it changes times; None: not known to.
    why: str | None = None
    # Of a package: its other distributions, which changed in the same way.
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class NotKnown:
    """Something that one report says and the other does not: no change."""

    kind: TraitKind
    name: str
    value: Value
    # Which report does not say it.
    not_in: Literal["before", "after"]


@dataclass(frozen=True)
class TimedCase:
    """What was timed in both: the times in microseconds, and how many times as fast it is in B.

    `changed` is None where the difference is inside the noise of `margin`, a share, or of the interval of `speed`.
    """

    task: str
    config: str
    label: str
    format: str
    shape: dict[str, int]
    sweep: int | None
    clock: Clock
    waits_for_host: bool
    before: Estimate
    after: Estimate
    speed: Estimate
    margin: float
    changed: Direction | None
    # What is known of it but its size ("training", "causal attention of 32 heads of 128").
    doing: str | None = None
    # The GPU kernel that did the work, where a profiled call named it.
    kernel_before: str | None = None
    kernel_after: str | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether it is one recording in each report, which has no interval."""
        return self.before.n == self.after.n == 1

    @property
    def has_other_kernel(self) -> bool:
        """Whether another kernel did the work in B; False where either is not known."""
        known = self.kernel_before is not None and self.kernel_after is not None
        return known and self.kernel_before != self.kernel_after


@dataclass(frozen=True)
class Shift:
    """Cases that changed their speed alike: `changed` of the `compared` ones did, by `least` to `most` of the time.

    `least`, `middle` and `most` are the time in B as a multiple of that in A. A `lone` one is the only one of several
    sizes: in two runs on one box a case in two hundred does so by itself. `from_us` is told where it parts them: what
    took as long in A, or longer, changed, and what was shorter did not.
    """

    direction: Direction
    title: str
    clock: Clock
    compared: int
    changed: int
    least: float
    middle: float
    most: float
    # The case that changed most.
    example: TimedCase
    tasks: tuple[str, ...]
    configs: tuple[str, ...]
    lone: bool = False
    from_us: float | None = None
    # In so many of the changed ones another kernel did the work.
    other_kernels: int = 0


@dataclass(frozen=True)
class OneSided:
    """What was timed in one report alone."""

    label: str
    task: str
    cases: int
    only_in: Literal["before", "after"]


@dataclass(frozen=True)
class Times:
    """What was timed in both, and what of it changed, the largest first."""

    compared: int = 0
    alike: int = 0
    shifts: tuple[Shift, ...] = ()
    cases: tuple[TimedCase, ...] = ()
    one_sided: tuple[OneSided, ...] = ()
    # Why some of what both timed was not compared, in words.
    not_compared: tuple[str, ...] = ()


@dataclass(frozen=True)
class FindingChange:
    """A finding that came, went or stayed.

    "not-asked": A has it, and what it is about is installed no more in B: nothing became better.
    "not-told": one report has it, and the other could not tell or did not look; it neither came nor went.
    """

    id: str
    name: str
    what: Literal["new", "gone", "not-asked", "stayed", "not-told"]
    severity: Severity
    scope: Scope
    title: str
    about: str | None = None
    # Of one that stayed with another severity: what it was.
    severity_before: Severity | None = None
    # Which report does not tell.
    not_in: Literal["before", "after"] | None = None
    # Why the other report has no such finding, as its rule says.
    reason: str | None = None
    explains: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Advised:
    """What each report advises to use, where: None if it does not advise it."""

    label: str
    before: Speedup | None = None
    after: Speedup | None = None
    in_before: bool = False
    in_after: bool = False
    # Whose step it is advised for; None: not said.
    workload: str | None = None


@dataclass(frozen=True)
class Explanation:
    """A change that may be why, and how sure that is.

    `shifts` are the places (from 0) in `times.shifts` of what it would explain, `findings` the ids of those that came
    or went and are about it.
    """

    certainty: Certainty
    kind: TraitKind
    name: str
    before: Value
    after: Value
    unit: str | None
    text: str
    shifts: tuple[int, ...] = ()
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """What is not alike in two reports, and what may be why."""

    before: Side
    after: Side
    gpus: Gpus
    headline: str
    changes: tuple[Change, ...] = ()
    conditions: tuple[Change, ...] = ()
    not_known: tuple[NotKnown, ...] = ()
    # How many traits are alike.
    alike: int = 0
    times: Times = Times()
    finding_changes: tuple[FindingChange, ...] = ()
    # What one of the reports found and does not tell, since somebody said so: it is compared in neither.
    silenced: tuple[SilencedRecord, ...] = ()
    advice: tuple[Advised, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    # What to try first where several changes cannot be told apart, in words.
    try_first: str | None = None

    @property
    def regressions(self) -> tuple[Shift, ...]:
        """What is slower in B beyond the noise; none between unlike GPUs, whose times differ anyway."""
        if self.gpus == "different":
            return ()
        return tuple(shift for shift in self.times.shifts if shift.direction == "slower" and not shift.lone)

    def fails(self, level: Severity) -> bool:
        """Whether something is slower in B, or a finding of this severity or a graver one is new there."""
        new = (one for one in self.finding_changes if one.what == "new")
        return bool(self.regressions) or any(one.severity.rank <= level.rank for one in new)

    def to_json(self, *, redact: bool = True) -> str:
        """The difference as JSON text."""
        from fp8doctor import api

        return api.difference_to_json(self, redact=redact)

    def to_markdown(self, *, redact: bool = True) -> str:
        """The difference as Markdown for an issue."""
        from fp8doctor import api

        return api.difference_to_markdown(self, redact=redact)
