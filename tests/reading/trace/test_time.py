from __future__ import annotations

from pathlib import Path

import pytest

from fp8doctor.reading.trace import add_up
from tests.reading.trace.made import BF16, FP8, MAIN, NVJET_BF16, NVJET_FP8, Made, training_step
from tests.reading.trace.reading_made import kernels, read


def test_busy_is_the_union_over_streams_and_kinds_count_each_in_full(tmp_path: Path) -> None:
    made = Made()
    made.kernel("a", 100, 50, stream=7)
    made.kernel("b", 120, 50, stream=9)
    made.kernel("c", 200, 10, stream=7)
    trace = read(made, tmp_path)
    assert (trace.span_us, trace.busy_us, trace.idle_us) == (110, 80, 30)
    assert sum((trace.us_by_kind or {}).values()) == 110
    assert trace.streams == 2


def test_idle_time_goes_to_what_the_host_did_meanwhile(tmp_path: Path) -> None:
    made = Made()
    made.kernel("first", 0, 100)
    # Waits while the kernel runs, which costs nothing, and 20 us longer.
    made.operator("aten::item", 10, 115)
    made.call("cudaStreamSynchronize", 20, 100)
    # Sleeps from 125 to 300, then launches.
    made.launch("aten::mm", "second", 300, 10)
    trace = read(made, tmp_path)
    assert trace.idle_us == 210
    # In aten::item after the wait 5, in aten::mm 8.
    assert trace.idle_launching_us == 13
    assert trace.idle_waiting_us == 20
    assert trace.idle_elsewhere_us == 177
    (wait,) = trace.waits or ()
    assert (wait.call, wait.operator, wait.us, wait.idle_us) == ("cudaStreamSynchronize", "aten::item", 100, 20)


def test_while_another_thread_launches_a_thread_that_waits_costs_nothing(tmp_path: Path) -> None:
    """The main thread stands in backward() while autograd's thread works."""
    made = Made()
    made.kernel("first", 0, 10)
    made.call("cudaLaunchKernel", 1, 2)
    made.call("cudaDeviceSynchronize", 10, 90)
    made.operator("AddmmBackward0", 10, 90, tid=77)
    made.call("cudaLaunchKernel", 90, 5, tid=77)
    made.kernel("second", 100, 10)
    trace = read(made, tmp_path)
    assert (trace.idle_launching_us, trace.idle_waiting_us) == (90, 0)


def test_a_copy_waits_if_its_call_outlasts_it(tmp_path: Path) -> None:
    made = Made()
    made.kernel("first", 0, 10)
    pageable = made.call("cudaMemcpyAsync", 20, 50)
    made.copy("Memcpy DtoH (Device -> Pageable)", 60, 5, pageable)
    pinned = made.call("cudaMemcpyAsync", 70, 5)
    made.copy("Memcpy HtoD (Pinned -> Device)", 90, 5, pinned)
    made.call("cudaLaunchKernel", 75, 5)
    trace = read(made, tmp_path)
    # 20 to 60 and 65 to 70 of the first; the second only hands the copy over.
    assert trace.idle_waiting_us == 45
    assert trace.idle_launching_us == 10


def test_the_time_in_a_data_loader_is_no_launching(tmp_path: Path) -> None:
    made = Made()
    made.kernel("first", 0, 10)
    made.annotation("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 20, 60)
    made.operator("aten::stack", 30, 40)
    made.launch("aten::mm", "second", 90, 10)
    trace = read(made, tmp_path)
    assert (trace.idle_elsewhere_us, trace.idle_loading_us) == (82, 60)
    assert trace.idle_launching_us == 8


def test_python_that_leads_from_one_operator_to_the_next_is_told_apart(tmp_path: Path) -> None:
    made = Made()
    made.kernel("first", 0, 10)
    made.call("cudaLaunchKernel", 0, 5)
    made.operator("aten::add", 20, 10)
    made.operator("aten::mul", 70, 10)
    made.launch("aten::mm", "last", 300, 10)
    trace = read(made, tmp_path)
    # 10 to 20 and 30 to 70; from 80 to 300 is too long to be the way to the next operator.
    assert (trace.idle_between_us, trace.idle_elsewhere_us, trace.idle_launching_us) == (50, 272, 28)


def test_communication_is_exposed_where_nothing_else_runs(tmp_path: Path) -> None:
    made = Made()
    made.kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", 0, 100, stream=20)
    made.kernel(NVJET_BF16, 10, 30, stream=7)
    made.kernel(NVJET_BF16, 90, 40, stream=7)
    trace = read(made, tmp_path)
    assert (trace.communication_us, trace.exposed_communication_us) == (100, 60)


def test_steps_are_those_that_the_profiler_marked(tmp_path: Path) -> None:
    made = Made()
    at = 0.0
    for number in range(3, 6):
        at = training_step(made, at, number, layers=2)
    trace = read(made, tmp_path)
    assert trace.steps == 3
    assert trace.step_us == pytest.approx(at / 3, rel=0.02)
    made.events = [event for event in made.events if "ProfilerStep" not in event["name"]]
    assert read(made, tmp_path).steps is None


def test_products_have_their_sizes_types_and_modules(tmp_path: Path) -> None:
    made = Made()
    for layer in range(12):
        made.frame(f"nn.Module: Float8Linear_{layer}", 100 * layer, 50)
        made.launch("aten::_scaled_mm", NVJET_FP8, 100 * layer + 10, 20, [[64, 32], [32, 16], []], [FP8, FP8, "float"])
    made.launch("aten::bmm", NVJET_BF16, 5000, 7, [[8, 64, 32], [8, 32, 16]], [BF16, BF16])
    made.launch("aten::addmm", NVJET_BF16, 6000, 9, [[16], [64, 32], [32, 16]], [BF16, BF16, BF16])
    fp8, addmm, bmm = read(made, tmp_path).products or ()
    assert (fp8.operator, fp8.kind, fp8.m, fp8.k, fp8.n, fp8.count, fp8.us) == (
        "aten::_scaled_mm",
        "fp8-gemm",
        64,
        32,
        16,
        12,
        240,
    )
    assert fp8.types == (FP8, FP8)
    assert fp8.modules == tuple(f"Float8Linear_{layer}" for layer in range(8))
    assert (addmm.m, addmm.k, addmm.n, addmm.us) == (64, 32, 16, 9)
    assert (bmm.batch, bmm.m, bmm.k, bmm.n) == (8, 64, 32, 16)


def test_casts_to_and_from_eight_bits_are_listed(tmp_path: Path) -> None:
    made = Made()
    made.launch("aten::copy_", "void at::native::float8_copy_kernel()", 10, 5, [[64], [64], []], [FP8, BF16, "Scalar"])
    made.launch("aten::copy_", "void at::native::copy_kernel()", 30, 5, [[64], [64], []], [BF16, "float", "Scalar"])
    (cast,) = read(made, tmp_path).casts or ()
    assert (cast.source, cast.target, cast.count, cast.us) == (BF16, FP8, 1, 5)


def test_operators_have_their_own_host_time_and_the_gpu_time_of_what_they_launched(tmp_path: Path) -> None:
    made = Made()
    made.operator("aten::linear", 0, 100)
    external = made.operator("aten::addmm", 10, 60)
    correlation = made.call("cudaLaunchKernel", 20, 30, external=external)
    made.kernel(NVJET_BF16, 200, 40, correlation, external)
    found = {row.name: row for row in read(made, tmp_path).operators or ()}
    assert (found["aten::linear"].host_self_us, found["aten::linear"].device_us) == (40, 0)
    assert (found["aten::addmm"].host_self_us, found["aten::addmm"].device_us) == (30, 40)


def test_compiled_regions_and_compilations_are_counted(tmp_path: Path) -> None:
    made = Made()
    made.operator("Torch-Compiled Region: 0/0", 0, 10)
    made.operator("## Call CompiledFxGraph fabc ##", 1, 5)
    made.operator("Torch-Compiled Region: 0/0", 20, 10)
    made.operator("dynamo", 100, 1000)
    made.operator("_compile.compile_inner (dynamo_timed)", 110, 900)
    made.kernel("triton_poi_fused_add_0", 50, 5)
    trace = read(made, tmp_path)
    assert trace.compiled_regions == 2
    assert (trace.compilations, trace.compilation_us) == (1, 1000)
    assert trace.inductor_kernels == 1


def test_of_several_devices_the_busiest_counts(tmp_path: Path) -> None:
    made = Made()
    made.kernel("a", 0, 10, device=0)
    made.kernel("b", 500, 90, device=3)
    trace = read(
        made, tmp_path, deviceProperties=[{"id": 3, "name": "NVIDIA H200", "computeMajor": 9, "computeMinor": 0}]
    )
    assert (trace.span_us, trace.devices) == (90, 2)
    assert trace.device_names == ("NVIDIA H200",)
    assert trace.compute_capabilities == ("9.0",)


def test_of_several_ranks_the_lowest_counts_and_all_are_compared(tmp_path: Path) -> None:
    paths = []
    for rank in (1, 0):
        made = Made()
        made.kernel("ncclDevKernel_AllReduce", 0, 10 + rank)
        paths.append(made.write(tmp_path, f"rank{rank}.json", distributedInfo={"rank": rank, "world_size": 2}))
    trace = add_up(paths, kernels())
    assert trace.span_us == 10
    assert [(rank.rank, rank.communication_us) for rank in trace.ranks or ()] == [(0, 10), (1, 11)]


def test_waits_name_the_operator_above_them(tmp_path: Path) -> None:
    made = Made()
    made.operator("aten::nonzero", 0, 50, tid=MAIN)
    made.call("cudaStreamSynchronize", 10, 20)
    (wait,) = read(made, tmp_path).waits or ()
    assert (wait.operator, wait.us, wait.idle_us) == ("aten::nonzero", 20, None)
