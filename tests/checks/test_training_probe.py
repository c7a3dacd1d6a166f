"""The probe of training, end to end on the CPU: torchao's own conversion, and a stub in the place of the GPU."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

import fp8doctor.checks.training
from fp8doctor.checks.torch_build import TorchBuild, TorchDevice
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS, FORMAT_ERRORS
from fp8doctor.checks.torchao import Torchao
from fp8doctor.checks.training import probe as training_probe
from fp8doctor.checks.training.facts import Training, TrainingCase
from fp8doctor.checks.training.probe import Run, training_part, why_not
from fp8doctor.checks.training.recipes import RECIPES
from fp8doctor.checks.training.resuming import KERNELS_LOST, ended_children, resumed
from fp8doctor.checks.training.timing import PARTS, product_fields
from fp8doctor.measuring.workloads import LinearUse, Step, Workload
from fp8doctor.model import Request, Shape
from fp8doctor.plain import to_plain
from fp8doctor.registry import Registry
from tests.stub_cuda import L2_BYTES, StubTorch

FP8_KERNEL = "nvjet_sm90_qqtst_128x128_128x6_2x1_v_bz_ovscale_TNT"
BF16_KERNEL = "nvjet_sm90_tst_128x256_64x4_1x2_h_bz_coopA_TNT"
INFERS = Step(name="denoise", trains=False, linears=(LinearUse(64, 48, 32, 9),))
WIDE = LinearUse(64, 96, 32, 1)
TRAINS = Step(name="train", trains=True, linears=(WIDE,))
BUILD = TorchBuild(installed=True, devices=(TorchDevice(index=0),))
HERE = Torchao(installed=True, import_ok=True)


@pytest.mark.parametrize(
    ("mode", "build", "torchao", "steps", "why"),
    [
        ("default", BUILD, HERE, (TRAINS,), None),
        ("default", BUILD, HERE, (INFERS,), "no training workload was named"),
        ("default", BUILD, HERE, (), "no training workload was named"),
        ("thorough", BUILD, HERE, (), None),
        ("thorough", None, HERE, (), "there is no torch to measure with"),
        ("thorough", TorchBuild(installed=True, devices=()), HERE, (), "torch sees no GPU"),
        ("thorough", BUILD, None, (), "torchao is not installed"),
        ("thorough", BUILD, Torchao(installed=False), (), "torchao is not installed"),
        ("thorough", BUILD, Torchao(installed=True, import_ok=False), (), "torchao cannot be imported"),
    ],
)
def test_it_runs_where_a_workload_trains_and_in_a_thorough_run(
    mode: str, build: TorchBuild | None, torchao: Torchao | None, steps: tuple[Step, ...], why: str | None
) -> None:
    workload = training_part(Workload(steps=steps)) if steps else None
    assert why_not(mode, build, torchao, workload) == why


def test_only_the_steps_that_train_are_measured() -> None:
    found = training_part(Workload(steps=(INFERS, TRAINS)))
    assert found is not None
    assert found.steps == (TRAINS,)


def test_its_place_among_the_probes() -> None:
    registry = Registry()
    registry.collect(fp8doctor.checks.training)
    spec = registry.probes["training"]
    assert (spec.times_gpu, spec.order, spec.share, spec.runs_in) == (True, 40, 2.0, "target")
    assert set(spec.modes) == {"default", "thorough"}
    assert spec.prepare is None, "most runs have no training workload"


# --- after a child that ended early ----------------------------------------------------------------------------------

BEGUN = Training(
    measurable=True,
    cases=(TrainingCase("torch-bf16", 64, 96, 32, outcome="ok", device_us=None),),
    not_measured=("K=1 N=1: the time budget was spent",),
    attempting="torchao-fp8train-rowwise K=96 N=32",
)


def test_what_ended_a_child_is_told_and_not_tried_again() -> None:
    record = resumed(Training(), Request(so_far=to_plain(BEGUN), so_far_ended="signal 11 (SIGSEGV)"))
    assert record.cases == BEGUN.cases
    assert record.attempting is None
    assert record.not_measured == (
        "K=1 N=1: the time budget was spent",
        "torchao-fp8train-rowwise K=96 N=32: the child ended by signal 11 (SIGSEGV)",
    )
    assert ended_children(record.not_measured) == {"torchao-fp8train-rowwise K=96 N=32"}
    again = resumed(Training(), Request(so_far=to_plain(replace(record, attempting="64x96x32")), so_far_ended="exit"))
    assert ended_children(again.not_measured or ()) == {"torchao-fp8train-rowwise K=96 N=32", "64x96x32"}
    assert resumed(Training(measurable=True), Request()) == Training(measurable=True)


# --- kernels ---------------------------------------------------------------------------------------------------------


def test_products_are_counted_by_kind() -> None:
    ran = [("triton_red_fused_abs_amax_0", 5.0), (FP8_KERNEL, 30.0), (FP8_KERNEL, 31.0), (BF16_KERNEL, 60.0)]
    fields = product_fields(ran)
    assert fields == {
        "products": {"fp8-gemm": 2, "bf16-gemm": 1},
        "gemm_us": 121.0,
        "other_kernels": 1,
        "other_us": 5.0,
    }
    assert product_fields([]) == {}


# --- the measurement, on the CPU -------------------------------------------------------------------------------------


class CompilingStub(StubTorch):
    """Captures and differentiates as torch.compile does; Inductor takes too long on a CPU."""

    properties: SimpleNamespace

    def compile(self, module: Any) -> Any:
        return self._torch.compile(module, backend="aot_eager")


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Torch on the CPU with a stub for its GPU, and Dynamo's settings as they were."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchao", reason="needs torchao")
    import torch._dynamo.config as dynamo

    monkeypatch.setattr(training_probe, "WARM_S", 0.0)
    properties = SimpleNamespace(L2_cache_size=L2_BYTES, name="A stub", major=9, minor=0)
    stub = CompilingStub(torch)
    stub.cuda.get_device_properties = lambda device: properties
    stub.cuda.mem_get_info = lambda device: (80 << 30, 80 << 30)
    stub.properties = properties
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small are not worth waiting for other threads on a busy machine
    with dynamo.patch(automatic_dynamic_shapes=dynamo.automatic_dynamic_shapes, recompile_limit=dynamo.recompile_limit):
        yield stub
    torch.set_num_threads(threads)
    torch._dynamo.reset()


def records(torch: Any, *linears: LinearUse, **request: Any) -> Iterator[Training]:
    workload = training_part(Workload(steps=(replace(TRAINS, linears=linears or (WIDE,)),)))
    return Run(torch, torch.device("cpu"), Request(**{"mode": "default", **request}), workload).records()


def last_of(torch: Any, *linears: LinearUse, **request: Any) -> Training:
    return list(records(torch, *linears, **request))[-1]


def by_config(record: Training, k: int = 96) -> dict[str, TrainingCase]:
    return {case.config or "": case for case in record.cases or () if case.k == k}


@pytest.mark.torch
def test_every_recipe_trains_and_errs_as_its_formats_do(torch: Any) -> None:
    found = list(records(torch, LinearUse(64, 32, 32, 1), WIDE))
    last = found[-1]
    assert last.attempting is None
    assert last.not_measured == ()
    assert [c.k for c in last.cases or ()] == [96] * 8 + [32] * 8, "most work first"
    for recipe in RECIPES:
        case = by_config(last)[recipe.config]
        assert (case.outcome, case.error) == ("ok", None)
        assert case.device_us is not None
        assert case.call_us is not None
        assert case.device_us.n == training_probe.ROUNDS["default"] * 5
        for part in PARTS:
            own, in_fp8 = getattr(recipe, part), recipe.torchao and getattr(recipe, part) != "bf16-output"
            error = getattr(case, f"{part}_error")
            assert 0.5 * FORMAT_ERRORS[own] < error < ERROR_LIMITS[own]
            assert getattr(case, f"{part}_limit") == (round(ERROR_LIMITS[own], 4) if in_fp8 else None)
    assert {(c.config, c.m, c.k) for c in last.compilations or ()} == {
        (r.config, 64, k) for r in RECIPES if r.compiled for k in (96, 32)
    }
    tried = [record.attempting for record in found]
    assert tried[0] == "import torchao.float8"
    assert "torchao-fp8train-rowwise K=96 N=32" in tried
    assert "64x96x32" in tried


@pytest.mark.torch
def test_several_numbers_of_tokens_share_one_compilation(torch: Any) -> None:
    last = last_of(torch, shapes=(Shape(32, 96, 32),))
    made = [c for c in last.compilations or () if c.k == 96]
    assert [c.m for c in made] == [None] * 4
    assert {c.m for c in last.cases or () if c.k == 96 and c.outcome == "ok"} == {64, 32}


@pytest.mark.torch
def test_when_the_time_is_spent_what_is_missing_is_told(torch: Any) -> None:
    # Enough to begin; compiling is not begun any more.
    last = last_of(torch, seconds_left=training_probe.RESERVE_S + training_probe.SHAPE_S + 4)
    assert "torch-bf16+compile K=96 N=32: no time left to compile it" in (last.not_measured or ())
    assert by_config(last)["torchao-fp8train-tensorwise"].device_us is not None
    spent = last_of(torch, seconds_left=0.0)
    assert spent.not_measured == ("K=96 N=32: the time budget was spent",)
    assert spent.cases == ()


@pytest.mark.torch
def test_a_fresh_child_goes_on_behind_what_ended_the_last_one(torch: Any) -> None:
    crashed_at = "torchao-fp8train-rowwise K=96 N=32"
    begun = next(record for record in records(torch) if record.attempting == crashed_at)
    going_on = {"so_far": to_plain(begun), "so_far_ended": "signal 11 (SIGSEGV)"}
    last = last_of(torch, seconds_left=training_probe.RESERVE_S + training_probe.SHAPE_S + 4, **going_on)
    assert "torchao-fp8train-rowwise" not in by_config(last)
    assert by_config(last)["torchao-fp8train-rowwise-gw-hp"].device_us is not None
    assert f"{crashed_at}: the child ended by signal 11 (SIGSEGV)" in (last.not_measured or ())
    done = last_of(torch, so_far=to_plain(replace(last, attempting="kernels of 64x96x32")), so_far_ended="exit")
    assert by_config(done) == by_config(last), "what was timed is not timed again"
    assert KERNELS_LOST in (done.not_measured or ())


@pytest.mark.torch
def test_a_size_that_fp8_refuses_is_not_compiled(torch: Any) -> None:
    last = last_of(torch, LinearUse(40, 200, 32, 1))
    odd = by_config(last, 200)
    assert odd["torch-bf16+compile"].device_us is not None
    assert not [config for config in odd if "fp8train" in config and config.endswith("+compile")]


@pytest.mark.torch
def test_a_gpu_without_fp8_is_left_alone(torch: Any) -> None:
    torch.properties.major, torch.properties.minor = 8, 0
    (only,) = records(torch)
    assert (only.measurable, only.why_not) == (False, "this GPU has no FP8 tensor cores")


@pytest.mark.torch
def test_a_torchao_that_ended_the_child_is_not_imported_again(torch: Any) -> None:
    begun = next(records(torch, seconds_left=0.0))
    (only,) = records(torch, so_far=to_plain(begun), so_far_ended="signal 6 (SIGABRT)")
    assert (only.measurable, only.why_not) == (False, "torchao.float8 cannot be imported")


@pytest.mark.torch
@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
def test_a_layer_of_any_size_is_converted_and_the_step_says_what_is_wrong(torch: Any) -> None:
    """What `dims-not-multiple-of-16` says of torchao: its conversion passes nothing over."""
    assert sys.modules.get("torch") is not None
    from torchao.float8 import convert_to_float8_training

    model = torch.nn.Sequential(torch.nn.Linear(24, 20, bias=False), torch.nn.Linear(20, 16, bias=False))
    convert_to_float8_training(model)
    assert [type(layer).__name__ for layer in model] == ["Float8Linear", "Float8Linear"]
