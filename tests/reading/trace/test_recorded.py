"""Traces that the installed PyTorch records here, on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from fp8doctor.reading.trace import add_up
from tests.reading.trace.reading_made import kernels

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_what_this_torch_records_is_read(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    from torch.profiler import ProfilerActivity, profile, schedule

    path = tmp_path / name
    model, data = torch.nn.Linear(64, 32), torch.randn(16, 64)
    with profile(
        activities=[ProfilerActivity.CPU],
        schedule=schedule(wait=1, warmup=1, active=2),
        on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(path)),
        record_shapes=True,
        with_stack=True,
    ) as profiler:
        for _ in range(4):
            model(data).sum().item()
            profiler.step()
    trace = add_up([path], kernels())
    assert (trace.accelerator, trace.steps, trace.cut, trace.skipped_events) == ("cpu", 2, False, 0)
    assert trace.has_shapes
    assert trace.has_stacks
    counts = {row.name: row.count for row in trace.operators or ()}
    assert counts["aten::addmm"] == counts["aten::linear"] == 2
