"""What does a JSON trace of PyTorch's profiler hold?

The format: `ChromeTraceLogger` in pytorch/kineto, libkineto/src/output_json.cpp. Since PyTorch 1.8 the categories
changed their names once ("Kernel" became "kernel", "Operator" cpu_op, "Runtime" cuda_runtime), "external id" its case,
and the number of a stream was the text "stream 7"; real files of each kind were read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from msgspec import Raw, Struct, ValidationError, field
from msgspec.json import Decoder

from fp8doctor.reading.trace import cutting, meta
from fp8doctor.reading.trace.opening import MAX_UNPACKED_BYTES, Source
from fp8doctor.reading.trace.operators import CAST, has_sizes, is_kept_annotation, is_kept_frame, is_step
from fp8doctor.reading.trace.recording import (
    CALL,
    FILL,
    FRAME,
    FROM_HOST,
    KERNEL,
    MODULE,
    ON_DEVICE,
    OPERATOR,
    TO_HOST,
    Recording,
    keep_step,
    numbered,
)
from fp8doctor.reading.trace.refusal import BROKEN_JSON, NotATraceError

CHUNK_BYTES = 4 << 20
# An event is some hundred bytes, with long stacks some thousand; what has none that ends in 8 MB is no trace.
MAX_EVENT_BYTES = 8 << 20
MAX_HEAD_BYTES = 64 << 20
MAX_TAIL_BYTES = 16 << 20
MAX_SHAPES = 20_000
# Frames of Python that are shorter explain no pause that is worth telling.
LONG_US = 300.0
# Microseconds; a recording of eleven days is a wrong number. Times may count from 1970, in nanoseconds at worst.
MAX_DUR_US = 1e12
MAX_TIME_US = 1e19
_EIGHT_BITS = re.compile(rb"Float8|char")
_INT64 = (1 << 63) - 1


class _Args(Struct, gc=False, frozen=True):
    external: int = field(name="External id", default=0)
    external_before_1_9: int = field(name="external id", default=0)
    correlation: int = 0
    dims: Raw = field(name="Input Dims", default=Raw(b""))
    types: Raw = field(name="Input type", default=Raw(b""))


_NO_ARGS = _Args()


class _Event(Struct, gc=False):
    cat: str = ""
    name: str = ""
    pid: int | str = 0
    tid: int | str = 0
    ts: float = 0.0
    dur: float = 0.0
    args: _Args = _NO_ARGS


class _BareEvent(Struct, gc=False):
    """An event whose `args` are not what they should be: its time counts all the same."""

    cat: str = ""
    name: str = ""
    pid: int | str = 0
    tid: int | str = 0
    ts: float = 0.0
    dur: float = 0.0


_EVENTS = Decoder(list[_Event])
_EVENT = Decoder(_Event)
_BARE = Decoder(_BareEvent)
_RAWS = Decoder(list[Raw])

_OPERATORS = ("cpu_op", "Operator")
_ANNOTATIONS = ("user_annotation",)
_FRAMES = ("python_function", "PythonFunction")
_CALLS = (
    *("cuda_runtime", "cuda_driver", "Runtime", "hip_runtime", "hip_driver", "xpu_runtime", "xpu_driver"),
    *("privateuse1_runtime", "privateuse1_driver"),
)
_KERNELS = ("kernel", "Kernel")
_COPIES = ("gpu_memcpy", "Memcpy")
_FILLS = ("gpu_memset", "Memset")


def read(path: Path, max_bytes: int = MAX_UNPACKED_BYTES) -> Recording:
    """The events of one file, JSON or gzipped JSON.

    Raises:
        NotATraceError: if it is no such trace; a file that ends in the middle is one, and `cut`.
    """
    return _Reader(path, max_bytes).read()


class _Reader:
    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.source = Source(path, max_bytes)
        self.recording = Recording()
        self.steps_are_operators = False
        self.kept_frames: dict[str, bool] = {}
        takers: tuple[tuple[tuple[str, ...], Callable[[list[_Event]], None]], ...] = (
            (_OPERATORS, self._operators),
            (_ANNOTATIONS, self._annotations),
            (_FRAMES, self._frames),
            (_CALLS, self._calls),
            (_KERNELS, lambda events: self._activities(events, [KERNEL] * len(events))),
            (_COPIES, lambda events: self._activities(events, [_direction(event.name) for event in events])),
            (_FILLS, lambda events: self._activities(events, [FILL] * len(events))),
        )
        self.takers = {category: take for categories, take in takers for category in categories}

    def read(self) -> Recording:
        pieces = self.source.pieces()
        head, data = self._head(pieces)
        rest, tail = data[head.events_at :], None
        waiting: list[bytes] = []
        size = len(rest)
        for piece in pieces:
            waiting.append(piece)
            size += len(piece)
            if size < max(CHUNK_BYTES, 2 * len(rest)):  # what did not end is gone through again at twice its size
                continue
            rest, tail = self._chunk(b"".join((rest, *waiting)))
            waiting = []
            size = len(rest)
            if tail is not None:
                break
            if size > MAX_EVENT_BYTES:
                raise NotATraceError(f"{self.path} has an event of more than {MAX_EVENT_BYTES >> 20} MiB: no trace has")
        if tail is None:
            tail = self._last(b"".join((rest, *waiting)))
        end = b"".join((tail or b"", *_at_most(pieces, MAX_TAIL_BYTES)))
        closing = b"" if head.is_list else b"}"
        self.recording.cut = tail is None or self.source.cut or not (head.is_list or end.rstrip().endswith(closing))
        if not head.is_list:
            meta.take(self.recording, data[: head.events_at], end)
        return self.recording

    def _head(self, pieces: Iterable[bytes]) -> tuple[cutting.Head, bytes]:
        data = b""
        waiting: list[bytes] = []
        for piece in pieces:
            waiting.append(piece)
            if sum(map(len, waiting)) >= len(data):  # twice as much each time, so that nothing is gone through often
                data = b"".join((data, *waiting)).removeprefix(b"\xef\xbb\xbf")
                waiting = []
                head = cutting.find_events(data)
                if head.events_at >= 0:
                    return head, data
                if head.hopeless or len(data) > MAX_HEAD_BYTES:
                    break
        data = b"".join((data, *waiting)).removeprefix(b"\xef\xbb\xbf")
        head = cutting.find_events(data)
        if head.events_at >= 0:
            return head, data
        raise NotATraceError(f"{self.path} {meta.why_no_events(data, ended=not head.hopeless)}")

    def _chunk(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Take the whole events of a chunk; what is left of it, and what follows the list if its end was reached."""
        for at in cutting.likely_cuts(data):
            if self._decoded(data[:at].rstrip().rstrip(b",")):
                return data[at:], None
        return self._slowly(data)

    def _last(self, data: bytes) -> bytes | None:
        """Take what is left at the end of the file; what follows the list, None if the list does not end."""
        # Mostly a whole list and a short tail.
        end = data.rfind(b"]", 0, data.rfind(b"}") if data.rstrip()[-1:] == b"}" else len(data))
        if end >= 0 and self._decoded(data[:end]):
            return data[end + 1 :]
        return self._slowly(data)[1]

    def _decoded(self, body: bytes) -> bool:
        text = b"[" + body.strip().strip(b",") + b"]"
        try:
            self._take(_EVENTS.decode(text))
        except ValidationError:
            try:
                raws = _RAWS.decode(text)
            except BROKEN_JSON:
                return False
            self._one_by_one([bytes(raw) for raw in raws])
        except BROKEN_JSON:
            return False
        return True

    def _slowly(self, data: bytes) -> tuple[bytes, bytes | None]:
        found = cutting.whole_events(data)
        self._one_by_one([data[begin:end] for begin, end in found.spans])
        return data[found.rest_at :], None if found.end_at is None else data[found.end_at :]

    def _one_by_one(self, raws: list[bytes]) -> None:
        events = []
        for raw in raws:
            event = _event(raw)
            if event is None:
                self.recording.skipped += 1
            else:
                events.append(event)
        self._take(events)

    def _take(self, events: list[_Event]) -> None:
        self.recording.events += len(events)
        by_category: dict[str, list[_Event]] = {}
        for event in events:
            category = event.cat
            if category in by_category:
                by_category[category].append(event)
            else:
                by_category[category] = [event]
        for category, found in by_category.items():
            take = self.takers.get(category)
            if take is None:
                continue
            sane = [e for e in found if 0.0 <= e.dur < MAX_DUR_US and -MAX_TIME_US < e.ts < MAX_TIME_US]
            self.recording.skipped += len(found) - len(sane)
            if sane:
                take(sane)
                self.recording.xpu = self.recording.xpu or category.startswith("xpu_")

    def _operators(self, events: list[_Event]) -> None:
        texts = self.recording.names.texts
        before = len(texts)
        self._host(events, OPERATOR, [_external(event.args) for event in events], [self._shape(e) for e in events])
        # Before 1.11 annotations were operators.
        self.steps_are_operators = self.steps_are_operators or any(is_step(text) for text in texts[before:])
        if self.steps_are_operators:
            for event in events:
                self._step(event)

    def _annotations(self, events: list[_Event]) -> None:
        for event in events:
            self._step(event)
        kept = [event for event in events if is_kept_annotation(event.name)]
        # Without their ids: nothing is launched by an annotation but what the operators in it launch.
        self._host(kept, OPERATOR, [0] * len(kept), [0] * len(kept))

    def _frames(self, events: list[_Event]) -> None:
        self.recording.has_stacks = True
        kept = [event for event in events if self._is_kept_frame(event.name)]
        self._host(kept, MODULE, [0] * len(kept), [0] * len(kept))
        kept = [event for event in events if event.dur >= LONG_US and not self._is_kept_frame(event.name)]
        self._host(kept, FRAME, [0] * len(kept), [0] * len(kept))

    def _is_kept_frame(self, name: str) -> bool:
        known = self.kept_frames.get(name)
        if known is None:
            known = is_kept_frame(name)
            if len(self.kept_frames) < 100_000:
                self.kept_frames[name] = known
        return known

    def _calls(self, events: list[_Event]) -> None:
        self._host(events, CALL, [event.args.correlation for event in events], [0] * len(events))

    def _step(self, event: _Event) -> None:
        if is_step(event.name):
            keep_step(self.recording.steps, event.name, event.ts, event.ts + event.dur)

    def _shape(self, event: _Event) -> int:
        args = event.args
        dims = bytes(args.dims)
        if not dims:
            return 0
        self.recording.has_shapes = True
        shapes = self.recording.shapes
        if has_sizes(event.name):
            key = (event.name, dims, bytes(args.types))
        elif event.name == CAST and _EIGHT_BITS.search(types := bytes(args.types)):
            key = (CAST, b"", types)
        else:
            return 0
        found = shapes.get(key)
        if found is None:
            if len(shapes) >= MAX_SHAPES or len(dims) > 1000:
                return 0
            shapes[key] = found = len(shapes) + 1
        return found

    def _host(self, events: list[_Event], what: int, links: list[int], shapes: list[int]) -> None:
        host, threads = self.recording.host, self.recording.threads
        host.start.extend([event.ts for event in events])
        host.end.extend([event.ts + event.dur for event in events])
        host.name.extend(self.recording.names.numbers_of([event.name for event in events]))
        # By thread alone: a thread's number is the system's own, and old files give it as text in one category only.
        host.thread.extend([numbered(threads, _plain(event.tid)) for event in events])
        host.link.extend(_fitting(links))
        host.shape.extend(shapes)
        host.what.extend([what] * len(events))

    def _activities(self, events: list[_Event], categories: list[int]) -> None:
        recording = self.recording
        kept, devices, streams = recording.activities, recording.devices, recording.streams
        kept.start.extend([event.ts for event in events])
        kept.dur.extend([event.dur for event in events])
        kept.name.extend(recording.names.numbers_of([event.name for event in events]))
        kept.device.extend([numbered(devices, event.pid) for event in events])
        kept.stream.extend([numbered(streams, (event.pid, event.tid)) for event in events])
        kept.correlation.extend(_fitting([event.args.correlation for event in events]))
        kept.external.extend(_fitting([_external(event.args) for event in events]))
        kept.category.extend(categories)


def _event(raw: bytes) -> Any:
    if raw[:1] != b"{":
        return None
    for text in (raw, raw.decode("utf-8", "replace").encode()):
        for decoder in (_EVENT, _BARE):
            try:
                event = decoder.decode(text)
            except BROKEN_JSON:
                continue
            return (
                event
                if isinstance(event, _Event)
                else _Event(*(getattr(event, f) for f in _BareEvent.__struct_fields__))
            )
    return None


def _external(args: _Args) -> int:
    return args.external or args.external_before_1_9


def _fitting(numbers: list[int]) -> list[int]:
    """The numbers, cut to 64 bits if one needs more."""
    if numbers and (max(numbers) > _INT64 or min(numbers) < -_INT64):
        return [number & _INT64 for number in numbers]
    return numbers


def _plain(thread: int | str) -> int | str:
    return (
        int(thread)
        if isinstance(thread, str) and thread.isascii() and thread.isdigit() and len(thread) < 19
        else thread
    )


def _direction(name: str) -> int:
    """Of copies: "Memcpy HtoD (Pageable -> Device)"; older ROCm: "CopyHostToDevice"."""
    if "HtoD" in name or "HostToDevice" in name or "HtoA" in name:
        return FROM_HOST
    if "DtoH" in name or "DeviceToHost" in name or "AtoH" in name:
        return TO_HOST
    return ON_DEVICE


def _at_most(pieces: Iterable[bytes], limit: int) -> list[bytes]:
    kept, size = [], 0
    for piece in pieces:
        if size < limit:
            kept.append(piece)
        size += len(piece)
    return kept
