"""Grouped products end to end on the CPU: groups, padding, the layer, and the probe with a stub for its GPU."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import fp8doctor.checks.grouped_gemm
from fp8doctor.checks.grouped_gemm import groups, products
from fp8doctor.checks.grouped_gemm import probe as grouped_probe
from fp8doctor.checks.grouped_gemm.facts import GroupedCase, GroupedGemm
from fp8doctor.checks.grouped_gemm.probe import ExpertLayer, Run, gather
from fp8doctor.checks.grouped_gemm.timing import FP8, PADDED
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS, FORMAT_ERRORS, relative_error
from fp8doctor.model import Facts, ProbeRun, Request
from fp8doctor.plain import to_plain
from fp8doctor.registry import Registry
from tests.broken_packages import BrokenSite
from tests.grouped_stub import ON_ANOTHER_GPU, GroupingStub

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch
EXPERTS, M, K, N = 4, 200, 64, 32
LAYER = ExpertLayer(EXPERTS, K, N)
GENERATOR = torch.Generator().manual_seed(4)
X = torch.randn(M, K, generator=GENERATOR).bfloat16()
WEIGHT = (torch.randn(EXPERTS, N, K, generator=GENERATOR) / K**0.5).bfloat16()
SIZES = groups.uneven_sizes(M, EXPERTS)
ENDS = groups.ends_of(torch, SIZES, "cpu")
EXACT = groups.reference(torch, X, WEIGHT, SIZES)


# --- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "experts"), [(16384, 8), (4096, 8), (16384, 128), (4096, 128), (130, 128)])
def test_a_router_sends_each_expert_another_number_of_rows(rows: int, experts: int) -> None:
    sizes = groups.uneven_sizes(rows, experts)
    assert sum(sizes) == rows
    assert len(sizes) == experts
    assert min(sizes) >= 1
    assert any(size % groups.ALIGNMENT for size in sizes), "aligned groups would hide what padding is for"
    assert sizes == groups.uneven_sizes(rows, experts)
    assert (sizes != groups.uneven_sizes(rows, experts, seed=1)) == (rows > 2 * experts)


def test_ends_are_what_torch_takes() -> None:
    assert ENDS.dtype == torch.int32
    assert ENDS.tolist() == [sum(SIZES[: i + 1]) for i in range(EXPERTS)]


@pytest.mark.parametrize("alignment", [16, 32])
def test_padding_lines_up_every_group_and_can_be_taken_out_again(alignment: int) -> None:
    padded, ends, places = groups.pad(torch, X, ENDS, alignment)
    assert (ends % alignment == 0).all()
    assert padded.shape == (groups.padded_rows(M, EXPERTS, alignment), K)
    assert ends[-1] <= padded.shape[0]
    assert padded.shape[0] % alignment == 0
    assert torch.equal(groups.unpad(padded, places), X)
    starts, begin = [0, *ends.tolist()], 0
    for start, size in zip(starts, SIZES, strict=False):
        assert torch.equal(padded[start : start + size], X[begin : begin + size])
        begin += size
    assert torch.equal(padded.float().abs().sum(), X.float().abs().sum()), "zeros between"


def test_padding_by_a_list_on_the_host_gives_the_same_rows() -> None:
    padded, ends, _ = groups.pad(torch, X, ENDS)
    assert torch.equal(groups.pad_by_list(torch, X, ENDS), padded[: ends[-1]])


def test_the_reference_is_a_loop_over_experts_and_torchs_own_product_agrees() -> None:
    start = 0
    for expert, end in enumerate(ENDS.tolist()):
        exact = X[start:end].double() @ WEIGHT[expert].double().t()
        assert torch.allclose(EXACT[start:end].double(), exact, atol=1e-4)
        start = end
    own = products.bf16_product(torch)
    assert own is not None
    error = groups.worst_group_error(products.bf16_layer(own, WEIGHT)(X, ENDS), EXACT, SIZES)
    assert error < ERROR_LIMITS["bf16-output"]


def test_one_wrong_expert_is_seen_among_many() -> None:
    bad = EXACT.clone()
    bad[: SIZES[0]] = 0.0
    assert groups.worst_group_error(bad, EXACT, SIZES) == pytest.approx(1.0)
    bad[0, 0] = torch.nan
    assert groups.worst_group_error(bad, EXACT, SIZES) == float("inf")


# --- the product -----------------------------------------------------------------------------------------------------


def test_operands_are_what_torch_checks_and_the_layer_errs_as_its_format_does() -> None:
    product = products.fp8_product(GroupingStub(torch))
    assert product is not None
    result = products.fp8_layer(torch, product, WEIGHT)(X, ENDS)
    error = groups.worst_group_error(result, EXACT, SIZES)
    assert 0.5 * FORMAT_ERRORS["e4m3"] < error < ERROR_LIMITS["e4m3"]
    columns, scales = products.fp8_operands(torch, WEIGHT)
    assert columns.shape == (EXPERTS, K, N)
    assert columns.stride()[-2:] == (1, K), "column-major"
    assert (scales.shape, scales.dtype) == ((EXPERTS, N), torch.float32)


def test_scales_are_those_of_torchs_own_product_expert_by_expert() -> None:
    """The stub against torch._scaled_mm, which the CPU has: one scale a row, one a column of each expert."""
    columns, column_scales = products.fp8_operands(torch, WEIGHT)
    x8, row_scales = products.quantised(torch, X)
    product = products.fp8_product(GroupingStub(torch))
    assert product is not None
    grouped = product(x8, columns, row_scales, column_scales, ENDS)
    start = 0
    for expert, end in enumerate(ENDS.tolist()):
        scales = row_scales[start:end].unsqueeze(1), column_scales[expert].unsqueeze(0)
        alone = torch._scaled_mm(x8[start:end], columns[expert], *scales, out_dtype=torch.bfloat16)
        assert relative_error(grouped[start:end], alone.float()) < FORMAT_ERRORS["bf16"]
        start = end


def test_padded_groups_give_the_same_numbers() -> None:
    product = products.fp8_product(GroupingStub(torch))
    assert product is not None
    layer = products.fp8_layer(torch, product, WEIGHT)
    padded, ends, places = groups.pad(torch, X, ENDS)
    assert torch.equal(groups.unpad(layer(padded, ends), places), layer(X, ENDS))


def test_the_layer_is_captured_whole_with_any_number_of_rows() -> None:
    """On the meta device, which computes nothing: the graph, its dynamic rows, and torch's own checks."""
    product = products.fp8_product(torch)
    assert product is not None
    with torch.no_grad():
        layer = products.fp8_layer(torch, product, WEIGHT.to("meta"))
        x = torch.empty(M, K, dtype=torch.bfloat16, device="meta")
        whole = torch.compile(layer, backend="aot_eager", fullgraph=True)
        torch._dynamo.mark_dynamic(x, 0)
        assert whole(x, ENDS.to("meta")).shape == (M, N)
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert whole(x[: M - 24], ENDS.to("meta")).shape == (M - 24, N)


def test_a_torch_without_grouped_products_is_known_by_their_absence() -> None:
    class Bare:
        nn = type("nn", (), {"functional": object()})

    assert products.bf16_product(Bare()) is None
    assert products.fp8_product(Bare()) is None


# --- the probe -------------------------------------------------------------------------------------------------------


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[GroupingStub]:
    import torch._dynamo.config as dynamo

    monkeypatch.setattr(grouped_probe, "WARM_S", 0.0)
    monkeypatch.setitem(grouped_probe.ROUNDS, "default", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small are not worth waiting for other threads on a busy machine
    with dynamo.patch(automatic_dynamic_shapes=dynamo.automatic_dynamic_shapes):
        yield GroupingStub(torch)
    torch.set_num_threads(threads)


def records(stub: GroupingStub, **request: Any) -> Iterator[GroupedGemm]:
    return Run(stub, torch.device("cpu"), Request(**{"mode": "default", **request}), (LAYER,), (M, M // 2)).records()


def last_of(stub: GroupingStub, **request: Any) -> GroupedGemm:
    return list(records(stub, **request))[-1]


def cases(record: GroupedGemm, m: int = M) -> dict[tuple[str, str], GroupedCase]:
    return {(case.config or "", case.kind or ""): case for case in record.cases or () if case.m == m}


def test_everything_is_timed_and_compared(stub: GroupingStub) -> None:
    found = list(records(stub))
    last = found[-1]
    assert (last.attempting, last.not_measured) == (None, ())
    assert set(cases(last)) == {
        ("torch-bf16", "layer"),
        (FP8, "layer"),
        (f"{FP8}+compile", "layer"),
        (FP8, "gemm"),
        (PADDED, "gemm"),
        ("torch-bf16", "pad"),
        ("torch-bf16", "unpad"),
        ("torch-bf16", "pad-by-list"),
    }
    assert set(cases(last)) == set(cases(last, M // 2))
    for (config, kind), case in cases(last).items():
        assert (case.outcome, case.error, case.experts, case.k, case.n) == ("ok", None, EXPERTS, K, N)
        assert (case.device_us is None) == (kind == "pad-by-list"), "its launches cannot be queued"
        assert (case.call_us is None) == (kind == "gemm"), "nobody calls a bare product"
        if kind in ("layer", "gemm"):
            own = FORMAT_ERRORS["e4m3" if "fp8" in config else "bf16-output"]
            assert 0.5 * own < (case.relative_error or 0) < (case.relative_error_limit or 0)
    assert len(stub.compiled) == 1, "once for all numbers of rows"
    assert list(last.compile_s or ()) == [f"{EXPERTS}x{K}x{N}"]
    tried = [record.attempting for record in found]
    assert tried[:3] == [f"{EXPERTS}x{K}x{N}", f"{FP8} {EXPERTS}x{K}x{N}", f"{FP8}+compile {EXPERTS}x{K}x{N}"]


def test_a_gpu_that_refuses_is_asked_once_and_bf16_is_left_alone(stub: GroupingStub) -> None:
    stub.refusal = ValueError(ON_ANOTHER_GPU)
    last = last_of(stub)
    (only,) = last.cases or ()
    assert (only.config, only.outcome) == (FP8, "refused")
    assert ON_ANOTHER_GPU in (only.error or "")
    assert stub.compiled == []


def test_a_product_that_fails_costs_only_itself(stub: GroupingStub) -> None:
    stub.refusal = RuntimeError("cutlass cannot run, error 7")
    found = cases(last_of(stub))
    assert found["torch-bf16", "layer"].device_us is not None
    assert {found[FP8, kind].outcome for kind in ("layer", "gemm")} == {"error"}
    assert found["torch-bf16", "pad"].device_us is not None


def test_one_wrong_expert_is_in_the_record(stub: GroupingStub) -> None:
    stub.spoilt_expert = 2
    found = cases(last_of(stub))
    for kind in ("layer", "gemm"):
        case = found[FP8, kind]
        assert (case.relative_error or 0) > (case.relative_error_limit or 1)


def test_when_the_time_is_spent_what_is_missing_is_told(stub: GroupingStub) -> None:
    assert last_of(stub, seconds_left=0.0).not_measured == (f"{EXPERTS}x{K}x{N}: the time budget was spent",)
    short = grouped_probe.RESERVE_S + grouped_probe.SHAPE_S + grouped_probe.COMPILE_S - 1
    last = last_of(stub, seconds_left=short)
    assert f"{FP8}+compile {EXPERTS}x{K}x{N}: no time left to compile it" in (last.not_measured or ())
    assert cases(last)[FP8, "layer"].device_us is not None


def test_a_fresh_child_goes_on_behind_what_ended_the_last_one(stub: GroupingStub) -> None:
    shape = f"{M // 2}x{K}x{N}, {EXPERTS} experts"
    begun = next(record for record in records(stub) if record.attempting == shape)
    assert cases(begun)["torch-bf16", "layer"].call_us is not None
    last = last_of(stub, so_far=to_plain(begun), so_far_ended="signal 6 (SIGABRT)")
    assert cases(last) == cases(begun), "what was timed is not timed again"
    assert not cases(last, M // 2)
    assert last.not_measured == (
        f"{shape}: the child ended by signal 6 (SIGABRT)",
        "kernels of what was timed before a child ended",
    )


def test_a_product_that_ended_a_child_is_not_called_again(stub: GroupingStub) -> None:
    crashed_at = f"{FP8} {EXPERTS}x{K}x{N}"
    begun = next(record for record in records(stub) if record.attempting == crashed_at)
    last = last_of(stub, so_far=to_plain(begun), so_far_ended="signal 11 (SIGSEGV)")
    assert last.cases == ()
    assert last.not_measured == (f"{crashed_at}: the child ended by signal 11 (SIGSEGV)",)


def test_a_gpu_without_fp8_is_left_alone(stub: GroupingStub) -> None:
    stub.properties.major = 8
    (only,) = records(stub)
    assert (only.measurable, only.why_not) == (False, "this GPU has no FP8 tensor cores")


def test_a_torch_without_the_product_says_so(stub: GroupingStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped_probe, "fp8_product", lambda torch: None)
    (only,) = records(stub)
    assert (only.measurable, only.why_not) == (False, "this torch has no grouped product in FP8")


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (TorchBuild(installed=True, devices=()), "torch sees no GPU"),
        (TorchBuild(installed=False), "there is no torch to measure with"),
    ],
)
def test_without_a_gpu_it_says_so_and_imports_nothing(tmp_path: Any, build: TorchBuild, why: str) -> None:
    site = BrokenSite(tmp_path)
    site.break_import("torch", "abort")
    needs: dict[str, ProbeRun[Facts]] = {"torch_build": ProbeRun("ok", build)}
    run = site.probe(gather, needs=needs)
    assert (run.outcome, run.facts) == ("ok", GroupedGemm(measurable=False, why_not=why))


def test_its_place_among_the_probes() -> None:
    registry = Registry()
    registry.collect(fp8doctor.checks.grouped_gemm)
    spec = registry.probes["grouped_gemm"]
    assert (spec.times_gpu, spec.order, spec.share, spec.runs_in) == (True, 50, 1.0, "target")
    assert set(spec.modes) == {"default", "thorough"}
    assert inspect.isgeneratorfunction(spec.function), "so that a crash keeps what was measured before it"


def test_sizes_of_public_models_are_legal() -> None:
    for layer in grouped_probe.LAYERS:
        assert layer.k % 16 == layer.n % 16 == 0
        assert replace(layer, experts=0).experts == 0
