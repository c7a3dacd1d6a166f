from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from fp8doctor.reading.trace import NotATraceError, add_up, kineto
from tests.reading.trace.made import ELEMENTWISE, NVJET_FP8, Made, training_step
from tests.reading.trace.reading_made import kernels, read


def steps(number: int, layers: int = 4) -> Made:
    made = Made()
    at = 1000.0
    for step in range(number):
        at = training_step(made, at, step, layers)
    return made


def laid_out(made: Made) -> dict[str, bytes]:
    """One trace in the layouts that are about: Kineto's own of several versions, and of programs that rewrote it."""
    document = made.document()
    events = document.pop("traceEvents")
    behind = {**document, "traceEvents": events}
    before = {"traceEvents": events, **document}
    kineto_lines = ",".join(
        "\n  {\n    " + json.dumps(event)[1:-1].replace(', "args"', ',\n    "args"') + "\n  }" for event in events
    )
    head = json.dumps(document)[1:-1]
    return {
        "compact": json.dumps(behind, separators=(",", ":")).encode(),
        "spaced": json.dumps(before).encode(),
        "indented": json.dumps(before, indent=2).encode(),
        "kineto": f'{{\n  {head},\n  "traceEvents": [{kineto_lines}\n  ],\n  "traceName": "x"\n}}'.encode(),
        "list": json.dumps(events).encode(),
        "byte order mark": b"\xef\xbb\xbf" + json.dumps(before).encode(),
    }


@pytest.mark.parametrize("layout", ["compact", "spaced", "indented", "kineto", "list", "byte order mark"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_layout_adds_up_to_the_same(
    tmp_path: Path, layout: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kineto, "CHUNK_BYTES", 20_000)
    monkeypatch.setattr("fp8doctor.reading.trace.opening._READ_BYTES", 1_000)
    made = steps(3)
    text = laid_out(made)[layout]
    path = tmp_path / "trace"
    path.write_bytes(gzip.compress(text) if packed else text)
    trace = add_up([path], kernels())
    assert trace.events == len(made.events)
    assert not trace.cut
    assert trace.us_by_kind == {
        "bf16-gemm": 1236.0, "attention": 960.0, "fp8-gemm": 672.0, "elementwise": 132.0,
        "quantize": 348.0, "amax": 144.0, "normalisation": 108.0, "copy-to-host": 6.0,
    }  # fmt: skip
    if layout != "list":
        assert trace.device_names == ("NVIDIA H200",)


def test_braces_and_quotation_marks_in_names_end_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of lambdas are named so: `{lambda()#1}, {lambda(float)#2}`."""
    monkeypatch.setattr(kineto, "CHUNK_BYTES", 3_000)
    made = Made()
    name = 'k<{lambda()#1}, {"ph": "X"}, {\\"\\\\>: [{'
    for at in range(500):
        made.kernel(name, 10.0 * at, 1)
    trace = read(made, tmp_path)
    assert trace.us_by_kind == {"other": 500}
    assert trace.events == 500


def test_a_file_that_ends_in_the_middle_counts_until_there(tmp_path: Path) -> None:
    made = steps(4)
    text = laid_out(made)["kineto"]
    for kept, packed in ((0.5, False), (0.99, False), (0.5, True)):
        path = tmp_path / f"cut{kept}{packed}"
        data = gzip.compress(text) if packed else text
        path.write_bytes(data[: int(len(data) * kept)])
        trace = add_up([path], kernels())
        assert trace.cut
        assert 0.3 * len(made.events) < (trace.events or 0) < len(made.events)


def test_what_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b'{"traceEvents": [' + b'{"ph": "X"},' * 3_000_000))
    with pytest.raises(NotATraceError, match=r"bomb.json.gz holds more than 0\.0186 GiB unpacked"):
        add_up([path], kernels(), max_bytes=20_000_000)


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("missing.json", lambda path: None, "cannot be read: No such file"),
        ("folder", lambda path: path.mkdir(), "is a folder"),
        ("empty.json", write(b""), "is empty"),
        ("text.json", write(b"Traceback (most recent call last)"), "is no JSON"),
        ("facts.json", write(b'{"schema": "fp8doctor.facts"}'), "is JSON, and no trace"),
        ("broken.json", write(b'{"a": [1,, 2]}'), "broken JSON"),
        ("graph.json", write(b'{"schema": "1.0", "nodes": []}'), "execution trace"),
        ("head.json", write(b'{"schemaVersion": 1, "deviceProperties": ['), "ends before its events begin"),
        ("never.json", write(b'{"schemaVersion": 1, "traceEvents": []}'), "schedule never reached its active steps"),
        ("cut.json", write(b'{"schemaVersion": 1, "traceEvents": [{"ph"'), "ends before its first event"),
        ("report.nsys-rep", write(b"anything"), "nsys export --type sqlite"),
        ("trace.zip", write(b"PK\x03\x04abc"), "zip archive: unpack it first"),
        ("broken.gz", write(b"\x1f\x8bnot at all"), "is gzip by its first bytes, and broken"),
        ("other.sqlite", write(b"SQLite format 3\x00 and no more"), "is an SQLite file"),
        ("deep.json", write(b'{"a":' * 200_000), "is cut"),
        ("long.json", write(b'{"traceEvents": [{"name": "' + b"a" * 40_000_000), "more than 8 MiB: no trace has"),
        ("marks.json", write(b'{"traceEvents": [{"ph":"M","name":"process_name"}]}'), "no operator and no GPU"),
    ],
)
def test_what_is_no_trace_is_refused_in_a_sentence(
    tmp_path: Path, name: str, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(NotATraceError, match=message) as caught:
        add_up([tmp_path / name], kernels())
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    "event",
    [
        b'{"ph":"X","cat":"kernel","name":"k","ts":NaN,"dur":1}',
        b'{"ph":"X","cat":"kernel","name":"k","ts":1,"dur":-1}',
        b'{"ph":"X","cat":"kernel","name":"k","ts":1,"dur":1e300}',
        b'{"ph":"X","cat":"kernel","name":"k","ts":1e999,"dur":1}',
        b'{"ph":"X","cat":"kernel","name":["k"],"ts":1,"dur":1}',
        b'{"ph":"X","cat":"kernel","name":"k","ts":"1","dur":1}',
        b'{"ph":"X","cat":"kernel","name":"k","ts":1,"dur":1,"pid":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'"not an object"',
        b"17",
        b"null",
    ],
)
def test_a_broken_event_is_skipped_and_the_others_count(tmp_path: Path, event: bytes) -> None:
    good = b'{"ph":"X","cat":"kernel","name":"good","pid":0,"tid":7,"ts":5,"dur":2}'
    path = tmp_path / "trace.json"
    path.write_bytes(b'{"traceEvents":[' + b",".join((good, event, good)) + b"]}")
    trace = add_up([path], kernels())
    assert trace.us_by_kind == {"other": 4}
    assert not trace.cut


def test_an_event_with_broken_args_counts_without_them(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(
        b'{"traceEvents":[{"ph":"X","cat":"kernel","name":"good","pid":0,"tid":7,"ts":5,"dur":2,'
        b'"args":{"correlation":"0x12","External id":[]}},{"ph":"X","cat":"kernel","name":"n\xff","ts":9,"dur":1}]}'
    )
    assert add_up([path], kernels()).us_by_kind == {"other": 3}


def test_a_trace_of_the_host_alone_is_no_error(tmp_path: Path) -> None:
    made = Made()
    made.operator("aten::mm", 10, 20)
    trace = read(made, tmp_path)
    assert trace.accelerator == "cpu"
    assert trace.us_by_kind is None
    assert [(row.name, row.host_self_us) for row in trace.operators or ()] == [("aten::mm", 20)]


def test_a_stray_time_does_not_stretch_the_recording(tmp_path: Path) -> None:
    made = steps(1)
    span = read(made, tmp_path).span_us
    made.kernel("stray", 9e15, 1)
    assert read(made, tmp_path).span_us == span


def test_names_without_end_are_kept_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fp8doctor.reading.trace.names.MAX_NAMES", 100)
    made = Made()
    made.kernel(NVJET_FP8, 0, 5)
    for at in range(1000):
        made.kernel(f"k{at}", 10 + 2 * at, 1)
    trace = read(made, tmp_path)
    assert trace.us_by_kind == {"other": 1000, "fp8-gemm": 5}
    assert len(trace.kernels or ()) == 100


def test_the_categories_of_the_first_profilers_are_known(tmp_path: Path) -> None:
    """PyTorch 1.8: "Operator", "Runtime", "Kernel", "external id", "stream 7", and threads as text."""
    events = [
        {"ph": "X", "cat": "Operator", "name": "ProfilerStep#1", "pid": 9, "tid": "9", "ts": 0, "dur": 100},
        {"ph": "X", "cat": "Operator", "name": "aten::mm", "pid": 9, "tid": "9", "ts": 1, "dur": 9,
         "args": {"External id": 3, "Input Dims": [[4, 8], [8, 2]], "Input type": ["float", "float"]}},
        {"ph": "X", "cat": "Runtime", "name": "cudaLaunchKernel", "pid": 9, "tid": "9", "ts": 2, "dur": 5,
         "args": {"correlation": 11, "external id": 3}},
        {"ph": "X", "cat": "Kernel", "name": "volta_sgemm_128x32_nt", "pid": 0, "tid": "stream 7", "ts": 9, "dur": 4,
         "args": {"correlation": 11, "external id": 3, "stream": 7}},
        {"ph": "X", "cat": "Memcpy", "name": "Memcpy HtoD (Pageable -> Device)", "pid": 0, "tid": "stream 7", "ts": 20,
         "dur": 2, "args": {}},
    ]  # fmt: skip
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events}))
    trace = add_up([path], kernels())
    assert trace.us_by_kind == {"fp32-gemm": 4, "copy-from-host": 2}
    assert (trace.steps, trace.launches) == (1, 1)
    assert [(p.m, p.k, p.n) for p in trace.products or ()] == [(4, 8, 2)]


def test_the_trace_of_an_amd_gpu_is_rocm(tmp_path: Path) -> None:
    made = Made()
    external = made.operator("aten::mm", 0, 10, [[4, 8], [8, 2]], ["c10::Float8_e4m3fnuz", "c10::Float8_e4m3fnuz"])
    correlation = made.call("hipExtModuleLaunchKernel", 1, 5, external=external)
    made.kernel("Cijk_Alik_Bljk_F8NBS_BH_MT128x128x64", 20, 5, correlation, external)
    amd = {"id": 0, "name": "AMD Instinct MI300X", "computeMajor": 9, "computeMinor": 4}
    trace = read(made, tmp_path, deviceProperties=[amd])
    assert trace.accelerator == "rocm"
    assert trace.device_names == ("AMD Instinct MI300X",)
    assert trace.compute_capabilities is None
    assert trace.us_by_kind == {"fp8-gemm": 5}
    assert trace.launches == 1


def test_memory_does_not_grow_with_the_length_of_the_trace(tmp_path: Path) -> None:
    """Some bytes an event, where a decoded event takes a thousand."""
    made = steps(40, layers=10)
    path = made.write(tmp_path)
    count, size = len(made.events), path.stat().st_size
    del made
    add_up([path], kernels())
    tracemalloc.start()
    add_up([path], kernels())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * kineto.CHUNK_BYTES + 300 * count
    assert size > 1_000_000


def test_twenty_megabytes_take_about_a_second(tmp_path: Path) -> None:
    """A second of the processor is the aim, and four leave room for a loaded machine."""
    from benchmarks.trace_reading import repeated

    path = tmp_path / "trace.json"
    repeated(steps(1, 24).events, path, 20_000_000)
    started = time.process_time()
    trace = add_up([path], kernels())
    assert time.process_time() - started < 4
    assert any(ELEMENTWISE.startswith(kernel.name or "-") for kernel in trace.kernels or ())
