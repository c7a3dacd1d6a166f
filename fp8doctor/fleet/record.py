"""What is a report of many nodes? The shape that people's scripts rely on (version 1.0 of its JSON)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fp8doctor.judging.report import Status, Tool
from fp8doctor.model import Exhibit, Severity, TraitKind

FLEET_SCHEMA = "fp8doctor.fleet"
FLEET_VERSION = "1.0"
Value = str | float | int | bool
# What a GPU's speed is told by: the rate of its products (BF16 and FP8 taken together, or BF16 alone where there is no
# FP8), or of copies in its memory.
Measure = Literal["compute", "bf16", "copy"]


@dataclass(frozen=True)
class GpuSeen:
    """One GPU of a node and what it does alone; None is not measured."""

    index: int
    name: str | None = None
    # The same in every report of one GPU, and tells nothing else of it.
    fingerprint: str | None = None
    bf16_tflops: float | None = None
    fp8_tflops: float | None = None
    copy_gb_s: float | None = None
    # Median SM clock and most power while its products were held for a second.
    sm_clock_mhz: float | None = None
    power_w: float | None = None
    # Relative Frobenius error of an FP8 product against FP32.
    fp8_error: float | None = None
    # "8192": products of 8,192 x 8,192, as each GPU of a box is measured; "best": the best one that a single run found.
    # Rates of the two are not compared.
    shape: Literal["8192", "best"] | None = None


@dataclass(frozen=True)
class FindingSeen:
    """A finding of a node's own report."""

    id: str
    name: str
    severity: Severity
    title: str


@dataclass(frozen=True)
class Node:
    """What one node's report says, as far as nodes are compared."""

    name: str
    # When it was written, and by which version.
    created: str
    tool_version: str
    status: Status
    headline: str
    fp8_hardware: bool | None = None
    fp8_software: bool | None = None
    fp8_runs: bool | None = None
    gpus: tuple[GpuSeen, ...] = ()
    findings: tuple[FindingSeen, ...] = ()
    # What of a fleet's own measurements did not fit into the time, or could not be tried.
    not_measured: tuple[str, ...] = ()


@dataclass(frozen=True)
class Missing:
    """A node, a rank or a file of which nothing is known, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Group:
    """Nodes with the same GPUs and the same answers."""

    nodes: tuple[str, ...]
    # Names of the GPUs with their number in each node.
    gpus: dict[str, int]
    status: Status
    fp8_hardware: bool | None
    fp8_software: bool | None
    fp8_runs: bool | None
    # What a report of the group says, and whose it is.
    headline: str
    example: str


@dataclass(frozen=True)
class Variant:
    """One value of what differs, and the nodes that have it; None is "not said"."""

    value: Value | None
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class TraitDifference:
    """A trait that is not the same on all nodes with the same GPUs; the value of most nodes first."""

    kind: TraitKind
    name: str
    unit: str | None
    # The GPUs of the nodes that were compared: "8 x NVIDIA H200".
    among: str
    variants: tuple[Variant, ...]
    # How a change of it changes times; None: not known to.
    why: str | None = None


@dataclass(frozen=True)
class Spread:
    """How alike GPUs of one name are, in percent of their median."""

    gpu: str
    measure: Measure
    gpus: int
    median: float
    unit: str
    # 1.4826 times the median absolute deviation: the standard deviation, were they normally distributed.
    spread_percent: float
    # A GPU slower than the median by more than this is an odd one.
    limit_percent: float


@dataclass(frozen=True)
class OddGpu:
    """A GPU that is slower than its kind by more than their spread explains."""

    node: str
    index: int
    gpu: str
    measure: Measure
    slower_percent: float
    # How many times the spread that is; None where there are too few of the kind to know their spread.
    spreads: float | None
    value: float
    median: float
    unit: str
    # What of this node, or of this GPU, differs from the others of its kind, and may be why.
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundOn:
    """A finding and the nodes that have it."""

    id: str
    name: str
    severity: Severity
    title: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class FleetReport:
    """What is known of many nodes. Nodes that did not answer are `missing`, never left out."""

    tool: Tool
    created: str
    headline: str
    nodes: tuple[Node, ...] = ()
    groups: tuple[Group, ...] = ()
    differences: tuple[TraitDifference, ...] = ()
    spreads: tuple[Spread, ...] = ()
    odd: tuple[OddGpu, ...] = ()
    findings: tuple[FoundOn, ...] = ()
    missing: tuple[Missing, ...] = ()
    # Reports that another one of the same node made superfluous: (superfluous, kept).
    superseded: tuple[tuple[str, str], ...] = ()
    exhibits: tuple[Exhibit, ...] = ()
    elapsed_s: float | None = None

    def fails(self, level: Severity) -> bool:
        """Whether a node did not answer, a GPU is an odd one, or a finding is as grave as this."""
        grave = any(one.severity.rank <= level.rank for one in self.findings)
        return grave or bool(self.missing) or bool(self.odd)

    def to_json(self, *, redact: bool = True) -> str:
        """The report as JSON text (`fp8doctor schema fleet` describes it)."""
        from fp8doctor import api

        return api.fleet_to_json(self, redact=redact)

    def to_markdown(self, *, redact: bool = True) -> str:
        """The report as Markdown for an issue."""
        from fp8doctor import api

        return api.fleet_to_markdown(self, redact=redact)

    def to_html(self, *, redact: bool = True) -> str:
        """The report as one HTML page with charts; it needs the extra `html`."""
        from fp8doctor import api

        return api.fleet_to_html(self, redact=redact)
