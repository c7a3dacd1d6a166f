"""Measures the linear layer: every configuration at every shape, interleaved, within the time that is left."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fp8doctor.checks.gpu.facts import FIRST_FP8, capability
from fp8doctor.checks.linear import ceilings
from fp8doctor.checks.linear.choice import chosen, read_back_at
from fp8doctor.checks.linear.facts import Case, Compilation, Linear
from fp8doctor.checks.linear.timing import ShapeBench, outcome_of
from fp8doctor.checks.linear.variants import Layer, Variant
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torch_build.early import import_torch
from fp8doctor.checks.workload import WorkloadSeen
from fp8doctor.measuring.timer import SAMPLES_A_BATCH, Timer
from fp8doctor.measuring.workloads import Workload, forward_part
from fp8doctor.measuring.workloads import layers as layers_of
from fp8doctor.model import Request
from fp8doctor.plain import from_plain
from fp8doctor.registry import probe

# Batches of each case, interleaved with the other cases' of the shape, so that drift hits all alike.
ROUNDS = {"default": 5, "thorough": 11}
WARM_S = 2.0
# Kept free for ending in order.
RESERVE_S = 1.5
# What one shape, one compilation and one profiled shape may take, to know whether the next one still fits.
SHAPE_S = 2.0
COMPILE_S = 4.0
PROFILE_S = 2.0
# Kept for the kernels of the largest shapes: a budget that ends among the call times must still name a kernel.
KERNELS_S = 4.0
# Shapes that are done keep their calls until the end, as long as this share of the memory is free.
LEAST_FREE = 0.4
# Dynamo keeps one entry for each configuration and layer; its default limit of 8 would make later ones eager.
RECOMPILE_LIMIT = 64

_ENDED_A_CHILD = ": the child ended by "
_CALLS_LOST = "calls and kernels of what was timed before a child ended"


def prepare() -> None:
    """Import torch and its compiler while the probes that do not time anything still run."""
    # In this process: for kernels this small, starting worker processes takes longer than compiling.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    import_torch("torch._dynamo", "torch._inductor.compile_fx", "torch.profiler")


@probe(
    runs_in="target",
    timeout_s=900,
    times_gpu=True,
    order=10,
    share=20.0,
    modes=("default", "thorough"),
    prepare=prepare,
)
def gather(request: Request, torch_build: TorchBuild | None, seen: WorkloadSeen | None) -> Iterator[Linear]:
    """Timing a linear layer in BF16 and FP8."""
    if torch_build is None or not torch_build.devices:
        why = "torch sees no GPU" if torch_build and torch_build.installed else "there is no torch to measure with"
        yield Linear(measurable=False, why_not=why)
        return
    workload = seen.workload if seen else None
    if workload and workload.steps and all(step.trains for step in workload.steps):
        yield Linear(measurable=False, why_not="the workload trains: its layers are timed forward and backward")
        return
    yield from _Run(request, workload).records()


def resumed(request: Request) -> Linear:
    """The record to go on from: a fresh one, or that of a child that crashed, with what it was trying told."""
    if request.so_far is None:
        return Linear(measurable=True)
    record = from_plain(Linear, request.so_far)
    missing = list(record.not_measured or ())
    if record.attempting:
        missing.append(f"{record.attempting}{_ENDED_A_CHILD}{request.so_far_ended}")
    # The calls themselves were in the memory of the child that crashed.
    without_calls = [c for c in record.cases or () if c.kind == "layer" and c.device_us and not c.call_us]
    if without_calls and _CALLS_LOST not in missing:
        missing.append(_CALLS_LOST)
    return replace(record, not_measured=tuple(missing), attempting=None)


def ended_children(record: Linear) -> frozenset[str]:
    """What ended a child when it was tried: it is not tried again, whatever ends the next child."""
    told = (words.partition(_ENDED_A_CHILD) for words in record.not_measured or ())
    return frozenset(what for what, ended, _ in told if ended)


class _Run:
    """One measurement; the record grows and is yielded before each step that may crash."""

    def __init__(self, request: Request, workload: Workload | None) -> None:
        import torch

        self.began = time.monotonic()
        self.torch = torch
        self.request = request
        self.workload = forward_part(workload) if workload else None
        torch.cuda.set_device(request.gpu)
        self.device = torch.device("cuda", request.gpu)
        self.record = resumed(request)
        self.cases = {_key(case): case for case in self.record.cases or ()}
        self.compilations = list(self.record.compilations or ())
        self.not_measured = list(self.record.not_measured or ())
        self.benches: list[ShapeBench] = []
        self.skip = ended_children(self.record)

    def left_s(self) -> float:
        """Seconds left for building and timing; looking at kernels has its own."""
        return self.request.seconds_left - RESERVE_S - KERNELS_S - (time.monotonic() - self.began)

    def records(self) -> Iterator[Linear]:
        torch = self.torch
        timer = Timer(torch, self.device)
        rounds = ROUNDS[self.request.mode]
        properties = torch.cuda.get_device_properties(self.device)
        hip = getattr(properties, "gcnArchName", "").partition(":")[0] if torch.version.hip else None
        cc = hip or f"{properties.major}.{properties.minor}"
        self.with_fp8 = hip is not None or (capability(cc) or (0, 0)) >= FIRST_FP8
        warm = ceilings.product(torch, self.device, "bf16", (4096, 4096, 4096))
        self.record = replace(
            self.record,
            method=timer.method(rounds * SAMPLES_A_BATCH),
            device_name=properties.name,
            compute_capability=cc,
            warm_up_s=round(timer.warm(warm, WARM_S), 2),
        )
        del warm
        timer.calibrate()
        if self.record.ceilings is None and "ceilings" not in self.skip:
            yield self._now("ceilings")
            found = ceilings.measure(torch, timer, epoch_s=self.request.epoch_s, with_fp8=self.with_fp8)
            self.record = replace(self.record, ceilings=found)
        import torch._dynamo.config as dynamo

        limit = "recompile_limit" if hasattr(dynamo, "recompile_limit") else "cache_size_limit"
        setattr(dynamo, limit, RECOMPILE_LIMIT)
        # Otherwise the second layer's K and N become symbolic, and its slower kernels also serve the first layer.
        dynamo.automatic_dynamic_shapes = False
        layers = layers_of(self.workload, self.request.shapes)
        # The first layer that FP8 takes at all is the one that is measured in every way.
        leading = next((layer for layer in layers if layer[0] % 16 == layer[1] % 16 == 0), next(iter(layers)))
        for layer, tokens in layers.items():
            yield from self._layer(timer, rounds, *layer, tokens, leading=layer == leading)
        yield self._now("calls")
        self._time_calls(rounds)
        yield from self._profile()
        yield self._now(None)

    def _now(self, attempting: str | None) -> Linear:
        return replace(
            self.record,
            cases=tuple(self.cases.values()),
            compilations=tuple(self.compilations),
            not_measured=tuple(self.not_measured),
            took_s=round(time.monotonic() - self.began, 2),
            attempting=attempting,
        )

    def _layer(
        self, timer: Timer, rounds: int, k: int, n: int, tokens: tuple[int, ...], *, leading: bool
    ) -> Iterator[Linear]:
        """Build and compile every configuration of one layer, then time them together at each number of tokens."""
        torch = self.torch
        todo = [m for m in tokens if ("torch-bf16", "layer", m, k, n) not in self.cases]
        if not todo:
            return
        if self.left_s() < SHAPE_S:
            self.not_measured.append(f"K={k} N={n}: the time budget was spent")
            return
        torch.manual_seed(0)
        try:
            # Unit variance in, unit variance out, as layers are initialised.
            weight = torch.randn(n, k, device=self.device, dtype=torch.bfloat16) / k**0.5
        except torch.cuda.OutOfMemoryError:
            self._out_of_memory(f"K={k} N={n}")
            return
        slow_accumulation = self.workload is None and (leading or self.request.mode == "thorough")
        built: dict[str, tuple[Variant, Layer]] = {}
        for variant in self._chosen(k, n, leading):
            label = f"{variant.config} K={k} N={n}"
            if label in self.skip:
                continue
            if variant.compiled and self.left_s() < self._compile_s(variant) + SHAPE_S:
                self.not_measured.append(f"{label}: no time left to compile it")
                continue
            yield self._now(label)
            layer = self._build(variant, weight, k, n, max(2, *tokens))
            if layer is not None:
                built[variant.config] = (variant, layer)
        for m in todo:
            label = f"{m}x{k}x{n}"
            if label in self.skip:
                continue
            if self.left_s() < SHAPE_S:
                self.not_measured.append(f"{label}: the time budget was spent")
                continue
            yield self._now(label)
            here = {c: pair for c, pair in built.items() if not pair[0].reads_back or m == read_back_at(tokens)}
            bench = ShapeBench(torch, timer, m, weight, here, _graphed(here), slow_accumulation, self._keep)
            try:
                self._make_room(rounds)
                bench.time_device(rounds, self.request.epoch_s)
                self.benches.append(bench)
            except torch.cuda.OutOfMemoryError:
                self._out_of_memory(label)

    def _chosen(self, k: int, n: int, leading: bool) -> list[Variant]:
        from importlib.util import find_spec

        return chosen(
            k,
            n,
            leading=leading,
            thorough=self.request.mode == "thorough",
            for_workload=self.workload is not None,
            with_torchao=find_spec("torchao") is not None,
            with_fp8=self.with_fp8,
        )

    def _compile_s(self, variant: Variant) -> float:
        """Seconds that compiling it may take: for a further layer no more than for an earlier one."""
        took = [c.first_call_s for c in self.compilations if c.config == variant.config and c.first_call_s]
        return min(took, default=COMPILE_S)

    def _build(self, variant: Variant, weight: Any, k: int, n: int, m: int) -> Layer | None:
        torch = self.torch
        began = time.monotonic()
        try:
            x = torch.randn(m, k, device=self.device, dtype=torch.bfloat16)
            layer = variant.build(torch, weight)
            if variant.compiled:
                layer = torch.compile(layer)
                torch._dynamo.mark_dynamic(x, 0)
            with torch.no_grad():
                layer(x)
            torch.cuda.synchronize(self.device)
        except Exception as error:  # refusals and compile errors are results
            self._failed(variant, k, n, error)
            return None
        if variant.compiled:
            seconds = round(time.monotonic() - began, 2)
            self.compilations.append(Compilation(variant.config, k, n, seconds))
        return layer

    def _failed(self, variant: Variant, k: int, n: int, error: Exception) -> None:
        outcome, text = outcome_of(self.torch, error)
        if variant.compiled:
            self.compilations.append(Compilation(variant.config, k, n, None, text))
        self._keep(Case(config=variant.config, kind="layer", k=k, n=n, outcome=outcome, error=text))
        self.torch.cuda.empty_cache()

    def _make_room(self, rounds: int) -> None:
        """Where memory is short, finish the shapes so far now: their calls hold activations and graphs."""
        free, total = self.torch.cuda.mem_get_info(self.device)
        if free < LEAST_FREE * total:
            self._time_calls(rounds)
            self.torch.cuda.empty_cache()

    def _time_calls(self, rounds: int) -> None:
        """The call times of all shapes that wait for it, round by round over the whole of them."""
        if "calls" not in self.skip:
            for _ in range(rounds):
                if self.left_s() > 0:
                    for bench in self.benches:
                        bench.time_calls()
        for bench in self.benches:
            bench.keep_calls()

    def _profile(self) -> Iterator[Linear]:
        """Look at the kernels of every timed shape, last of all: an attached profiler slows launches."""
        for bench in sorted(self.benches, key=lambda bench: bench.m * bench.weight.numel(), reverse=True):
            n, k = bench.weight.shape
            label = f"kernels of {bench.m}x{k}x{n}"
            if self.left_s() + KERNELS_S < PROFILE_S:
                self.not_measured.append(f"{label}: the time budget was spent")
                continue
            yield self._now(label)
            try:
                bench.profile(self.cases)
            except self.torch.cuda.OutOfMemoryError:
                self._out_of_memory(label)

    def _out_of_memory(self, label: str) -> None:
        self.torch.cuda.empty_cache()
        self.not_measured.append(f"{label}: out of GPU memory")

    def _keep(self, case: Case) -> None:
        self.cases[_key(case)] = case


def _key(case: Case) -> tuple[Any, ...]:
    return (case.config, case.kind, case.m, case.k, case.n)


def _graphed(built: dict[str, tuple[Variant, Layer]]) -> frozenset[str]:
    """What is also replayed as a CUDA graph: eager BF16, and compiled FP8 (torchao's where it is there)."""
    fp8 = [config for config, (variant, _) in built.items() if variant.compiled and variant.multiplies_in_fp8]
    torchao = [config for config in fp8 if config.startswith("torchao")]
    return frozenset(["torch-bf16", *(torchao or fp8)])
