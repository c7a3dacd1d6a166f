"""What did the host do, call by call and operator by operator, and what stands above each launch?"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fp8doctor.reading.trace import operators
from fp8doctor.reading.trace.intervals import Stretches
from fp8doctor.reading.trace.kinds import is_enclosing
from fp8doctor.reading.trace.recording import CALL, FRAME, MODULE, HostEvents, Recording

# (innermost operator, innermost that tells, enclosing one that tells, shape, module): numbers of names, 0 for none.
Context = tuple[int, int, int, int, int]
NOWHERE: Context = (0, 0, 0, 0, 0)
MAX_CONTEXTS = 1_000_000
MAX_WAITS = 1_000_000
# Of each thread.
MAX_FRAMES = 1_000_000
# Beyond this many numbers for one that is used, a table of all numbers is larger than a dictionary.
_SPARSE = 8


class Links:
    """From the id of an operator or a call to what stands above its launches: a table, or a dictionary if sparse."""

    def __init__(self, ids: Iterable[int]) -> None:
        used = [number for number in ids if number]
        self.low = min(used, default=0)
        size = max(used, default=0) - self.low + 1
        dense = size <= _SPARSE * len(used) + 1_000_000
        self.table = array("i", bytes(4 * size)) if dense and used else None
        self.wanted = {} if dense or not used else dict.fromkeys(used, 0)

    def put(self, number: int, context: int) -> None:
        """Keep the context of an id, if anything asked for it."""
        if self.table is not None:
            at = number - self.low
            if 0 <= at < len(self.table):
                self.table[at] = context
        elif number in self.wanted:
            self.wanted[number] = context

    def get(self, number: int) -> int:
        """The number of the context of an id; 0 if nothing is known of it."""
        if self.table is not None:
            at = number - self.low
            return self.table[at] if 0 <= at < len(self.table) else 0
        return self.wanted.get(number, 0)


@dataclass
class Thread:
    """When one thread of the host was in an operator or a call, and when in one that waits."""

    busy: Stretches = field(default_factory=Stretches)
    waits: Stretches = field(default_factory=Stretches)
    # While it stood in a data loader, whatever that did.
    loading: Stretches = field(default_factory=Stretches)
    # While it was in a module's forward; only of traces with stacks.
    modules: Stretches = field(default_factory=Stretches)
    # Python functions that took long: (start, end, number of the name), by their start.
    frames: list[tuple[float, float, int]] = field(default_factory=list)
    launches: int = 0


@dataclass
class Host:
    """What the host did."""

    contexts: list[Context]
    by_operator: Links
    by_call: Links
    # Calls that launched a graph: the operator above them says nothing of the kernels in it.
    graph_calls: set[int] = field(default_factory=set)
    threads: dict[int, Thread] = field(default_factory=dict)
    # Number of the operator's name -> [how often, its own microseconds].
    operators: dict[int, list[float]] = field(default_factory=dict)
    # (call, start, end, operator above, function above).
    waits: list[tuple[int, float, float, int, int]] = field(default_factory=list)
    calls: int = 0
    launches: int = 0
    graph_launches: int = 0
    regions: list[int] = field(default_factory=lambda: [0, 0, 0])
    # The most often that a region of torch.compile had been compiled before it was entered.
    recompiled: int = 0
    # Number of the frame in which a compiled graph goes on after a break -> how often.
    graph_breaks: dict[int, int] = field(default_factory=dict)
    compilations: int = 0
    compilation_us: float = 0.0


@dataclass(frozen=True)
class _Meaning:
    """What the name of a host event says, found once a name."""

    call: str | None = None
    role: str | None = None
    enclosing: bool = False
    product: bool = False
    scope: bool = False
    loading: bool = False
    compiling: bool = False
    trying: bool = False
    region: int | None = None
    attempt: int = 0
    module: bool = False
    graph_break: bool = False


def follow(recording: Recording, role: Callable[[str], str | None], copied_by: Callable[[int, float], bool]) -> Host:
    """Go through the host's events, thread by thread.

    Args:
        recording: what was read.
        role: what an operator does by its name.
        copied_by: whether the copy of this correlation was done at this time, so that the call has waited for it.
    """
    kept = recording.activities
    host = Host([NOWHERE], Links(kept.external), Links(kept.correlation))
    by_thread: dict[int, list[int]] = {}
    for at, thread in enumerate(recording.host.thread):
        if thread in by_thread:
            by_thread[thread].append(at)
        else:
            by_thread[thread] = [at]
    walker = _Walker(recording, host, role, copied_by)
    for thread in list(by_thread):
        host.threads[thread] = walker.walk(in_order(recording.host, by_thread.pop(thread)))
    return host


def in_order(events: HostEvents, indices: list[int]) -> list[int]:
    """Events by their start, those around others before what is in them."""
    start, end = events.start, events.end
    indices.sort(key=start.__getitem__)
    first = 0
    for at in range(1, len(indices) + 1):  # those that start at once: the longest first
        if at == len(indices) or start[indices[at]] != start[indices[first]]:
            if at - first > 1:
                indices[first:at] = sorted(indices[first:at], key=lambda i: -end[i])
            first = at
    return indices


class _Walker:
    def __init__(
        self,
        recording: Recording,
        host: Host,
        role: Callable[[str], str | None],
        copied_by: Callable[[int, float], bool],
    ) -> None:
        self.recording = recording
        self.host = host
        self.role = role
        self.copied_by = copied_by
        self.meanings: dict[tuple[int, int], _Meaning] = {}
        self.numbers: dict[Context, int] = {NOWHERE: 0}
        # (context, name, shape) -> context below.
        self.below: dict[tuple[int, int, int], int] = {}

    def walk(self, order: list[int]) -> Thread:
        """Go through the events of one thread, which are in order."""
        events, host, meanings = self.recording.host, self.host, self.meanings
        starts, ends, names, what = events.start, events.end, events.name, events.what
        links, shapes = events.link, events.shape
        thread = Thread()
        busy = thread.busy.add
        totals = host.operators
        # For each open event: its end, its context, its total (None: not counted), whether it compiles.
        open_ends: list[float] = []
        contexts = [0]
        open_totals: list[list[float] | None] = []
        compiling = 0  # how many open events there were when the outermost that compiles began
        self.frames: list[tuple[float, int]] = []
        for at in order:
            start, end, name, sort = starts[at], ends[at], names[at], what[at]
            if sort == FRAME:
                self._frame(thread, start, end, name)
                continue
            while open_ends and open_ends[-1] <= start:
                open_ends.pop()
                contexts.pop()
                open_totals.pop()
            if compiling and len(open_ends) < compiling:
                compiling = 0
            meaning = meanings.get((name, sort))
            if meaning is None:
                meaning = meanings[name, sort] = self._meaning(name, sort)
            context = contexts[-1]
            if open_totals and sort != MODULE and (around := _innermost(open_totals)) is not None:
                around[1] -= min(end, open_ends[-1]) - start
            if sort == CALL:
                busy(start, end)
                host.calls += 1
                if meaning.call is not None:
                    self._call(thread, meaning.call, at, context)
                if links[at]:
                    host.by_call.put(links[at], context)
                continue
            total = None
            if sort != MODULE:
                if not meaning.scope:
                    busy(start, end)
                elif meaning.loading:
                    thread.loading.add(start, end)
                total = totals.get(name)
                if total is None:
                    total = totals[name] = [0, 0.0]
                total[0] += 1
                total[1] += end - start
                if meaning.region is not None:
                    host.regions[meaning.region] += 1
                    host.recompiled = max(host.recompiled, meaning.attempt)
                if meaning.compiling and not compiling:
                    compiling = len(open_ends) + 1
                    host.compilations += not meaning.trying
                    host.compilation_us += end - start
            elif meaning.module:
                thread.modules.add(start, end)
            elif meaning.graph_break:
                host.graph_breaks[name] = host.graph_breaks.get(name, 0) + 1
            key = (context, name, shapes[at])
            inner = self.below.get(key)
            if inner is None:
                inner = self._enter(key, meaning)
            if links[at]:
                host.by_operator.put(links[at], inner)
            open_ends.append(end)
            contexts.append(inner)
            open_totals.append(total)
        return thread

    def _frame(self, thread: Thread, start: float, end: float, name: int) -> None:
        frames = self.frames
        while frames and frames[-1][0] <= start:
            frames.pop()
        frames.append((end, name))
        if len(thread.frames) < MAX_FRAMES:
            thread.frames.append((start, end, name))

    def _function(self, start: float) -> int:
        """The innermost function of somebody's own that is open; 0 if none is known."""
        texts = self.recording.names.texts
        open_ = (name for end, name in reversed(self.frames) if end > start)
        return next((name for name in open_ if operators.is_own_function(texts[name])), 0)

    def _call(self, thread: Thread, call: str, at: int, context: int) -> None:
        events, host = self.recording.host, self.host
        start, end = events.start[at], events.end[at]
        if call == "launch":
            host.launches += 1
            thread.launches += 1
        elif call == "graph-launch":
            host.graph_launches += 1
            thread.launches += 1
            host.graph_calls.add(events.link[at])
        else:
            if call == "wait" or self.copied_by(events.link[at], end):
                thread.waits.add(start, end)
            if len(host.waits) < MAX_WAITS:
                direct, telling, enclosing, _, _ = host.contexts[context]
                above = direct or telling or enclosing
                host.waits.append((events.name[at], start, end, above, self._function(start)))

    def _meaning(self, name: int, sort: int) -> _Meaning:
        text = self.recording.names.texts[name]
        if sort == CALL:
            return _Meaning(call=operators.call_kind(text))
        if sort == MODULE and operators.module_of(text) is not None:
            return _Meaning(module=True)
        if sort == MODULE and operators.graph_break_at(text) is not None:
            return _Meaning(graph_break=True)
        found = self.role(text)
        return _Meaning(
            role=found,
            enclosing=is_enclosing(found),
            product=operators.is_product(text),
            scope=operators.is_annotation(text),
            loading=operators.is_loading(text),
            compiling=operators.is_compiling(text),
            trying=operators.is_trying(text),
            region=operators.region_level(text),
            attempt=operators.region_attempt(text),
        )

    def _enter(self, key: tuple[int, int, int], meaning: _Meaning) -> int:
        around, name, shape = key
        direct, telling, enclosing, known_shape, module = self.host.contexts[around]
        if meaning.module:
            module = name
        else:
            direct = name if not meaning.scope else direct
            if meaning.role is not None:
                telling = name
                enclosing = self._enclosing(enclosing, name, meaning)
            if meaning.role is not None or shape:
                known_shape = shape
        inner = (direct, telling, enclosing, known_shape, module)
        number = self.numbers.get(inner)
        if number is None:
            if len(self.numbers) >= MAX_CONTEXTS:
                return 0
            self.numbers[inner] = number = len(self.host.contexts)
            self.host.contexts.append(inner)
        if len(self.below) >= MAX_CONTEXTS:
            self.below.clear()
        self.below[key] = number
        return number

    def _enclosing(self, around: int, name: int, meaning: _Meaning) -> int:
        if not meaning.enclosing:
            return around
        outer = self.role(self.recording.names.texts[around]) if around else None
        return around if outer in operators.OUTERMOST else name


def _innermost(totals: list[list[float] | None]) -> list[float] | None:
    for total in reversed(totals):
        if total is not None:
            return total
    return None
