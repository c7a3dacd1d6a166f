"""What is kept of every event until the file is read: a few bytes in columns."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

from fp8doctor.reading.trace.names import Names

# What a GPU activity is by its category alone.
KERNEL, FROM_HOST, TO_HOST, ON_DEVICE, FILL = range(5)
MAX_STEPS = 100_000
# What a host event is.
OPERATOR, CALL, MODULE, FRAME = range(4)


class Activities:
    """What ran on the devices, a column a property. Times in microseconds, from any zero."""

    def __init__(self) -> None:
        self.start = array("d")
        self.dur = array("d")
        self.name = array("i")
        self.stream = array("i")
        self.device = array("i")
        # The call that launched it, and the operator around that call; 0: not said.
        self.correlation = array("q")
        self.external = array("q")
        self.category = bytearray()

    def __len__(self) -> int:
        return len(self.start)


class HostEvents:
    """What ran on the host: operators, calls of the runtime or driver, modules, long frames. Times in microseconds."""

    def __init__(self) -> None:
        self.start = array("d")
        self.end = array("d")
        self.name = array("i")
        self.thread = array("i")
        # Of an operator its external id, of a call its correlation; 0: not said.
        self.link = array("q")
        # Of a matrix product the number of its shape and types, else 0.
        self.shape = array("i")
        self.what = bytearray()

    def __len__(self) -> int:
        return len(self.start)


@dataclass
class Recording:
    """One file's events, and what its head says."""

    names: Names = field(default_factory=Names)
    activities: Activities = field(default_factory=Activities)
    host: HostEvents = field(default_factory=HostEvents)
    # (operator, dimensions as JSON, types as JSON) -> number, from 1.
    shapes: dict[tuple[str, bytes, bytes], int] = field(default_factory=dict)
    # Steps that the profiler marked: name -> (start, end); of a name that comes twice the longer.
    steps: dict[str, tuple[float, float]] = field(default_factory=dict)
    devices: dict[Any, int] = field(default_factory=dict)
    streams: dict[Any, int] = field(default_factory=dict)
    threads: dict[Any, int] = field(default_factory=dict)
    format: str = "pytorch-profiler"
    events: int = 0
    skipped: int = 0
    cut: bool = False
    has_shapes: bool = False
    has_stacks: bool = False
    hip: bool = False
    xpu: bool = False
    torch_version: str | None = None
    rank: int | None = None
    # Device as the activities name it -> (name, compute capability).
    properties: dict[Any, tuple[str, str | None]] = field(default_factory=dict)
    # What an export lacks, in words.
    missing: list[str] = field(default_factory=list)


def keep_step(steps: dict[str, tuple[float, float]], name: str, start: float, end: float) -> None:
    """Keep a step that the profiler marked, unless a longer one of its name is kept."""
    known = steps.get(name)
    if (known is None or known[1] - known[0] < end - start) and len(steps) < MAX_STEPS:
        steps[name] = (start, end)


def numbered(table: dict[Any, int], key: Any) -> int:
    """The number of a thread, stream or device, from 0; all beyond a million share the last."""
    found = table.get(key)
    if found is None:
        found = min(len(table), 1_000_000)
        if found < 1_000_000:
            table[key] = found
    return found
