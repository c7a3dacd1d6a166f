"""Measures training of a linear layer: every recipe of torchao's float8 training beside BF16, compiled and not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fp8doctor.checks.gpu.facts import FIRST_FP8, capability
from fp8doctor.checks.linear import ceilings
from fp8doctor.checks.linear.timing import outcome_of
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torchao import Torchao
from fp8doctor.checks.training.facts import Training, TrainingCase, TrainingCompilation
from fp8doctor.checks.training.recipes import RECIPES, Recipe, build, step
from fp8doctor.checks.training.resuming import ended_children, resumed
from fp8doctor.checks.training.timing import Built, StepBench
from fp8doctor.checks.workload import WorkloadSeen
from fp8doctor.measuring.timer import SAMPLES_A_BATCH, Timer
from fp8doctor.measuring.workloads import Workload, layers
from fp8doctor.model import Request, Shape
from fp8doctor.registry import probe

# Without a workload: the widths of an 8B model (meta-llama/Meta-Llama-3-8B, config.json: hidden 4096, intermediate
# 14336), and that of a model of some 400M, at which FP8 was seen to gain little.
DEFAULT_SHAPES = (Shape(8192, 4096, 14336), Shape(8192, 4096, 4096), Shape(8192, 1024, 4096))
# Batches of each case, interleaved with the other cases' of the shape, so that drift hits all alike.
ROUNDS = {"default": 3, "thorough": 7}
WARM_S = 1.0
# Kept free for ending in order.
RESERVE_S = 1.5
# What one shape, one compilation and one profiled shape may take, to know whether the next one still fits.
SHAPE_S = 3.0
COMPILE_S = 6.0
PROFILE_S = 2.0
# Shapes that are done keep their calls for the profiler, as long as this share of the memory is free.
LEAST_FREE = 0.4
# Dynamo keeps one entry for each configuration and shape; its default limit of 8 would make later ones eager.
RECOMPILE_LIMIT = 64
IMPORTING = "import torchao.float8"


# No `prepare`: nearly every run has no training workload, and would start a child that imports torch for nothing.
@probe(runs_in="target", timeout_s=600, times_gpu=True, order=40, share=2.0, modes=("default", "thorough"))
def gather(
    request: Request, torch_build: TorchBuild | None, torchao: Torchao | None, seen: WorkloadSeen | None
) -> Iterator[Training]:
    """Timing a linear layer's training in BF16 and FP8."""
    workload = training_part(seen.workload if seen else None)
    why = why_not(request.mode, torch_build, torchao, workload)
    if why is not None:
        yield Training(measurable=False, why_not=why)
        return
    # In this process: for kernels this small, starting worker processes takes longer than compiling.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    import torch

    torch.cuda.set_device(request.gpu)
    yield from Run(torch, torch.device("cuda", request.gpu), request, workload).records()


def training_part(workload: Workload | None) -> Workload | None:
    """The workload with its steps that train alone; None if it has none."""
    steps = tuple(step for step in workload.steps or () if step.trains) if workload else ()
    return replace(workload, steps=steps) if workload and steps else None


def why_not(mode: str, build: TorchBuild | None, torchao: Torchao | None, workload: Workload | None) -> str | None:
    """Why nothing is measured here, None if it can be."""
    if mode == "default" and workload is None:
        return "no training workload was named"
    if build is None or not build.devices:
        return "torch sees no GPU" if build and build.installed else "there is no torch to measure with"
    if torchao is None or torchao.installed is not True:
        return "torchao is not installed"
    if torchao.import_ok is False:
        return "torchao cannot be imported"
    return None


class Run:
    """One measurement; the record grows and is yielded before each step that may crash.

    `torch` is the module and `device` where to measure; `workload` trains in all its steps.
    """

    def __init__(self, torch: Any, device: Any, request: Request, workload: Workload | None) -> None:
        self.began = time.monotonic()
        self.torch = torch
        self.device = device
        self.request = request
        own = request.shapes if workload else (*request.shapes, *DEFAULT_SHAPES)
        self.layers = layers(workload or Workload(), own)
        self.record = resumed(Training(measurable=True), request)
        self.cases = {_key(case): case for case in self.record.cases or ()}
        self.compilations = list(self.record.compilations or ())
        self.not_measured = list(self.record.not_measured or ())
        self.skip = ended_children(self.not_measured)
        self.benches: list[StepBench] = []

    def left_s(self) -> float:
        """Seconds until it should have ended."""
        return self.request.seconds_left - RESERVE_S - (time.monotonic() - self.began)

    def records(self) -> Iterator[Training]:
        """Measure layer by layer, those with the most work first."""
        torch = self.torch
        properties = torch.cuda.get_device_properties(self.device)
        hip = getattr(properties, "gcnArchName", "").partition(":")[0] if torch.version.hip else None
        cc = hip or f"{properties.major}.{properties.minor}"
        if hip is None and (capability(cc) or (0, 0)) < FIRST_FP8:
            yield Training(measurable=False, why_not="this GPU has no FP8 tensor cores", compute_capability=cc)
            return
        if IMPORTING in self.skip:
            yield replace(self._now(None), measurable=False, why_not="torchao.float8 cannot be imported")
            return
        yield self._now(IMPORTING)
        import torchao.float8  # noqa: F401  (what it raises is this probe's outcome)

        timer = Timer(torch, self.device)
        rounds = ROUNDS[self.request.mode]
        self.record = replace(
            self.record,
            method=timer.method(rounds * SAMPLES_A_BATCH),
            device_name=properties.name,
            compute_capability=cc,
        )
        timer.warm(ceilings.product(torch, self.device, "bf16", (4096, 4096, 4096)), WARM_S)
        timer.calibrate()
        self._set_dynamo()
        for (k, n), tokens in self.layers.items():
            yield from self._layer(timer, rounds, k, n, tokens)
        yield from self._profile()
        yield self._now(None)

    def _set_dynamo(self) -> None:
        import torch._dynamo.config as dynamo

        limit = "recompile_limit" if hasattr(dynamo, "recompile_limit") else "cache_size_limit"
        setattr(dynamo, limit, RECOMPILE_LIMIT)
        # Otherwise the second layer's K and N become symbolic, and its slower kernels also serve the first layer.
        dynamo.automatic_dynamic_shapes = False

    def _now(self, attempting: str | None) -> Training:
        return replace(
            self.record,
            cases=tuple(self.cases.values()),
            compilations=tuple(self.compilations),
            not_measured=tuple(self.not_measured),
            took_s=round(time.monotonic() - self.began, 2),
            attempting=attempting,
        )

    def _layer(self, timer: Timer, rounds: int, k: int, n: int, tokens: tuple[int, ...]) -> Iterator[Training]:
        """Build and compile every recipe of one layer, then time them together at each number of tokens."""
        torch = self.torch
        todo = [m for m in tokens if ("torch-bf16", m, k, n) not in self.cases]
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
        built: Built = {}
        for recipe in RECIPES:
            label = f"{recipe.config} K={k} N={n}"
            # A refusal is seen in the eager call; nothing is compiled for it.
            if label in self.skip or (recipe.compiled and any(size % 16 for size in recipe.wants_16(k, n, tokens))):
                continue
            if recipe.compiled and self.left_s() < COMPILE_S + SHAPE_S:
                self.not_measured.append(f"{label}: no time left to compile it")
                continue
            yield self._now(label)
            self._build(recipe, weight, tokens, built)
        for m in todo:
            label = f"{m}x{k}x{n}"
            if label in self.skip:
                continue
            if self.left_s() < SHAPE_S:
                self.not_measured.append(f"{label}: the time budget was spent")
                continue
            yield self._now(label)
            self._time(StepBench(torch, timer, m, weight, built, self._keep), rounds, label)

    def _build(self, recipe: Recipe, weight: Any, tokens: tuple[int, ...], built: Built) -> None:
        """Build a recipe and call it once, forward and backward.

        A training step has one shape: where the layer has one number of tokens it is compiled for that, as a user's is.
        """
        torch = self.torch
        n, k = weight.shape
        began = time.monotonic()
        most = max(2, *tokens)
        m = None if len(tokens) > 1 else most
        try:
            module, own_weight = build(torch, recipe, weight)
            random = {"device": self.device, "dtype": torch.bfloat16}
            x = torch.randn(most, k, **random, requires_grad=True)
            grad = torch.randn(most, n, **random)
            if recipe.compiled:
                module = torch.compile(module)
                if m is None:
                    torch._dynamo.mark_dynamic(x, 0)
            step(torch, module, x, own_weight, grad)
            torch.cuda.synchronize(self.device)
        except Exception as error:  # refusals and compile errors are results
            outcome, text = outcome_of(torch, error)
            if recipe.compiled:
                self.compilations.append(TrainingCompilation(recipe.config, m, k, n, None, text))
            self._keep(TrainingCase(config=recipe.config, m=most, k=k, n=n, outcome=outcome, error=text))
            torch.cuda.empty_cache()
            return
        if recipe.compiled:
            seconds = round(time.monotonic() - began, 2)
            self.compilations.append(TrainingCompilation(recipe.config, m, k, n, seconds))
        built[recipe.config] = (recipe, module, own_weight)

    def _time(self, bench: StepBench, rounds: int, label: str) -> None:
        try:
            self._make_room()
            bench.time_device(rounds, self.request.epoch_s)
            for _ in range(rounds):
                if self.left_s() > 0:
                    bench.time_calls()
            self.benches.append(bench)
        except self.torch.cuda.OutOfMemoryError:
            self._out_of_memory(label)

    def _make_room(self) -> None:
        """Where memory is short, let go of the shapes so far: their calls hold weights and activations."""
        free, total = self.torch.cuda.mem_get_info(self.device)
        if free < LEAST_FREE * total:
            for bench in self.benches:
                self.not_measured.append(f"kernels of {_label(bench)}: too little memory to keep its calls")
            self.benches = []
            self.torch.cuda.empty_cache()

    def _profile(self) -> Iterator[Training]:
        """Look at the kernels of every timed shape, last of all: an attached profiler slows launches."""
        for bench in self.benches:
            label = f"kernels of {_label(bench)}"
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

    def _keep(self, case: TrainingCase) -> None:
        self.cases[_key(case)] = case


def _key(case: TrainingCase) -> tuple[Any, ...]:
    return (case.config, case.m, case.k, case.n)


def _label(bench: StepBench) -> str:
    n, k = bench.weight.shape
    return f"{bench.m}x{k}x{n}"
