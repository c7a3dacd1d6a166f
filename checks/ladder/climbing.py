"""One rung: build the model, put it into the configuration, call its step and time it.

Runs in the child; torch is imported inside.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from fp8doctor.checks.ladder import caching
from fp8doctor.checks.ladder.calibration import CALIBRATING_CALLS, DELAYED, calibrate
from fp8doctor.checks.ladder.comparing import Reference, compare
from fp8doctor.checks.ladder.conversions import BASES, TUNED, RefusedError, around, compile_blocks, modify
from fp8doctor.checks.ladder.facts import Rung
from fp8doctor.checks.ladder.graphing import captured, compare_replay, compare_training_replay
from fp8doctor.checks.ladder.outcomes import failure
from fp8doctor.checks.ladder.slugs import BASELINE, Config, config_of
from fp8doctor.checks.ladder.stepping import MemoryWatch
from fp8doctor.checks.ladder.training import TrainingStep
from fp8doctor.checks.ladder.winners import ASKING_SHARE
from fp8doctor.checks.torch_build.numerics import relative_error
from fp8doctor.checks.workload.build import (
    Built,
    blocks_in_fp32,
    build,
    step_call,
    to_dtype,
    weight_bytes,
)
from fp8doctor.checks.workload.catalogue import ModelPlan, StepPlan
from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.stepping import Meter, how_many, summary_of

# With fewer rows than this a layer is a matrix-vector product, for which quantising its input never pays.
LEAST_ROWS = 16
BLOCKS = 2
# Their weights in BF16 must be this many times the L2: in FP8 they are half, and a cache keeps part of what is larger.
L2_TIMES = 4


@dataclass
class Climber:
    """Climbs the rungs of one step of one workload."""

    plan: ModelPlan
    step: StepPlan
    meter: Meter
    full: bool = False
    # A run of a minute: the reference computes in TF32, whose rounding is a quarter of BF16's, in place of FP32.
    short: bool = False
    epoch_s: float = 0.0
    _reference: Reference | None = None

    @cached_property
    def blocks(self) -> int | None:
        """How many blocks of each kind are built; None: all."""
        return None if self.full or self.step.trains else enough_blocks(self.plan, self.meter.l2_bytes())

    def reference(self) -> Reference:
        """What the step gives in BF16, and with its blocks in FP32 (TF32 if `short`): run once, and remembered."""
        if self._reference is None:
            self._reference = self._run_reference()
        return self._reference

    def _run_reference(self) -> Reference:
        import torch

        found = Reference()
        outputs: dict[bool, Any] = {}
        for exact in (True, False):
            try:
                outputs[exact] = self._plain_output(found, exact)
            except torch.cuda.OutOfMemoryError:
                if not exact:
                    raise
            tidy(self.meter)
        found.bf16_error = relative_error(outputs[False], outputs[True]) if True in outputs else None
        found.output = outputs[False]
        return found

    def _plain_output(self, found: Reference, exact: bool) -> Any:
        """The step's output with its blocks in FP32 (`exact`), or in BF16, of which rows and gradient are kept."""
        import torch

        built = self._build()
        if exact:
            blocks_in_fp32(built)
        else:
            found.rows = self._rows(built)
        built.visit_true_depth()
        if not self.step.trains:
            with torch.no_grad(), products_in_tf32(torch) if self.short and exact else contextlib.nullcontext():
                return step_call(built, self.step)().float().cpu()
        training = TrainingStep(built, self.step)
        output = training.output().float().cpu()
        if not exact:
            found.gradient = training.first_gradient()
        return output

    def _rows(self, built: Built) -> dict[str, int]:
        import torch

        rows: dict[str, int] = {}

        def watch(name: str) -> Any:
            return lambda module, args, output: rows.__setitem__(name, output.numel() // output.shape[-1])

        hooks = [
            module.register_forward_hook(watch(name))
            for name, module in built.model.named_modules()
            if isinstance(module, torch.nn.Linear) and any(name.startswith(f"{blocks}.") for blocks in built.depth)
        ]
        with torch.no_grad():
            step_call(built, self.step)()
        for hook in hooks:
            hook.remove()
        return rows

    def _build(self, base: str = BASELINE) -> Built:
        import torch

        built = build(self.plan, self.meter.device, torch.bfloat16, blocks=self.blocks)
        if base == "torch-fp16":
            to_dtype(built, torch.float16)
        return built

    def climb(self, slug: str, reference: Reference, left_s: float, regional: Rung | None = None) -> Rung:
        """Measure one configuration; whatever goes wrong is the outcome.

        `regional` is the rung that compiles each block of the same base, for the one that compiles the whole model.
        """
        config = config_of(slug)
        began = time.monotonic()
        rung = Rung(config=slug, step=self.step.name, started_s=round(began - self.epoch_s, 2))
        try:
            rung = self._climb(rung, config, reference, began + left_s, regional)
        except Exception as error:  # refusals and faults of the libraries are results
            rung = replace(rung, **failure(error))
        tidy(self.meter)
        return replace(rung, ended_s=round(time.monotonic() - self.epoch_s, 2))

    def _climb(self, rung: Rung, config: Config, reference: Reference, until: float, regional: Rung | None) -> Rung:
        import torch

        watch = MemoryWatch(self.meter)
        self.meter.forget_peak()
        with watch.phase("build"):
            built = self._build(config.base)
        names = layers_to_convert(config, reference.rows)
        # A model is loaded whole before it is converted.
        unconverted = built.absent_bytes()
        with watch.phase("convert"):
            convert(built, config, names)
            absent = built.absent_bytes()
            weights = weight_bytes(built.model) + absent
            whole = config.compiled == "compile-whole" and not self.step.trains
            if not whole:
                built.visit_true_depth(separate=config.cache is not None)
            if config.compiled == "compile":
                (caching.compile_inside if config.cache else compile_blocks)(built)
        rung = replace(
            rung,
            converted=None if config.base in ("torch-bf16", "torch-fp16") else len(names),
            linears=len(reference.rows),
            blocks_built=self.blocks,
            load_peak_gb=gigabytes(self.meter.peak_bytes() + unconverted),
            weights_gb=gigabytes(weights),
        )
        with contextlib.ExitStack() as stack:
            if not self.step.trains:
                stack.enter_context(torch.no_grad())
            if config.cache:
                torch._dynamo.utils.counters.clear()
                walk = caching.Walk(built, self.step, config.base, config.modifiers)
                compared = partial(compare, reference=reference, config=config)
                rung = caching.measure(rung, config.cache, walk, self.meter, compared, until)
                peak_gb = gigabytes(self.meter.peak_bytes() + absent)
                return replace(rung, peak_gb=peak_gb, memory=watch.kept(), **compilation(config))
            call, run = self._call(built, config)
            if config.recipe == DELAYED:
                with watch.phase("scales"):
                    self._calibrate(run, call, config, built)
            if whole:
                return self._whole(rung, config, names, call, watch, until, regional, reference)
            self.meter.forget_peak()
            with watch.phase("first call"):
                seconds = self.meter.first(call)
            rung = replace(rung, first_call_s=round(seconds, 3), **compilation(config))
            rung = replace(rung, **compare(run, reference, config))
            if config.graphed:
                self.meter.forget_peak()
                replay, result = captured(torch, call)
                if self.step.trains:
                    within = partial(around, config.base, config.modifiers, built)
                    rung = replace(rung, **compare_training_replay(replay, run, within, reference, config))
                else:
                    rung = replace(rung, **compare_replay(replay, result, reference, config))
                call = replay
            step_s = min(self.meter.first(call) for _ in range(2))
            if not config.graphed:  # a replay is given no memory: its graph has kept what it took while it was captured
                self.meter.forget_peak()
            times = self.meter.steps_ms(call, how_many(step_s, min(self.meter.steps_s, until - time.monotonic())))
            rung = replace(rung, peak_gb=gigabytes(self.meter.peak_bytes() + absent), **summary_of(times))
            rung = replace(rung, host_ms=estimate(self.meter.host_ms(call)))
            with watch.phase("steps"):
                for _ in range(2):
                    call()
                self.meter.wait()
        return replace(rung, memory=watch.kept())

    def _whole(
        self,
        rung: Rung,
        config: Config,
        names: tuple[str, ...],
        call: Callable[[], Any],
        watch: MemoryWatch,
        until: float,
        regional: Rung | None,
        reference: Reference,
    ) -> Rung:
        """The whole model compiled, as far as it was built, against the same blocks compiled one by one.

        A graph of all blocks takes minutes to compile. The factor between both on a few blocks is carried over to the
        true depth.
        """
        if regional is None or regional.step_ms is None:
            raise RefusedError("compiling each block did not run, which it is compared with")
        with watch.phase("first call"):
            seconds = self.meter.first(call)
        rung = replace(rung, first_call_s=round(seconds, 3), **compilation(config_of("torch-bf16+compile")))
        count = how_many(min(self.meter.first(call) for _ in range(2)), (until - time.monotonic()) / 2)
        times = self.meter.steps_ms(call, count)
        like, alone = config_of(regional.config or config.base), self._build(config.base)
        convert(alone, like, names)
        compile_blocks(alone)
        other = _within(step_call(alone, self.step), like, alone)
        self.meter.first(other)
        alike = estimate(self.meter.steps_ms(other, count)).median
        if self.meter.on_gpu and estimate(self.meter.host_ms(other)).median >= ASKING_SHARE * alike:
            raise RefusedError("so few blocks wait for the host: their factor says nothing of the true depth")
        scaled = [regional.step_ms.median / alike * ms for ms in times]
        # Against the same few blocks compiled one by one, which were compared with BF16 over the true depth.
        error = relative_error(call().float(), other().float())
        limit = reference.limit(config.numerics)
        rung = replace(rung, outcome="ok" if error <= limit else "wrong", memory=watch.kept())
        seen = round(error, 5) if error < float("inf") else None
        return replace(rung, step_ms=estimate(scaled), relative_error=seen, relative_error_limit=round(limit, 4))

    def _calibrate(self, run: Any, call: Callable[[], Any], config: Config, built: Built) -> None:
        """Let the scales fit that are taken from earlier calls."""
        if not self.step.trains:
            calibrate(call)
            return
        for _ in range(CALIBRATING_CALLS):
            with around(config.base, config.modifiers, built):
                run.first_gradient()

    def _call(self, built: Built, config: Config) -> tuple[Callable[[], Any], Any]:
        """The step as a call, and what can say its result: the output, or the output and the gradients."""
        import torch

        if config.compiled == "compile-whole":
            built.model.compile()
        run: Any = (
            TrainingStep(built, self.step, compiled=config.compiled is not None, graphed=config.graphed)
            if self.step.trains
            else step_call(built, self.step)
        )
        torch._dynamo.utils.counters.clear()
        call = _within(run, config, built)
        return call, run if self.step.trains else call


def tidy(meter: Meter) -> None:
    """Give back what a configuration held: compiled code, and memory that nothing points at."""
    import gc

    import torch

    torch._dynamo.reset()
    gc.collect()
    if meter.on_gpu:
        torch.cuda.empty_cache()


@contextlib.contextmanager
def products_in_tf32(torch: Any) -> Iterator[None]:
    """Let FP32 products run on the tensor cores: a FLUX step's 0.1 PFLOP takes two seconds of an H200 without them."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def enough_blocks(plan: ModelPlan, l2_bytes: int) -> int:
    """How many blocks of each kind stand for the depth: two, or more where two would stay in the L2 cache.

    Args:
        plan: the model.
        l2_bytes: the size of the device's L2, 0 where there is none to know of.
    """
    import torch

    built = build(plan, torch.device("meta"), torch.bfloat16, blocks=BLOCKS)
    weights = sum(map(weight_bytes, built.blocks()))
    return BLOCKS if not weights else max(BLOCKS, math.ceil(BLOCKS * L2_TIMES * l2_bytes / weights))


def layers_to_convert(config: Config, rows: dict[str, int]) -> tuple[str, ...]:
    """The linear layers that a configuration converts: those that are given enough rows.

    A model whose layers all have few rows (decoding) is converted whole, for the bytes of its weights.

    Args:
        config: the configuration.
        rows: the layers that may be converted, with the rows (tokens) that each is called with.
    """
    wide = tuple(name for name, count in rows.items() if count >= LEAST_ROWS)
    stores = config.base.endswith(("weightonly", "storage"))
    return tuple(rows) if stores or not wide else wide


def convert(built: Built, config: Config, names: tuple[str, ...]) -> None:
    """Put a model into a configuration, but for compiling and capturing; `names` are the linear layers to convert."""
    change = TUNED if "tuned" in config.modifiers else BASES[config.base][0]
    # A LoRA is fused in BF16: into weights that are quantised already it would be rounded away.
    fused = tuple(m for m in config.modifiers if m == "lora-fused")
    modify(built, fused, names)
    change(built, names)
    modify(built, tuple(m for m in config.modifiers if m not in fused), names)


def _within(step: Callable[[], Any], config: Config, built: Built) -> Callable[[], Any]:
    """The step with what its configuration puts round every call."""

    def call() -> Any:
        with around(config.base, config.modifiers, built):
            return step()

    return call


def compilation(config: Config) -> dict[str, Any]:
    """How many graphs the compiler made, and how often it broke off."""
    if config.compiled is None:
        return {}
    import torch

    counters = torch._dynamo.utils.counters
    return {
        "graphs": int(counters["stats"].get("unique_graphs", 0)),
        "graph_breaks": int(sum(counters["graph_break"].values())),
    }


def gigabytes(size: float) -> float:
    """Bytes in GB, as reports have them."""
    return round(size / 1e9, 3)
