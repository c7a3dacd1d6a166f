"""The vocabulary: what probes observe, what rules say, and what advice is made of.

Only the standard library is imported here: this module also runs inside the examined environment.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

T = TypeVar("T")
FactsT = TypeVar("FactsT", bound="Facts")


class Severity(str, enum.Enum):
    """How much a finding matters: an error stops FP8 or makes it useless, a warning costs, info teaches."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for the gravest, growing as it matters less."""
        return list(Severity).index(self)


Scope = Literal["box", "usage"]
Settles = Literal["hardware", "software", "runs"]
Basis = Literal["measured", "estimated", "known"]
Clock = Literal["device", "call"]
Mode = Literal["quick", "default", "thorough", "bench", "fleet"]
# How the words begin for what was ended: a step of which nothing was heard, and a probe as a whole.
NO_ANSWER = "no answer"
NO_END = "no end"

ProbeOutcome = Literal["ok", "exception", "timeout", "signal", "exit", "garbage", "skipped", "not-observed"]
ExhibitKind = Literal["bars", "table", "heatmap", "lines", "roofline"]
TraitKind = Literal["hardware", "software", "setting", "condition", "method"]


class Facts:
    """Plain data that one probe observed, known in the report under its `key`.

    Subclasses are frozen dataclasses of str, int, float, bool, tuple, dict with str keys and nested dataclasses.
    Every field defaults to None, which means "not observed"; where "there is none" was itself observed, a value says
    so (an empty tuple, for example).
    """

    key: ClassVar[str]

    def __init_subclass__(cls, key: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if key is not None:
            cls.key = key

    def caption(self) -> Caption | None:
        """The words of these facts in the report's header line, if they have any."""
        return None

    def headline(self) -> str | None:
        """What these facts answer by themselves, in a sentence: of a recording, where the time went."""
        return None


@dataclass(frozen=True)
class Caption:
    """A piece of the header line; pieces are shown in ascending `place`."""

    place: int
    text: str


@dataclass(frozen=True)
class Shape:
    """One linear layer's GEMM: (M x K) activations times (K x N) weights; M counts tokens."""

    m: int
    k: int
    n: int

    def __str__(self) -> str:
        return f"{self.m}x{self.k}x{self.n}"


@dataclass(frozen=True)
class Request:
    """What the person asked for, as every probe receives it."""

    mode: Mode = "default"
    gpu: int = 0
    shapes: tuple[Shape, ...] = ()
    workload: str | None = None
    # Of a benchmark: the configurations wanted (none: all), whether the model has its true depth, the share of steps
    # that a step cache is taken to skip; the folder of a pipeline, what it draws in how many steps, and where to.
    rungs: tuple[str, ...] = ()
    full: bool = False
    hit_rate: float | None = None
    pipeline: str | None = None
    prompt: str | None = None
    steps: int | None = None
    output_dir: str | None = None
    # A model of the person's own: "package.module:factory", what it is called with ("1x4096:int64", none: the factory
    # says it), the folder that the module is looked for in, and where the profiler's trace of its step is written.
    model: str | None = None
    model_inputs: tuple[str, ...] = ()
    model_folder: str | None = None
    trace_file: str | None = None
    # Whether the best of what is tried is put into the whole model and measured.
    check_plan: bool = False
    # Until the run's budget is spent, counted from the start of this child.
    seconds_left: float = 60.0
    # time.monotonic() when the run began; sensors and timed cases count their seconds from it.
    epoch_s: float = 0.0
    # Where compiled kernels are kept; None: nowhere that lasts.
    cache_dir: str | None = None
    # Cache variables as the user had them, before the doctor pointed them at its own folder.
    replaced_environment: dict[str, str | None] = field(default_factory=dict)
    # The record that an earlier child of this probe left behind, and what ended that child.
    so_far: dict[str, Any] | None = None
    so_far_ended: str | None = None


@dataclass(frozen=True)
class ProbeRun(Generic[FactsT]):
    """How a probe ended: its facts as far as they came, and what stopped it if something did."""

    outcome: ProbeOutcome
    facts: FactsT | None = None
    detail: str | None = None
    stderr_tail: str | None = None
    elapsed_ms: float | None = None
    interpreter: str | None = None

    @property
    def failed(self) -> bool:
        """True if the examined subject itself ended the probe (and not the mode, the budget or the source)."""
        return self.outcome in ("exception", "timeout", "signal", "exit", "garbage")


@dataclass(frozen=True)
class Evidence:
    """One observation behind a finding; `fact` is the path of the fact it was read from."""

    text: str
    value: float | int | str | bool | None = None
    unit: str | None = None
    fact: str | None = None


@dataclass(frozen=True)
class Action:
    """What to do; `command` can be pasted, `safe` says that it changes nothing but this user's environment."""

    text: str
    command: str | None = None
    safe: bool = True


@dataclass(frozen=True)
class Gain:
    """What an action gives: a factor over the configuration `versus` (a slug), and how that factor is known."""

    speedup: float
    versus: str
    basis: Basis
    # `versus` in words.
    versus_label: str | None = None


@dataclass(frozen=True)
class Finding:
    """What a rule found. The rule's decorator adds id, name and the highest severity; a finding may lower it."""

    title: str
    evidence: tuple[Evidence, ...] = ()
    actions: tuple[Action, ...] = ()
    gain: Gain | None = None
    about: str | None = None
    severity: Severity | None = None
    scope: Scope | None = None


@dataclass(frozen=True)
class Unknown:
    """A rule could not tell, and why: what was not measured never reads as passed."""

    reason: str


@dataclass(frozen=True)
class NotApplicable:
    """The question of a rule does not arise here, and why."""

    reason: str


Verdict = Finding | Unknown | NotApplicable | None
RuleResult = Verdict | list[Verdict]


class NotObservedError(Exception):
    """A rule needed a value that nobody observed; judging turns this into `Unknown`."""


def observed(value: T | None, what: str) -> T:
    """Return `value`, or end the rule with `Unknown` if it was not observed.

    Args:
        value: a field of some facts.
        what: the field in words ("the GPU's power limit"), for the reason.

    Raises:
        NotObservedError: if `value` is None.
    """
    if value is None:
        raise NotObservedError(f"not observed: {what}")
    return value


def per_item(items: Iterable[T], judge: Callable[[T], Verdict]) -> RuleResult:
    """Judge each GPU, layer or package by itself, so that one unknown does not hide what the others show.

    Returns a list with the verdict of each item, or `NotApplicable` if there was no item.
    """
    verdicts: list[Verdict] = []
    for item in items:
        try:
            verdicts.append(judge(item))
        except NotObservedError as error:
            verdicts.append(Unknown(str(error)))
    return verdicts or NotApplicable("there is none")


@dataclass(frozen=True)
class ErrorText:
    """A literal message that settles a rule: matched in what children print and in pasted text.

    `pattern` is a regular expression searched line by line; `fix` says what to do in one sentence. `title` says what
    the message alone shows, where the rule's own title says more than that.
    """

    pattern: str
    rule: str
    fix: str
    command: str | None = None
    title: str | None = None


@dataclass(frozen=True)
class Kernel:
    """How a GPU kernel is recognised in a trace: by the operator above it first, by its own name second."""

    pattern: str
    kind: str
    operator: str | None = None


@dataclass(frozen=True)
class Message:
    """A line that matched an `ErrorText`, and where it was read."""

    rule: str
    text: str
    source: str


@dataclass(frozen=True)
class Messages(Facts, key="messages"):
    """Literal messages seen while probing or reading: the engine's own record."""

    messages: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A median with its 95 % bootstrap interval over `n` samples, and the interquartile range, all in one unit."""

    median: float
    low: float
    high: float
    n: int
    iqr: float | None = None


@dataclass(frozen=True)
class Candidate:
    """One way to do a task, with what it costs here.

    Candidates with equal `task` and `shape` compete; `sweep` (the token count M) is what a range of advice runs over.
    `device_us` and `call_us` are microseconds, None where nothing was timed; `error` is the relative Frobenius error
    against FP32, and `error_limit` the most that its format explains. `baseline` marks the 16-bit twin that speed-ups
    refer to.
    """

    task: str
    config: str
    label: str
    format: str
    how: str
    basis: Basis = "measured"
    shape: dict[str, int] = field(default_factory=dict)
    sweep: int | None = None
    device_us: Estimate | None = None
    call_us: Estimate | None = None
    # The call time counts, since the device waits for the host; False where a whole model pays the host's time once.
    waits_for_host: bool = False
    error: float | None = None
    error_limit: float | None = None
    requires: tuple[str, ...] = ()
    baseline: bool = False
    # Where the advice holds, in words ("from about 2,000 tokens", "one denoising step"); what was swept says it itself.
    when: str | None = None
    # What is done at that size, where the size does not say it ("training", "8 experts", "causal attention").
    doing: str | None = None
    # The workload whose step this is; where steps were compared, nothing else is advised.
    workload: str | None = None
    # The GPU kernel that did the work, as a profiled call named it.
    kernel: str | None = None


@dataclass(frozen=True)
class Trait:
    """One lasting thing by which two reports are compared; what no subject calls a trait is never a change.

    `name` says in words what it is, and is the same in every report ("power limit of GPU 0"); a `value` of None was not
    observed. A condition held while times were taken, a method is how they were taken: times that a changed method
    concerns are not compared. Numbers that differ by no more than `tolerance`, a share, or by no more than `points` of
    their own unit are alike.

    `why` says how a change of it changes times (None: not known to), `affects` which: of these words one is the task,
    the format, the clock, a package or a part of the slug of what was timed, or "step", a whole step; () is all. Of a
    number `more_is` says what a larger one makes of them.
    """

    kind: TraitKind
    name: str
    value: str | float | int | bool | None
    unit: str | None = None
    # The path of the fact it was read from, as evidence names it.
    fact: str | None = None
    tolerance: float = 0.0
    why: str | None = None
    affects: tuple[str, ...] = ()
    more_is: Literal["faster", "slower"] | None = None
    # With another value it is another box, and its times are no regression.
    is_identity: bool = False
    points: float = 0.0


@dataclass(frozen=True)
class Listing:
    """Traits out of a list; `absent` is the value of what it does not name, None if it may not name everything."""

    traits: tuple[Trait, ...]
    absent: str | None = None


@dataclass(frozen=True)
class Exhibit:
    """Something worth looking at; `rows` follow the schema of `kind` (see `EXHIBIT_ROWS`).

    `answers_why` marks bars that show why FP8 pays here or not; a report leads with the first of them and those beside
    it, whose ids begin with the same word. Of lines, `x_title` says what x is, and `x_is_log` that it grows by factors.
    """

    id: str
    kind: ExhibitKind
    title: str
    unit: str
    rows: tuple[dict[str, Any], ...]
    answers_why: bool = False
    x_title: str | None = None
    x_is_log: bool = False


_NUMBER: tuple[type, ...] = (float, int)
_MAYBE: tuple[type, ...] = (float, int, type(None))
# The columns of each kind of exhibit: name -> types allowed. A table's cells are free, but each row has the same ones.
EXHIBIT_ROWS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    # `start` lets a bar begin where an earlier one ended; `ratio` stands beside the bar ("1.83x"), and is no difference
    # where its interval holds 1.
    "bars": {"label": (str,), "value": _NUMBER, "start": _NUMBER, "ratio": _MAYBE, "low": _MAYBE, "high": _MAYBE},
    "table": {"cells": (dict,)},
    # Where the unit is "x", a cell is a factor; one whose interval holds 1 is no difference.
    "heatmap": {"x": (str,), "y": (str,), "value": _MAYBE, "low": _MAYBE, "high": _MAYBE, "note": (str, type(None))},
    "lines": {"series": (str,), "x": _NUMBER, "y": _NUMBER, "low": _MAYBE, "high": _MAYBE},
    # A ceiling stands where its two lines meet: what memory brings to its left, what the product gives to its right.
    "roofline": {"series": (str,), "label": (str,), "flop_per_byte": _NUMBER, "tflops": _NUMBER, "ceiling": (bool,)},
}
