"""The timing of one shape, with torch on the CPU and a stub for its device: what is kept of each case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fp8doctor.checks.linear.facts import Case
from fp8doctor.checks.linear.timing import LAUNCHES_SHOW, ShapeBench
from fp8doctor.checks.linear.variants import Layer, Variant
from fp8doctor.measuring.timer import Timer
from tests.stub_cuda import StubTorch

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch
M, K, N = 16, 64, 32
BF16 = Variant("torch-bf16", "bf16-output", lambda torch, weight: lambda x: x @ weight.t(), multiplies_in_fp8=False)
GRAPH = "torch-bf16+cudagraph"


def timed(
    stub: StubTorch, layer: Layer | None = None, weight: Any = None, others: tuple[Variant, ...] = ()
) -> dict[tuple[str, str], Case]:
    """The cases that are kept of one shape: BF16, its graph, the bare products, and other layers."""
    if weight is None:
        weight = torch.randn(N, K, generator=torch.Generator().manual_seed(2)).bfloat16() / K**0.5
    timer = Timer(stub, torch.device("cpu"))
    timer.calibrate()
    kept: dict[tuple[str, str], Case] = {}

    def keep(case: Case) -> None:
        kept[case.config or "", case.kind or ""] = case

    built = {BF16.config: (BF16, layer or BF16.build(torch, weight))}
    built |= {other.config: (other, other.build(torch, weight)) for other in others}
    bench = ShapeBench(stub, timer, M, weight, built, frozenset([BF16.config]), False, keep)
    bench.time_device(2, epoch_s=0.0)
    for _ in range(3):
        bench.time_calls()
    bench.keep_calls()
    return kept


def test_a_layer_has_the_devices_time_the_calls_and_the_hosts_part_of_it() -> None:
    case = timed(StubTorch(torch))["torch-bf16", "layer"]
    assert (case.outcome, case.m, case.k, case.n) == ("ok", M, K, N)
    assert case.device_us is not None
    assert case.device_us.n == 10
    assert case.call_us is not None
    assert case.host_us is not None
    assert case.call_us.n == case.host_us.n == 3
    assert 0 < case.host_us.low <= case.call_us.high
    assert case.relative_error is not None
    assert case.relative_error <= (case.relative_error_limit or 0)


def test_nobody_waits_for_the_call_of_a_bare_product() -> None:
    product = timed(StubTorch(torch))["torch-bf16", "gemm"]
    assert product.device_us is not None
    assert product.call_us is product.host_us is None


def test_a_graph_is_compared_itself_and_carries_its_own_error() -> None:
    output = torch.empty(M, N, dtype=torch.bfloat16)
    weight = torch.randn(N, K, generator=torch.Generator().manual_seed(2)).bfloat16() / K**0.5
    stub = StubTorch(torch)
    stub.on_replay = lambda: output.fill_(0)
    kept = timed(stub, lambda x: output.copy_(x @ weight.t()), weight)
    twin, graph = kept["torch-bf16", "layer"], kept[GRAPH, "layer"]
    assert twin.relative_error is not None
    assert twin.relative_error < 0.01
    assert graph.relative_error == 1.0
    assert graph.relative_error_limit == twin.relative_error_limit


def test_a_graph_that_cannot_be_captured_carries_nothing_of_its_twin() -> None:
    stub = StubTorch(torch)
    stub.capture_error = "CUDA error: operation not permitted when stream is capturing"
    kept = timed(stub)
    said = f"RuntimeError: {stub.capture_error}"
    assert kept[GRAPH, "layer"] == Case(GRAPH, "layer", M, K, N, outcome="error", error=said)
    assert kept["torch-bf16", "layer"].outcome == "ok"


@pytest.mark.timeout(20)
def test_where_launches_show_no_time_is_kept() -> None:
    kept = timed(StubTorch(torch, launches_show=True))
    assert {("torch-bf16", "layer"), (GRAPH, "layer"), ("torch-bf16", "gemm")} <= set(kept)
    for case in kept.values():
        if case.outcome not in ("refused", "error"):
            assert (case.outcome, case.error) == ("not-measured", LAUNCHES_SHOW)
        assert case.device_us is case.call_us is case.host_us is None


@pytest.mark.timeout(20)
def test_a_call_that_waits_for_the_device_is_timed_at_the_call_alone() -> None:
    """Its launches cannot be queued behind a spin, and nobody's CUDA_LAUNCH_BLOCKING is to blame."""
    waits = replace(BF16, config="torchao-int8-dynamic", reads_back=True)
    kept = timed(StubTorch(torch), others=(waits,))
    case = kept["torchao-int8-dynamic", "layer"]
    assert (case.outcome, case.error, case.device_us) == ("ok", None, None)
    assert case.call_us is not None
    assert case.call_us.n == 3
    assert case.relative_error is not None
    assert kept["torch-bf16", "layer"].device_us is not None
