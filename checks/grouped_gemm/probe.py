"""Measures grouped products: the layer of a mixture of experts in BF16 and FP8, and what padding its groups takes."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fp8doctor.checks.gpu.facts import FIRST_FP8, capability
from fp8doctor.checks.grouped_gemm.facts import GroupedCase, GroupedGemm
from fp8doctor.checks.grouped_gemm.groups import ends_of, uneven_sizes
from fp8doctor.checks.grouped_gemm.products import Layer, Product, bf16_layer, bf16_product, fp8_layer, fp8_product
from fp8doctor.checks.grouped_gemm.timing import FP8, PRODUCTS, GroupBench
from fp8doctor.checks.linear import ceilings
from fp8doctor.checks.linear.timing import outcome_of
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torch_build.early import import_torch
from fp8doctor.checks.training.resuming import ended_children, resumed
from fp8doctor.measuring.timer import SAMPLES_A_BATCH, Timer
from fp8doctor.model import Request
from fp8doctor.registry import probe


@dataclass(frozen=True)
class ExpertLayer:
    """A layer of experts as one GPU holds it."""

    experts: int
    k: int
    n: int


# The up projection of an expert of DeepSeek-V3 (deepseek-ai/DeepSeek-V3, inference/configs/config_671B.json: width
# 7,168, experts of 2,048, 256 of them), 8 to a GPU, as torchao's benchmarks have it (torchao/prototype/moe_training);
# and of Qwen3-30B-A3B (transformers, configuration_qwen3_moe.py: 2,048, 768, 128), all on one.
LAYERS = (ExpertLayer(8, 7168, 2048), ExpertLayer(128, 2048, 768))
# Rows that reach the experts of this GPU: tokens, each counted once for every expert that it is sent to.
ROWS = (16384, 4096)
# Batches of each case, interleaved with the other cases' of the shape, so that drift hits all alike.
ROUNDS = {"default": 3, "thorough": 7}
WARM_S = 0.5
# Kept free for ending in order.
RESERVE_S = 1.0
# What one shape, the compilation and a profiled shape may take, to know whether the next one still fits.
SHAPE_S = 1.5
COMPILE_S = 4.0
PROFILE_S = 1.5


def prepare() -> None:
    """Import torch and its compiler while other probes still run."""
    # In this process: for kernels this small, starting worker processes takes longer than compiling.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    import_torch("torch._dynamo", "torch._inductor.compile_fx", "torch.profiler")


@probe(
    runs_in="target",
    timeout_s=300,
    times_gpu=True,
    order=50,
    share=1.0,
    modes=("default", "thorough"),
    prepare=prepare,
)
def gather(request: Request, torch_build: TorchBuild | None) -> Iterator[GroupedGemm]:
    """Timing the layer of a mixture of experts in BF16 and FP8."""
    if torch_build is None or not torch_build.devices:
        why = "torch sees no GPU" if torch_build and torch_build.installed else "there is no torch to measure with"
        yield GroupedGemm(measurable=False, why_not=why)
        return
    import torch

    torch.cuda.set_device(request.gpu)
    layers = LAYERS if request.mode == "thorough" else LAYERS[:1]
    yield from Run(torch, torch.device("cuda", request.gpu), request, layers, ROWS).records()


class Run:
    """One measurement; the record grows and is yielded before each step that may crash.

    `torch` is the module, `device` where to measure; `layers` are measured at each number of `rows`.
    """

    def __init__(
        self, torch: Any, device: Any, request: Request, layers: tuple[ExpertLayer, ...], rows: tuple[int, ...]
    ) -> None:
        self.began = time.monotonic()
        self.torch = torch
        self.device = device
        self.request = request
        self.layers = layers
        self.rows = rows
        self.record = resumed(GroupedGemm(measurable=True), request, lambda case: case.kind in PRODUCTS)
        self.cases = {_key(case): case for case in self.record.cases or ()}
        self.compile_s = dict(self.record.compile_s or {})
        self.not_measured = list(self.record.not_measured or ())
        self.skip = ended_children(self.not_measured)
        self.benches: list[GroupBench] = []

    def left_s(self) -> float:
        """Seconds until it should have ended."""
        return self.request.seconds_left - RESERVE_S - (time.monotonic() - self.began)

    def records(self) -> Iterator[GroupedGemm]:
        """Measure layer by layer."""
        torch = self.torch
        properties = torch.cuda.get_device_properties(self.device)
        hip = getattr(properties, "gcnArchName", "").partition(":")[0] if torch.version.hip else None
        cc = hip or f"{properties.major}.{properties.minor}"
        bf16, fp8 = bf16_product(torch), fp8_product(torch)
        if bf16 is None or fp8 is None:
            why = "this torch has no grouped product" if bf16 is None else "this torch has no grouped product in FP8"
            yield GroupedGemm(measurable=False, why_not=why, compute_capability=cc)
            return
        if hip is None and (capability(cc) or (0, 0)) < FIRST_FP8:
            yield GroupedGemm(measurable=False, why_not="this GPU has no FP8 tensor cores", compute_capability=cc)
            return
        timer = Timer(torch, self.device)
        rounds = ROUNDS[self.request.mode]
        method = timer.method(rounds * SAMPLES_A_BATCH)
        self.record = replace(self.record, method=method, device_name=properties.name, compute_capability=cc)
        timer.warm(ceilings.product(torch, self.device, "bf16", (4096, 4096, 4096)), WARM_S)
        timer.calibrate()
        import torch._dynamo.config as dynamo

        # Otherwise the second layer's sizes become symbolic, and its slower kernels also serve the first layer.
        dynamo.automatic_dynamic_shapes = False
        for layer in self.layers:
            yield from self._layer(timer, rounds, layer, bf16, fp8)
        yield from self._profile()
        yield self._now(None)

    def _now(self, attempting: str | None) -> GroupedGemm:
        return replace(
            self.record,
            compile_s=dict(self.compile_s),
            cases=tuple(self.cases.values()),
            not_measured=tuple(self.not_measured),
            took_s=round(time.monotonic() - self.began, 2),
            attempting=attempting,
        )

    def _layer(
        self, timer: Timer, rounds: int, layer: ExpertLayer, bf16: Product, fp8: Product
    ) -> Iterator[GroupedGemm]:
        torch = self.torch
        name = f"{layer.experts}x{layer.k}x{layer.n}"
        todo = [m for m in self.rows if ("torch-bf16", "layer", layer.experts, m, layer.k, layer.n) not in self.cases]
        if not todo or name in self.skip:
            return
        if self.left_s() < SHAPE_S:
            self.not_measured.append(f"{name}: the time budget was spent")
            return
        yield self._now(name)
        torch.manual_seed(0)
        try:
            # Unit variance in, unit variance out, as layers are initialised.
            size = (layer.experts, layer.n, layer.k)
            weight = torch.randn(size, device=self.device, dtype=torch.bfloat16) / layer.k**0.5
            calls = {"torch-bf16": bf16_layer(bf16, weight), FP8: fp8_layer(torch, fp8, weight)}
        except torch.cuda.OutOfMemoryError:
            self._out_of_memory(name)
            return
        if (yield from self._refused(name, calls[FP8], layer)):
            return
        yield from self._compile(name, calls, layer)
        for m in todo:
            bench = GroupBench(torch, timer, m, weight, calls, fp8, self._keep)
            if bench.shape in self.skip:
                continue
            if self.left_s() < SHAPE_S:
                self.not_measured.append(f"{bench.shape}: the time budget was spent")
                continue
            yield self._now(bench.shape)
            self._time(bench, rounds)

    def _refused(self, name: str, call: Layer, layer: ExpertLayer) -> Generator[GroupedGemm, None, bool]:
        """Whether the FP8 product is not to be had here; then BF16 is not timed either.

        On such a GPU torch's BF16 form multiplies expert by expert and waits for the device (_grouped_mm_cuda in
        GroupedBlas.cpp): its launches could not be kept out of the time.
        """
        if f"{FP8} {name}" in self.skip:
            return True  # it ended a child, and nothing is left to compare
        yield self._now(f"{FP8} {name}")
        try:
            with self.torch.no_grad():
                call(*self._rows_and_ends(layer))
            self.torch.cuda.synchronize(self.device)
        except Exception as error:
            outcome, text = outcome_of(self.torch, error)
            self._keep(replace(self._case(FP8, layer), outcome=outcome, error=text))
            # Raises again if the call has left the GPU unusable; a fresh child then goes on with the rest.
            self.torch.cuda.synchronize(self.device)
            return outcome == "refused"
        return False

    def _rows_and_ends(self, layer: ExpertLayer) -> tuple[Any, Any]:
        torch, most = self.torch, max(self.rows)
        x = torch.randn(most, layer.k, device=self.device, dtype=torch.bfloat16)
        return x, ends_of(torch, uneven_sizes(most, layer.experts), self.device)

    def _case(self, config: str, layer: ExpertLayer) -> GroupedCase:
        return GroupedCase(config, "layer", layer.experts, max(self.rows), layer.k, layer.n)

    def _compile(self, name: str, calls: dict[str, Layer], layer: ExpertLayer) -> Iterator[GroupedGemm]:
        """Add the compiled FP8 layer, the number of rows being dynamic."""
        torch = self.torch
        label = f"{FP8}+compile {name}"
        if label in self.skip:
            return
        if self.left_s() < COMPILE_S + SHAPE_S:
            self.not_measured.append(f"{label}: no time left to compile it")
            return
        yield self._now(label)
        began = time.monotonic()
        x, ends = self._rows_and_ends(layer)
        try:
            compiled = torch.compile(calls[FP8])
            torch._dynamo.mark_dynamic(x, 0)
            with torch.no_grad():
                compiled(x, ends)
            torch.cuda.synchronize(self.device)
        except Exception as error:  # compile errors are results
            outcome, text = outcome_of(torch, error)
            self._keep(replace(self._case(f"{FP8}+compile", layer), outcome=outcome, error=text))
            return
        self.compile_s[name] = round(time.monotonic() - began, 2)
        calls[f"{FP8}+compile"] = compiled

    def _time(self, bench: GroupBench, rounds: int) -> None:
        try:
            bench.time_device(rounds, self.request.epoch_s)
            for _ in range(rounds):
                if self.left_s() > 0:
                    bench.time_calls()
            self.benches.append(bench)
        except self.torch.cuda.OutOfMemoryError:
            self._out_of_memory(bench.shape)

    def _profile(self) -> Iterator[GroupedGemm]:
        """Look at the kernels, last of all: an attached profiler slows launches."""
        for bench in self.benches:
            label = f"kernels of {bench.shape}"
            if self.left_s() < PROFILE_S:
                self.not_measured.append(f"{label}: the time budget was spent")
                continue
            yield self._now(label)
            try:
                bench.profile()
            except self.torch.cuda.OutOfMemoryError:
                self._out_of_memory(label)

    def _out_of_memory(self, label: str) -> None:
        self.torch.cuda.empty_cache()
        self.not_measured.append(f"{label}: out of GPU memory")

    def _keep(self, case: GroupedCase) -> None:
        self.cases[_key(case)] = case


def _key(case: GroupedCase) -> tuple[Any, ...]:
    return (case.config, case.kind, case.experts, case.m, case.k, case.n)
