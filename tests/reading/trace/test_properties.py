"""Whatever stands in a trace, it is read to the end, and the sums are right."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fp8doctor.reading.trace import NotATraceError, add_up, intervals, kineto
from fp8doctor.traced import KINDS
from tests.reading.trace.made import ELEMENTWISE, NVJET_BF16, NVJET_FP8
from tests.reading.trace.reading_made import kernels

SANE = settings(max_examples=120, deadline=None)
TIMES = st.floats(0, 1e6).map(lambda us: round(us, 3))
DURATIONS = st.floats(0, 1e4).map(lambda us: round(us, 3))
NAMES = st.sampled_from(
    [
        NVJET_FP8,
        NVJET_BF16,
        ELEMENTWISE,
        "aten::mm",
        "aten::_scaled_mm",
        "ncclDevKernel",
        "cudaLaunchKernel",
        "cudaStreamSynchronize",
        "cudaMemcpyAsync",
        "cudaGraphLaunch",
        "ProfilerStep#1",
        "nn.Module: Linear_1",
        "dynamo",
        "Torch-Compiled Region",
        "aten::copy_",
        "Memcpy DtoH",
        "triton_poi_fused_add_0",
        "}, {",
        '\\"',
        "\u00fc",
    ]
)
CATEGORIES = st.sampled_from(
    ["kernel", "gpu_memcpy", "gpu_memset", "cpu_op", "cuda_runtime", "user_annotation", "python_function", "ac2g", ""]
)
LINKS = st.integers(0, 30)
SIZES = st.lists(st.lists(st.integers(0, 64), max_size=4), max_size=4)
EVENTS = st.fixed_dictionaries(
    {
        "ph": st.just("X"),
        "cat": CATEGORIES,
        "name": NAMES,
        "pid": st.integers(0, 1),
        "tid": st.integers(0, 3),
        "ts": TIMES,
        "dur": DURATIONS,
    },
    optional={
        "args": st.fixed_dictionaries(
            {},
            optional={
                "External id": LINKS,
                "correlation": LINKS,
                "Input Dims": SIZES,
                "Input type": st.lists(st.sampled_from(["c10::BFloat16", "c10::Float8_e4m3fn", "", "float"])),
            },
        )
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(["ph", "cat", "name", "pid", "tid", "ts", "dur", "args"])
STRANGE = st.dictionaries(KEYS, JSON | CATEGORIES | NAMES, max_size=8)


def written(events: list[Any]) -> Path:
    path = Path(tempfile.mkdtemp()) / "trace.json"
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events}))
    return path


def duration_us(events: list[dict[str, Any]], device: int) -> float:
    gpu = ("kernel", "gpu_memcpy", "gpu_memset")
    return sum(float(event["dur"]) for event in events if event["cat"] in gpu and event["pid"] == device)


@SANE
@given(st.lists(EVENTS, min_size=1, max_size=40), st.sampled_from([200, 1000, 4 << 20]))
def test_the_kinds_sum_to_all_gpu_time_and_nothing_is_busy_longer_than_it_lasts(
    events: list[dict[str, Any]], chunk_bytes: int
) -> None:
    path = written(events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kineto, "CHUNK_BYTES", chunk_bytes)
        patch.setattr("fp8doctor.reading.trace.opening._READ_BYTES", 100)
        try:
            trace = add_up([path], kernels())
        except NotATraceError:
            assert all(event["cat"] in ("ac2g", "", "user_annotation", "python_function") for event in events)
            return
    assert trace.events == len(events)
    assert trace.skipped_events == 0
    if trace.us_by_kind is None:
        assert trace.accelerator == "cpu"
        return
    assert set(trace.us_by_kind) <= set(KINDS)
    # What was launched before the first recorded call is counted apart.
    most = max(duration_us(events, 0), duration_us(events, 1)) - (trace.before_us or 0)
    assert sum(trace.us_by_kind.values()) == pytest.approx(most, abs=0.1)
    assert trace.span_us is not None
    assert trace.busy_us is not None
    assert trace.idle_us is not None
    assert 0 <= trace.busy_us <= trace.span_us
    assert trace.busy_us + trace.idle_us == pytest.approx(trace.span_us, abs=0.01)
    assert (trace.exposed_communication_us or 0) <= (trace.communication_us or 0) + 0.01
    assert sum(kernel.us or 0 for kernel in trace.kernels or ()) == pytest.approx(most, abs=0.1)
    if trace.idle_launching_us is not None:
        parts = (trace.idle_launching_us, trace.idle_waiting_us or 0, trace.idle_elsewhere_us or 0)
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(trace.idle_us, abs=0.01)
        assert (trace.idle_loading_us or 0) + (trace.idle_between_us or 0) <= parts[2] + 0.01


@SANE
@given(st.lists(STRANGE | EVENTS | JSON, max_size=20))
def test_strange_events_are_no_trouble(events: list[Any]) -> None:
    with contextlib.suppress(NotATraceError):
        add_up([written(events)], kernels())


@SANE
@given(st.lists(EVENTS, min_size=1, max_size=12), st.data())
def test_a_trace_cut_or_broken_anywhere_is_read_or_refused(events: list[dict[str, Any]], data: st.DataObject) -> None:
    path = written(events)
    text = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(text) - 1))
    if data.draw(st.booleans()):
        text = text[:at]
    else:
        text[at] = data.draw(st.integers(0, 255))
    path.write_bytes(text)
    with contextlib.suppress(NotATraceError):
        assert (add_up([path], kernels()).events or 0) <= len(events)


STRETCHES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=12)


def stretches(pairs: list[tuple[int, int]]) -> tuple[intervals.Stretches, set[int]]:
    made = intervals.Stretches()
    for start, length in sorted(pairs):
        made.add(start, start + length)
    return made, {at for start, length in pairs for at in range(start, start + length)}


@given(STRETCHES, STRETCHES)
def test_stretches_are_sets_of_time(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    (a, in_a), (b, in_b) = stretches(first), stretches(second)
    assert a.total_us == len(in_a)
    assert intervals.union((a, b)).total_us == len(in_a | in_b)
    assert intervals.without(a, b).total_us == len(in_a - in_b)
    assert intervals.overlap_us(a, b) == len(in_a & in_b)
    whole = set(range(min(in_a), max(in_a) + 1)) if in_a else set()
    assert a.gaps().total_us == len(whole - in_a)
    assert intervals.Overlap(a).us(10, 30) == len(in_a & set(range(10, 30)))
