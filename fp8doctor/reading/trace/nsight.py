"""What does an SQLite export of Nsight Systems hold?

The tables: NVIDIA, "SQLite Export Schema Reference" of Nsight Systems 2021.5, and exports of public projects since.
Tables are made as events come, so each may be missing, and columns came and went; times are nanoseconds.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fp8doctor.reading.trace.operators import has_sizes, role
from fp8doctor.reading.trace.recording import (
    CALL,
    FILL,
    FROM_HOST,
    KERNEL,
    ON_DEVICE,
    OPERATOR,
    TO_HOST,
    Recording,
    keep_step,
    numbered,
)
from fp8doctor.reading.trace.refusal import NotATraceError

# The second is what sqlite3 itself raises where a broken name would stand in the message of the first.
_BROKEN = (sqlite3.Error, UnicodeError)
MAX_ROWS = 50_000_000
MAX_SHAPES = 20_000
_KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"
_CALLS = "CUPTI_ACTIVITY_KIND_RUNTIME"
_SYNCHRONIZING = "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION"
_GRAPHS = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
_RANGES = "NVTX_EVENTS"
# NvtxPushPopRange; ranges that start and end anywhere (60) need not be nested.
_PUSH_POP = 59
# CUpti_ActivityMemcpyKind; all others stay on devices.
_COPY_KINDS = {1: FROM_HOST, 3: FROM_HOST, 2: TO_HOST, 4: TO_HOST}
# CUpti_ActivitySynchronizationType, as the calls are named.
_SYNC_CALLS = {1: "cudaEventSynchronize", 3: "cudaStreamSynchronize", 4: "cudaDeviceSynchronize"}
# What torch.autograd.profiler.emit_nvtx puts behind an operator's name (the strings of libtorch_cpu 2.13).
_SUFFIX = re.compile(r", (seq|op_id|sizes|input_op_ids) = ")
_SIZES = re.compile(r", sizes = (\[[\[\]\d, ]*\])")
_STEP = re.compile(r"(?i)^(profilerstep#|step|iteration|iter)[ _:#]*\d+$")


def read(path: Path) -> Recording:
    """The events of one export; what it lacks is told in `missing`.

    Raises:
        NotATraceError: if it is another database, or broken.
    """
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        database.text_factory = lambda text: text.decode("utf-8", "replace")
        try:
            return _Export(path, database).read()
        finally:
            database.close()
    except _BROKEN:
        raise NotATraceError(f"{path} is an SQLite file, and broken") from None


class _Export:
    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self.database = database
        self.recording = Recording(format="nsight-systems")
        found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        self.tables = {name for (name,) in found if isinstance(name, str)}
        self.processes: dict[Any, int] = {}

    def read(self) -> Recording:
        if not self.tables & {_KERNELS, _CALLS, _RANGES, "StringIds", "TARGET_INFO_GPU"}:
            raise NotATraceError(f"{self.path} is an SQLite file, and no export of Nsight Systems")
        for part in (self._kernels, self._memory, self._graphs, self._calls, self._ranges, self._devices):
            try:
                part()
            except _BROKEN:  # a file that was copied in part: what was read counts
                self.recording.cut = True
        if self.recording.cut and not self.recording.events:
            raise NotATraceError(f"{self.path} is an SQLite file, and broken")
        for table, what in (
            (_KERNELS, "no table of kernels"),
            (_CALLS, "no table of runtime calls: what the host did is not known"),
            (_RANGES, "no NVTX ranges: the operators above the kernels are not known"),
        ):
            if table not in self.tables:
                self.recording.missing.append(what)
        return self.recording

    def _rows(self, table: str, wanted: str, needed: str = "start end") -> Iterator[tuple[Any, ...]]:
        """The wanted columns of a table, None where it has no such column; nothing if a needed one is missing."""
        if table not in self.tables:
            return
        columns = {name for _, name, *_ in self.database.execute(f'PRAGMA table_info("{table}")')}
        lacking = sorted(set(needed.split()) - columns)
        if lacking:
            self.recording.missing.append(f"{table} has no column {', '.join(lacking)}")
            return
        chosen = ", ".join(f'"{name}"' if name in columns else "NULL" for name in wanted.split())
        for row in self.database.execute(f'SELECT {chosen} FROM "{table}" LIMIT {MAX_ROWS}'):
            self.recording.events += 1
            start, end = row[0], row[1]
            if type(start) is int and type(end) is int and 0 <= end - start < 10**15 and abs(start) < 10**18:
                yield row
            else:
                self.recording.skipped += 1

    def _texts(self, table: str, column: str) -> dict[Any, str]:
        """The texts that a column of a table refers to."""
        if not {table, "StringIds"} <= self.tables:
            return {}
        columns = {name for _, name, *_ in self.database.execute(f'PRAGMA table_info("{table}")')}
        if column not in columns:
            return {}
        query = f'SELECT id, value FROM StringIds WHERE id IN (SELECT DISTINCT "{column}" FROM "{table}")'
        return {key: text for key, text in self.database.execute(query) if isinstance(text, str)}

    def _link(self, process: Any, correlation: Any) -> int:
        """A correlation is a number of its process alone."""
        if type(correlation) is not int or not 0 < correlation < 1 << 40:
            return 0
        return numbered(self.processes, process) % (1 << 22) << 40 | correlation

    def _activity(self, row: tuple[Any, ...], name: str, category: int) -> None:
        start, end, device, stream, correlation, process = row[:6]
        kept, recording = self.recording.activities, self.recording
        kept.start.append(start / 1000)
        kept.dur.append((end - start) / 1000)
        kept.name.append(recording.names.number(name))
        kept.device.append(numbered(recording.devices, device))
        kept.stream.append(numbered(recording.streams, (device, stream)))
        kept.correlation.append(self._link(process, correlation))
        kept.external.append(0)
        kept.category.append(category)

    def _kernels(self) -> None:
        long, short = self._texts(_KERNELS, "demangledName"), self._texts(_KERNELS, "shortName")
        wanted = "start end deviceId streamId correlationId globalPid demangledName shortName"
        for row in self._rows(_KERNELS, wanted):
            self._activity(row, long.get(row[6]) or short.get(row[7]) or "(kernel without a name)", KERNEL)

    def _memory(self) -> None:
        self._copies("CUPTI_ACTIVITY_KIND_MEMCPY", "Memcpy")
        self._copies("CUPTI_ACTIVITY_KIND_MEMSET", "Memset")

    def _copies(self, table: str, name: str) -> None:
        for row in self._rows(table, "start end deviceId streamId correlationId globalPid copyKind"):
            kind = FILL if name == "Memset" else _COPY_KINDS.get(row[6], ON_DEVICE)
            self._activity(row, name + {FROM_HOST: " HtoD", TO_HOST: " DtoH", ON_DEVICE: " DtoD"}.get(kind, ""), kind)

    def _graphs(self) -> None:
        whole = 0
        for row in self._rows(_GRAPHS, "start end deviceId streamId correlationId globalPid"):
            whole += 1
            self._activity(row, "(CUDA graph)", KERNEL)
        if whole:
            self.recording.missing.append(
                "no kernels in CUDA graphs, which were recorded whole: take nsys profile --cuda-graph-trace=node"
            )

    def _host(self, start: int, end: int, thread: Any, name: str, link: int, shape: int, what: int) -> None:
        host, recording = self.recording.host, self.recording
        host.start.append(start / 1000)
        host.end.append(end / 1000)
        host.name.append(recording.names.number(name))
        host.thread.append(numbered(recording.threads, thread))
        host.link.append(link)
        host.shape.append(shape)
        host.what.append(what)

    def _calls(self) -> None:
        names = self._texts(_CALLS, "nameId")
        for start, end, thread, correlation, name in self._rows(_CALLS, "start end globalTid correlationId nameId"):
            # The lowest 24 bits of a thread's number are its own, the rest its process's.
            process = thread & ~0xFFFFFF if type(thread) is int else thread
            self._host(start, end, thread, names.get(name, "(call)"), self._link(process, correlation), 0, CALL)
        if _CALLS not in self.tables:
            for start, end, process, sort in self._rows(_SYNCHRONIZING, "start end globalPid syncType"):
                if sort in _SYNC_CALLS:
                    self._host(start, end, process, _SYNC_CALLS[sort], 0, 0, CALL)

    def _ranges(self) -> None:
        texts = self._texts(_RANGES, "textId")
        operators = 0
        for start, end, sort, text, number, thread in self._rows(_RANGES, "start end eventType text textId globalTid"):
            said = text if isinstance(text, str) else texts.get(number)
            if said is None or sort not in (_PUSH_POP, None):
                continue
            if _STEP.search(said):
                keep_step(self.recording.steps, said, start / 1000, end / 1000)
                continue
            name = _SUFFIX.split(said, maxsplit=1)[0]
            if name != said or "::" in name or role(name) is not None:
                operators += 1
                self._host(start, end, thread, name, 0, self._shape(name, said), OPERATOR)
        if _RANGES in self.tables and not operators:
            self.recording.missing.append(
                "no operators among the NVTX ranges: record under torch.autograd.profiler.emit_nvtx()"
            )

    def _shape(self, name: str, said: str) -> int:
        found = _SIZES.search(said)
        if found is None:
            return 0
        self.recording.has_shapes = True
        shapes = self.recording.shapes
        key = (name, found[1].encode(), b"")
        if not has_sizes(name) or (key not in shapes and len(shapes) >= MAX_SHAPES):
            return 0
        return shapes.setdefault(key, len(shapes) + 1)

    def _devices(self) -> None:
        if "TARGET_INFO_GPU" not in self.tables:
            return
        columns = {name for _, name, *_ in self.database.execute('PRAGMA table_info("TARGET_INFO_GPU")')}
        if "name" not in columns or not columns & {"id", "cuDevice"}:
            return
        number = "cuDevice" if "cuDevice" in columns else "id"
        known = {"computeMajor", "computeMinor"} <= columns
        chosen = f'"{number}", name, ' + ("computeMajor, computeMinor" if known else "NULL, NULL")
        for device, name, major, minor in self.database.execute(f"SELECT {chosen} FROM TARGET_INFO_GPU LIMIT 1000"):
            if isinstance(name, str):
                self.recording.properties[device] = (name[:200], f"{major}.{minor}" if known else None)
