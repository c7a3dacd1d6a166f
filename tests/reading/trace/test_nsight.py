from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.reading.trace import NotATraceError, add_up
from fp8doctor.traced import Trace
from tests.reading.trace.made import NVJET_BF16, NVJET_FP8
from tests.reading.trace.reading_made import kernels

PROCESS = 0x1000_0000_2A00_0000
THREAD = PROCESS | 7
# NVIDIA's "SQLite Export Schema Reference": the columns that are read, and one or two that are not.
TABLES = {
    "StringIds": "id INTEGER PRIMARY KEY, value TEXT NOT NULL",
    "CUPTI_ACTIVITY_KIND_KERNEL": "start INT, end INT, deviceId INT, contextId INT, streamId INT, correlationId INT,"
    " globalPid INT, demangledName INT, shortName INT, gridX INT",
    "CUPTI_ACTIVITY_KIND_MEMCPY": "start INT, end INT, deviceId INT, streamId INT, correlationId INT, globalPid INT,"
    " bytes INT, copyKind INT",
    "CUPTI_ACTIVITY_KIND_MEMSET": "start INT, end INT, deviceId INT, streamId INT, correlationId INT, globalPid INT",
    "CUPTI_ACTIVITY_KIND_RUNTIME": "start INT, end INT, eventClass INT, globalTid INT, correlationId INT, nameId INT",
    "NVTX_EVENTS": "start INT, end INT, eventType INT, text TEXT, globalTid INT, textId INT",
    "TARGET_INFO_GPU": "id INT, name TEXT, computeMajor INT, computeMinor INT",
}
TEXTS = [NVJET_FP8, NVJET_BF16, "cudaLaunchKernel_v7000", "cudaStreamSynchronize_v3020", "aten::mm, seq = 4, op_id = 9"]
ROWS: dict[str, list[tuple[Any, ...]]] = {
    "StringIds": list(enumerate(TEXTS, 1)),
    "CUPTI_ACTIVITY_KIND_KERNEL": [
        (10_000, 66_000, 0, 1, 7, 100, PROCESS, 1, 1, 1),
        (100_000, 203_000, 0, 1, 7, 101, PROCESS, 2, 2, 1),
    ],
    "CUPTI_ACTIVITY_KIND_MEMCPY": [(300_000, 302_000, 0, 7, 102, PROCESS, 64, 2)],
    "CUPTI_ACTIVITY_KIND_MEMSET": [(310_000, 311_000, 0, 7, 103, PROCESS)],
    "CUPTI_ACTIVITY_KIND_RUNTIME": [
        (2_000, 6_000, 0, THREAD, 100, 3),
        (70_000, 76_000, 0, THREAD, 101, 3),
        (80_000, 220_000, 0, THREAD, 104, 4),
    ],
    "NVTX_EVENTS": [
        (1_000, 8_000, 59, "aten::_scaled_mm, op_id = 3, sizes = [[64, 32], [32, 16], []]", THREAD, None),
        (69_000, 78_000, 59, None, THREAD, 5),
        (0, 400_000, 59, "Step 1", THREAD, None),
        (0, 400_000, 60, "aten::native_layer_norm", THREAD, None),
        (0, 400_000, 59, "my forward", THREAD, None),
    ],
    "TARGET_INFO_GPU": [(0, "NVIDIA H200", 9, 0)],
}


def export(folder: Path, without: tuple[str, ...] = (), extra: dict[str, str] | None = None) -> Path:
    path = folder / "report.sqlite"
    with sqlite3.connect(path) as database:
        for table, columns in {**TABLES, **(extra or {})}.items():
            if table in without:
                continue
            database.execute(f"CREATE TABLE {table} ({columns})")
            for row in ROWS.get(table, []):
                database.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
    database.close()
    return path


def read(path: Path) -> Trace:
    return add_up([path], kernels())


def test_an_export_adds_up_like_a_trace(tmp_path: Path) -> None:
    trace = read(export(tmp_path))
    assert trace.format == "nsight-systems"
    assert trace.device_names == ("NVIDIA H200",)
    assert trace.compute_capabilities == ("9.0",)
    assert trace.us_by_kind == {"bf16-gemm": 103, "fp8-gemm": 56, "copy-to-host": 2, "fill": 1}
    # The step ends 89 us after its last activity.
    assert (trace.span_us, trace.busy_us) == (390, 162)
    assert (trace.steps, trace.step_us, trace.launches) == (1, 400, 2)
    (wait,) = trace.waits or ()
    assert (wait.call, wait.us, wait.idle_us) == ("cudaStreamSynchronize_v3020", 140, 37)
    assert trace.missing is None


def test_ranges_of_emit_nvtx_are_the_operators(tmp_path: Path) -> None:
    trace = read(export(tmp_path))
    told = {kernel.kind: (kernel.operator, kernel.known_by) for kernel in trace.kernels or ()}
    assert told["fp8-gemm"] == ("aten::_scaled_mm", "operator")
    assert told["bf16-gemm"][0] == "aten::mm"
    assert [(p.m, p.k, p.n) for p in trace.products or ()] == [(64, 32, 16)]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("CUPTI_ACTIVITY_KIND_RUNTIME", "no table of runtime calls"),
        ("NVTX_EVENTS", "no NVTX ranges"),
        ("CUPTI_ACTIVITY_KIND_KERNEL", "no table of kernels"),
        ("StringIds", None),
        ("TARGET_INFO_GPU", None),
    ],
)
def test_a_missing_table_is_told(tmp_path: Path, table: str, said: str | None) -> None:
    missing = " ".join(read(export(tmp_path, (table,))).missing or ())
    assert (said or "") in missing


def test_kernels_in_graphs_recorded_whole_are_told(tmp_path: Path) -> None:
    table = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
    path = export(
        tmp_path, extra={table: "start INT, end INT, deviceId INT, streamId INT, correlationId INT, globalPid INT"}
    )
    with sqlite3.connect(path) as database:
        database.execute(f"INSERT INTO {table} VALUES (500000, 600000, 0, 7, 200, {PROCESS})")
    database.close()
    trace = read(path)
    assert (trace.us_by_kind or {})["other"] == 100
    assert "--cuda-graph-trace=node" in " ".join(trace.missing or ())


def test_two_processes_may_use_the_same_correlation(tmp_path: Path) -> None:
    path = export(tmp_path)
    other = PROCESS + (1 << 24)
    with sqlite3.connect(path) as database:
        database.execute(
            f"INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (210000, 211000, 0, 1, 7, 100, {other}, 2, 2, 1)"
        )
    database.close()
    kinds = {(kernel.kind, kernel.operator) for kernel in read(path).kernels or ()}
    assert ("bf16-gemm", None) in kinds


def test_another_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cookies.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE cookies (id INT)")
    database.close()
    with pytest.raises(NotATraceError, match="no export of Nsight Systems"):
        read(path)


def test_wrong_types_and_missing_columns_are_skipped_and_told(tmp_path: Path) -> None:
    path = tmp_path / "report.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start, end)")
        database.executemany(
            "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?)",
            [(0, 1000), ("zero", 1), (5, None), (9, 3), (2000, 3000)],
        )
        database.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INT)")
    database.close()
    trace = read(path)
    assert trace.us_by_kind == {"other": 2}
    assert trace.skipped_events == 3
    assert "CUPTI_ACTIVITY_KIND_MEMCPY has no column end" in (trace.missing or ())


def test_an_export_is_not_written_to(tmp_path: Path) -> None:
    path = export(tmp_path)
    before = path.read_bytes()
    path.chmod(0o444)
    read(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["report.sqlite"]


def test_an_export_that_was_copied_in_part_counts_as_far_as_it_goes(tmp_path: Path) -> None:
    path = export(tmp_path)
    data = path.read_bytes()
    seen = set()
    for pages in range(1, len(data) // 4096):
        path.write_bytes(data[: pages * 4096])
        try:
            seen.add(read(path).cut)
        except NotATraceError as error:
            seen.add("broken" in str(error))
    assert True in seen
