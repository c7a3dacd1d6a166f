"""Times te.Linear beside nn.Linear: forward, and forward with backward, within the time that is left."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import re
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torch_build.early import import_torch
from fp8doctor.checks.transformer_engine.calls import Engine
from fp8doctor.checks.transformer_engine.configurations import BF16, TE_BF16, Configuration, Scaling, in_order, plan
from fp8doctor.checks.transformer_engine.facts import TransformerEngine
from fp8doctor.checks.transformer_engine.times import BOTH, LayerTime, TransformerEngineTimes, passes_of
from fp8doctor.checks.transformer_engine.timing import ShapeTimes, cost_s
from fp8doctor.checks.workload import WorkloadSeen
from fp8doctor.measuring.timer import SAMPLES_A_BATCH, Timer
from fp8doctor.measuring.workloads import Workload, work
from fp8doctor.model import Request, Shape
from fp8doctor.plain import from_plain
from fp8doctor.registry import probe

# A transformer of width 3072 (as DEFAULT_LAYERS in measuring/workloads.py): the square layer at a middle, a large and
# a small number of tokens, the wide one, and a product as large as published comparisons take.
SHAPES = (
    Shape(1024, 3072, 3072),
    Shape(4096, 3072, 12288),
    Shape(4096, 3072, 3072),
    Shape(16, 3072, 3072),
    Shape(8192, 8192, 8192),
)
# Of a workload as many of its layers, those with the most work.
LAYERS_OF_A_WORKLOAD = 5
# Batches of each case, interleaved with the other cases' of the shape, so that drift hits all alike.
ROUNDS = {"default": 3, "thorough": 9}
WARM_S = 0.5
# Kept free for ending in order.
RESERVE_S = 1.5
# What one shape, one configuration's first calls, and profiling may take, to know whether they still fit.
SHAPE_S = 1.0
CASE_S = 0.3
PROFILE_S = 2.0
# Where BF16's own work takes this long, half of it hides what te.Linear asks of the host (about 1 ms, measured beside
# an H200), so that CUDA graphs, and te.Linear in BF16, would tell nothing.
HIDES_THE_HOST_US = 4000.0

# Values of `attempting` beside the configurations, and words of `not_measured`.
OPERANDS, TIMING, PROFILING = "operands", "timing", "kernels"
SPENT = "the time budget was spent"
_ENDED_A_CHILD = ": the child ended by "


def prepare() -> None:
    """Import Transformer Engine, where it is installed, while the probes that do not time anything still run."""
    if importlib.util.find_spec("transformer_engine") is not None:
        import_torch("torch.profiler", "transformer_engine.pytorch")


@probe(
    runs_in="target",
    timeout_s=300,
    times_gpu=True,
    order=20,
    share=4.0,
    modes=("default", "thorough"),
    prepare=prepare,
)
def gather(
    request: Request, torch_build: TorchBuild | None, seen: TransformerEngine | None, workload: WorkloadSeen | None
) -> Iterator[TransformerEngineTimes]:
    """Timing te.Linear, forward and backward, in BF16 and FP8."""
    if (why := _why_not(torch_build, seen)) is not None:
        yield TransformerEngineTimes(measurable=False, why_not=why)
        return
    import torch

    importlib.import_module("transformer_engine.pytorch")
    engine = Engine(
        importlib.import_module("transformer_engine.pytorch"),
        importlib.import_module("transformer_engine.common.recipe"),
    )
    torch.cuda.set_device(request.gpu)
    named = workload.workload if workload else None
    shapes, passes = shapes_of(request, named), passes_of(named)
    yield from Run(torch, engine, torch.device("cuda", request.gpu), request, seen, shapes, passes).records()


def _why_not(torch_build: TorchBuild | None, seen: TransformerEngine | None) -> str | None:
    """Why te.Linear cannot be timed here, in words; None if it can."""
    if seen is None:
        return "whether Transformer Engine is there was not seen"
    if seen.installed is False:
        return "Transformer Engine is not installed"
    if torch_build is None or not torch_build.devices:
        return "torch sees no GPU" if torch_build and torch_build.installed else "there is no torch to measure with"
    if not seen.import_ok:
        return "Transformer Engine cannot be imported"
    if not right_recipes(seen):
        reason = next((recipe.reason for recipe in seen.recipes or () if recipe.reason), None)
        return f"Transformer Engine has no FP8 recipe that runs here{f': {reason}' if reason else ''}"
    return None


def right_recipes(seen: TransformerEngine) -> list[str]:
    """The recipes that Transformer Engine allows here and whose result on a small layer was right."""
    return [
        recipe.name
        for recipe in seen.recipes or ()
        if recipe.name
        and recipe.available
        and recipe.forward_ok
        and recipe.relative_error is not None
        and recipe.relative_error <= (recipe.relative_error_limit or 0.0)
    ]


def shapes_of(request: Request, workload: Workload | None) -> tuple[Shape, ...]:
    """The shapes to time, the most telling first: a person's own, else the workload's with the most work."""
    if request.shapes:
        return request.shapes
    if workload is None:
        return SHAPES
    uses = sorted((use for step in workload.steps or () for use in step.linears or ()), key=work, reverse=True)
    shapes = tuple(dict.fromkeys(Shape(use.m or 0, use.k or 0, use.n or 0) for use in uses))
    return shapes if request.mode == "thorough" else shapes[:LAYERS_OF_A_WORKLOAD]


def resumed(request: Request) -> TransformerEngineTimes:
    """The record to go on from: a fresh one, or that of a child that crashed, with what it was trying told."""
    if request.so_far is None:
        return TransformerEngineTimes(measurable=True)
    record = from_plain(TransformerEngineTimes, request.so_far)
    tried, ended = record.attempting, request.so_far_ended
    missing, cases = record.not_measured or (), record.cases or ()
    if tried:
        missing = (*missing, f"{tried}{_ENDED_A_CHILD}{ended}")
        cases = (*cases, *_crashed(tried, f"the process ended: {ended}"))
    return replace(record, not_measured=missing, cases=cases, attempting=None)


def _crashed(tried: str, said: str) -> list[LayerTime]:
    """The case that ended a child, if it was one: "te-fp8-current forward 1024x3072x3072"."""
    found = re.fullmatch(r"(\S+) (\S+) (\d+)x(\d+)x(\d+)", tried)
    if found is None:
        return []
    config, passes = found.group(1, 2)
    m, k, n = map(int, found.group(3, 4, 5))
    return [LayerTime(config=config, kind="layer", passes=passes, m=m, k=k, n=n, outcome="crashed", error=said)]


def ended_children(record: TransformerEngineTimes) -> frozenset[str]:
    """What ended a child when it was tried: it is not tried again, whatever ends the next child."""
    told = (words.partition(_ENDED_A_CHILD) for words in record.not_measured or ())
    return frozenset(what for what, ended, _ in told if ended)


class Run:
    """One measurement; the record grows and is yielded before each step that may crash."""

    def __init__(
        self,
        torch: Any,
        engine: Engine,
        device: Any,
        request: Request,
        seen: TransformerEngine | None,
        shapes: Sequence[Shape],
        passes: Sequence[str] = BOTH,
    ) -> None:
        self.began = time.monotonic()
        self.torch = torch
        self.engine = engine
        self.device = device
        self.request = request
        self.shapes = shapes
        self.passes = passes
        self.everything = request.mode == "thorough"
        self.rounds = ROUNDS.get(request.mode, ROUNDS["default"])
        self.record = resumed(request)
        self.cases = {_key(case): case for case in self.record.cases or ()}
        self.not_measured = list(self.record.not_measured or ())
        self.skip = ended_children(self.record)
        self.scalings = self._scalings(seen)

    def _scalings(self, seen: TransformerEngine | None) -> list[Scaling]:
        default = self.engine.default_recipe()
        scalings = in_order(right_recipes(seen) if seen else (), default)
        self.record = replace(
            self.record,
            default_config=next((scaling.config for scaling in scalings if scaling.recipe == default), None),
            configs=tuple(scaling.config for scaling in scalings),
        )
        return scalings

    def left_s(self) -> float:
        """Seconds until the part of the budget that is this probe's is spent."""
        return self.request.seconds_left - RESERVE_S - (time.monotonic() - self.began)

    def records(self) -> Iterator[TransformerEngineTimes]:
        """Measure, shape by shape."""
        # The first that per-tensor FP8 takes at all is the one that is measured in every way.
        legal = (shape for shape in self.shapes if shape.m % 16 == shape.k % 16 == shape.n % 16 == 0)
        leading = next(legal, self.shapes[0])
        timer = Timer(self.torch, self.device)
        self.record = replace(
            self.record,
            method=timer.method(self.rounds * SAMPLES_A_BATCH),
            device_name=self.torch.cuda.get_device_properties(self.device).name,
            warm_up_s=self._warm_up(timer, leading.k),
        )
        timer.calibrate()
        profiled = None
        for shape in self.shapes:
            if shape == leading:
                profiled = yield from self._shape(timer, shape, first=True)
            else:  # what it held of the GPU's memory is free again
                yield from self._shape(timer, shape, first=False)
        if profiled is not None and PROFILING not in self.skip:
            if self.left_s() < PROFILE_S:
                self.not_measured.append(f"{PROFILING}: {SPENT}")
            else:
                yield self._now(PROFILING)
                profiled.profile()
        yield self._now(None)

    def _warm_up(self, timer: Timer, size: int) -> float:
        square = self.torch.randn(size, size, device=self.device, dtype=self.torch.bfloat16)
        return round(timer.warm(lambda: square @ square, WARM_S), 2)

    def _now(self, attempting: str | None) -> TransformerEngineTimes:
        return replace(
            self.record,
            cases=tuple(self.cases.values()),
            not_measured=tuple(self.not_measured),
            took_s=round(time.monotonic() - self.began, 2),
            attempting=attempting,
        )

    def _shape(
        self, timer: Timer, shape: Shape, *, first: bool
    ) -> Generator[TransformerEngineTimes, None, ShapeTimes | None]:
        """Prepare every configuration of one shape, then time them together."""
        here = [case for case in self.cases.values() if (case.m, case.k, case.n) == (shape.m, shape.k, shape.n)]
        begin, end = f"{OPERANDS} {shape}", f"{TIMING} {shape}"
        if {begin, end} & self.skip or any(case.device_us for case in here):
            return None
        if self.left_s() < SHAPE_S:
            self.not_measured.append(f"{shape}: {SPENT}")
            return None
        # Layers whose forward a graph has taken hold themselves, and their graph's memory.
        gc.collect()
        self.engine.forget()
        failed = {(case.config, case.passes) for case in here}
        try:
            yield self._now(begin)
            bench = ShapeTimes(self.torch, timer, self.engine, shape, self._keep)
            ways = plan(self.scalings, first=first, everything=self.everything, passes=self.passes)
            yield from self._prepare(bench, [way for way in ways if (way.config, way.passes) not in failed])
            if not bench.timed:
                return None
            yield self._now(end)
            bench.time(self.rounds, self.left_s, self.request.epoch_s)
        except self.torch.cuda.OutOfMemoryError:
            self.torch.cuda.empty_cache()
            self.not_measured.append(f"{shape}: out of GPU memory")
            return None
        return bench

    def _prepare(self, bench: ShapeTimes, ways: list[Configuration]) -> Iterator[TransformerEngineTimes]:
        """Call each configuration for the first time, as long as timing what was called still fits."""
        planned_s = 0.0
        late: list[Configuration] = []
        hidden = False
        for way in ways:
            if hidden and (way.graphed or way.config == TE_BF16):
                continue
            if late or self.left_s() < planned_s + CASE_S:
                late.append(way)
                continue
            yield self._now(f"{way} {bench.shape}")
            found = bench.prepare(way)
            # Raises if a kernel has poisoned the CUDA context; a fresh child then goes on with the rest.
            self.torch.cuda.synchronize(self.device)
            if found is None:
                continue
            planned_s += cost_s(found.pace, self.rounds)
            if self.left_s() < planned_s:
                bench.timed.remove(found)
                late.append(way)
            if way.config == BF16 and not self.everything:
                hidden = hidden or found.pace.device_us > HIDES_THE_HOST_US
        if late:
            more = f" and {len(late) - 1} more" if len(late) > 1 else ""
            self.not_measured.append(f"{late[0]}{more} at {bench.shape}: {SPENT}")

    def _keep(self, case: LayerTime) -> None:
        self.cases[_key(case)] = case


def _key(case: LayerTime) -> tuple[Any, ...]:
    return (case.config, case.passes, case.m, case.k, case.n)
