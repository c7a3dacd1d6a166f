"""Times the configurations of te.Linear at one shape together, and later looks at the kernels that they ran.

Runs in the child; torch and Transformer Engine come in as arguments.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from fp8doctor.checks.linear.timing import LAUNCHES_SHOW, kernel_fields
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS, relative_error
from fp8doctor.checks.transformer_engine.calls import SETTLING_CALLS, Built, Engine, LayerCalls
from fp8doctor.checks.transformer_engine.configurations import Configuration, scaling_of
from fp8doctor.checks.transformer_engine.times import TRAINING, LayerTime
from fp8doctor.measuring.kernels import profile_calls
from fp8doctor.measuring.timer import (
    CALL_LOOP_S,
    CALLS_A_LOOP,
    MOST_CALLS_A_PAIR,
    PAIR_US,
    SAMPLES_A_BATCH,
    Pace,
    Timer,
)
from fp8doctor.measuring.turns import Contestant, time_calls, time_device
from fp8doctor.model import Shape

Keep = Callable[[LayerTime], None]
LEAST_ROUNDS = 2
# The words of Transformer Engine's own refusals of a shape or a recipe: assert_dim_for_fp8_exec in pytorch/utils.py,
# check_recipe_support in pytorch/quantization.py, and the strings of libtransformer_engine 2.20.2.
REFUSALS = (
    "FP8 execution requires",
    "divisible by",
    "multiple of",
    "is not supported",
    "not supported for",
    "higher required for",
    "CUBLAS_STATUS_NOT_SUPPORTED",
)


@dataclass
class Timed(Contestant):
    """A case under way."""

    case: LayerTime = field(default_factory=LayerTime)


@dataclass(frozen=True)
class Exact:
    """What FP32 gives for the same operands: the output, and the gradients of input and weight."""

    y: Any
    dx: Any
    dw: Any


class ShapeTimes:
    """All configurations of a linear layer at one shape."""

    def __init__(self, torch: Any, timer: Timer, engine: Engine, shape: Shape, keep: Keep) -> None:
        self.torch = torch
        self.timer = timer
        self.shape = shape
        self.keep = keep
        self.timed: list[Timed] = []
        torch.manual_seed(0)
        random = {"device": timer.device, "dtype": torch.bfloat16}
        # Unit variance in, unit variance out, as layers are initialised.
        weight = torch.randn(shape.n, shape.k, **random) / shape.k**0.5
        x = torch.randn(shape.m, shape.k, **random)
        grad = torch.randn(shape.m, shape.n, **random)
        self._exact = Exact(
            y=x.float() @ weight.float().t(), dx=grad.float() @ weight.float(), dw=grad.float().t() @ x.float()
        )
        self._calls = LayerCalls(torch, engine, x.requires_grad_(True), weight, grad)

    def case(self, way: Configuration) -> LayerTime:
        """An empty case of this shape."""
        shape = self.shape
        return LayerTime(config=way.config, kind="layer", passes=way.passes, m=shape.m, k=shape.k, n=shape.n)

    def prepare(self, way: Configuration) -> Timed | None:
        """Call a configuration for the first time, compare it with FP32, and take it up; None if it failed.

        A failure is kept as the outcome of its case.
        """
        case = self.case(way)
        try:
            with self.torch.set_grad_enabled(way.passes == TRAINING):
                built = self._calls.build(way)
                for _ in range(SETTLING_CALLS):
                    output = built.call()
                found = Timed(built.call, self.timer.pace(built.call), case=self._compared(case, output, built))
        except Exception as error:  # refusals are results; what poisons the GPU is seen by whoever called this
            outcome, text = outcome_of(self.torch, error)
            self.keep(replace(case, outcome=outcome, error=text))
            if outcome == "out-of-memory":
                self.torch.cuda.empty_cache()
            return None
        self.timed.append(found)
        return found

    def _compared(self, case: LayerTime, output: Any, built: Built) -> LayerTime:
        """The case with its errors; `output` and the gradients are those of the last call."""
        scaling = scaling_of(case.config)
        formats = (scaling.numerics, scaling.gradient_numerics) if scaling else ("bf16-output", "bf16-output")
        error = relative_error(output, self._exact.y)
        wrong = None if math.isfinite(error) else "the result holds values that are not finite"
        case = replace(
            case,
            outcome="ok",
            relative_error=None if wrong else round(error, 5),
            relative_error_limit=round(ERROR_LIMITS[formats[0]], 4),
            sqnr_db=round(-20 * math.log10(error), 1) if not wrong and error > 0 else None,
        )
        if built.leaves:
            gradients = zip(built.leaves, (self._exact.dx, self._exact.dw), strict=True)
            worst = max(relative_error(leaf.grad, exact) for leaf, exact in gradients)
            if not math.isfinite(worst):
                wrong = wrong or "a gradient holds values that are not finite"
            case = replace(
                case,
                gradient_error=round(worst, 5) if math.isfinite(worst) else None,
                gradient_error_limit=round(ERROR_LIMITS[formats[1]], 4),
            )
        return replace(case, error=wrong)

    def time(self, rounds: int, left_s: Callable[[], float], epoch_s: float) -> int:
        """Time all that was prepared, batch by batch in turn, and then the calls; returns the rounds that were done.

        At least `LEAST_ROUNDS` are done, whatever time is left: one value alone has no interval.
        """
        # Nobody reads the exact results any more: what follows may need their memory.
        del self._exact
        started = time.monotonic()
        done = self._rounds(rounds, left_s, lambda some: time_device(self.timer, some, 1))
        ended = time.monotonic()
        for item in self.timed:
            if item.device_us is None:
                self.keep(replace(item.case, outcome="not-measured", error=LAUNCHES_SHOW))
                continue
            item.case = replace(
                item.case,
                device_us=item.device_us,
                started_s=round(started - epoch_s, 3),
                ended_s=round(ended - epoch_s, 3),
            )
        self.timed = [item for item in self.timed if item.device_us is not None]
        self._rounds(done, left_s, lambda some: time_calls(self.timer, some))
        for item in self.timed:
            item.case = replace(item.case, call_us=item.call_us, host_us=item.host_us)
            self.keep(item.case)
        return done

    def _rounds(self, rounds: int, left_s: Callable[[], float], take: Callable[[list[Timed]], None]) -> int:
        for done in range(rounds):
            if done >= LEAST_ROUNDS and left_s() <= 0:
                return done
            for training in (True, False):
                with self.torch.set_grad_enabled(training):
                    take([item for item in self.timed if (item.case.passes == TRAINING) is training])
        return rounds

    def profile(self) -> None:
        """Add to each timed case the kernels of one profiled call.

        Done after all timing: a profiler that was once attached may leave launches slower for the host.
        """
        for training in (True, False):
            some = [item for item in self.timed if (item.case.passes == TRAINING) is training]
            with self.torch.set_grad_enabled(training):
                ran = profile_calls(self.torch, self.timer.device, [item.call for item in some], self.timer.flush)
            for item, kernels in zip(some, ran or [], strict=False):
                self.keep(replace(item.case, **kernel_fields(kernels)))


def cost_s(pace: Pace, rounds: int) -> float:
    """About how long timing a call of this pace takes, in seconds: for planning.

    A batch of device samples spins as long as the host needs to ask for it, runs, and rests as long if it was long; a
    loop of calls warms up first.
    """
    calls = max(1, min(MOST_CALLS_A_PAIR, math.ceil(PAIR_US / max(pace.device_us, 1.0))))
    batch_s = 2 * SAMPLES_A_BATCH * calls * (pace.device_us + pace.host_us) * 1e-6
    loop_s = max(2 * CALL_LOOP_S, 2 * CALLS_A_LOOP[0] * max(pace.device_us, pace.host_us) * 1e-6)
    return rounds * (batch_s + loop_s)


def outcome_of(torch: Any, error: Exception) -> tuple[str, str]:
    """ "out-of-memory", "refused" (Transformer Engine says that it does not do this) or "error"; and what was said."""
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out-of-memory", text
    return ("refused" if any(word in str(error) for word in REFUSALS) else "error"), text
