"""What is declared of a probe, a rule, a maker and a reader? The plain records behind the decorators.

Only the standard library is imported here: this module also runs inside the examined environment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fp8doctor.model import Facts, Mode, RuleResult, Scope, Settles, Severity

# "tool": fp8doctor's own interpreter. "target": the examined one.
RunsIn = Literal["tool", "target"]
# How a parameter wants its facts: the value (or the rule cannot tell), the value or None, how the probe ended.
NeedKind = Literal["required", "optional", "run"]
Makes = Literal["candidates", "exhibit", "traits", "timings", "disturbances"]


class RegistrationError(TypeError):
    """A probe or rule is declared in a way that the doctor cannot use."""


@dataclass(frozen=True)
class Need:
    """One parameter of a probe or rule: which facts it wants, and how."""

    facts_type: type[Facts]
    kind: NeedKind

    @property
    def key(self) -> str:
        """The facts' key."""
        return self.facts_type.key


@dataclass(frozen=True)
class Probe:
    """A function that looks at the machine. One key has one probe."""

    function: Callable[..., Any]
    facts_type: type[Facts]
    needs: dict[str, Need]
    runs_in: RunsIn
    timeout_s: float
    # Times the GPU: runs while no other probe does. Its place among those that do is `order`.
    times_gpu: bool
    order: int
    # The part of the time that is left which it may use, against the shares of those that are still to come.
    share: float
    # Runs only where a workload was named.
    for_workload: bool
    # Runs only where a pipeline was named.
    for_pipeline: bool
    # Runs only where a model of the person's own was named.
    for_model: bool
    # Runs as long as the timing probes do, beside them (sensors).
    watches: bool
    # The modes in which it runs.
    modes: tuple[Mode, ...]
    # Called in its child while that waits for what the probe needs.
    prepare: Callable[[], None] | None
    title: str

    @property
    def key(self) -> str:
        """The key of its facts."""
        return self.facts_type.key

    def runs_as(self, mode: Mode) -> Mode | None:
        """The mode in which it runs in a run of `mode`, None if it does not; a fleet's is a default run and more."""
        if mode in self.modes:
            return mode
        return "default" if mode == "fleet" and "default" in self.modes else None


@dataclass(frozen=True)
class Rule:
    """A pure function from facts to a verdict, and the page that explains it."""

    id: str
    name: str
    severity: Severity
    scope: Scope
    settles: Settles | None
    explains: tuple[str, ...]
    function: Callable[..., RuleResult]
    needs: dict[str, Need]
    title: str
    page: str


@dataclass(frozen=True)
class Maker:
    """A pure function from facts to what a report shows or compares, or to what disturbed its times."""

    function: Callable[..., Any]
    needs: dict[str, Need]
    makes: Makes


@dataclass(frozen=True)
class Reader:
    """A pure function from a pasted text to facts; it returns None where the text says nothing of them."""

    function: Callable[..., Any]
    facts_type: type[Facts]

    @property
    def key(self) -> str:
        """The key of its facts."""
        return self.facts_type.key


@dataclass(frozen=True)
class Describer:
    """A function that tells how a module was converted."""

    function: Callable[[Any], Any]
