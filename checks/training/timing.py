"""Times the configurations of one shape together, forward and backward, and later looks at the kernels that they ran.

Runs in the child; torch comes in as an argument.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from fp8doctor.checks.linear.timing import LAUNCHES_SHOW, kernel_fields, outcome_of
from fp8doctor.checks.torch_build.kernels import gemm_kind
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS, relative_error
from fp8doctor.checks.training.facts import TrainingCase
from fp8doctor.checks.training.recipes import FP8, Recipe, step
from fp8doctor.measuring.kernels import profile_calls
from fp8doctor.measuring.timer import PAIR_US, Call, Pace, Timer
from fp8doctor.measuring.turns import Contestant, time_calls, time_device

Keep = Callable[[TrainingCase], None]
# A module that was built, and its weight.
Built = dict[str, tuple[Recipe, Any, Any]]
PARTS = ("output", "input_grad", "weight_grad")


@dataclass
class Timed(Contestant):
    """A case under way."""

    case: TrainingCase = field(default_factory=TrainingCase)


@dataclass
class StepBench:
    """All configurations at one shape (M x K x N); `weight` is (N x K) in BF16."""

    torch: Any
    timer: Timer
    m: int
    weight: Any
    built: Built
    keep: Keep
    _timed: list[Timed] = field(default_factory=list)

    def time_device(self, rounds: int, epoch_s: float) -> None:
        """Call every configuration once and compare it with FP32; then time all of them, batch by batch in turn."""
        self._timed = self._prepare()
        started = time.monotonic()
        time_device(self.timer, self._timed, rounds)
        ended = time.monotonic()
        for item in self._timed:
            if item.device_us is None:
                item.case = replace(item.case, outcome="not-measured", error=LAUNCHES_SHOW)
            else:
                seconds = (round(started - epoch_s, 3), round(ended - epoch_s, 3))
                item.case = replace(item.case, device_us=item.device_us, started_s=seconds[0], ended_s=seconds[1])
            self.keep(item.case)
        self._timed = [item for item in self._timed if item.device_samples]

    def time_calls(self) -> None:
        """Take one value of each configuration's call time, and keep what there is of them so far."""
        time_calls(self.timer, self._timed)
        for item in self._timed:
            item.case = replace(item.case, call_us=item.call_us, host_us=item.host_us)
            self.keep(item.case)

    def profile(self) -> None:
        """Add to each timed case the kernels of one profiled call.

        Done after all timing: a profiler that was once attached may leave launches slower for the host.
        """
        calls = [item.call for item in self._timed]
        ran = profile_calls(self.torch, self.timer.device, calls, self.timer.flush)
        for item, kernels in zip(self._timed, ran or [], strict=False):
            self.keep(replace(item.case, **product_fields(kernels)))

    def _prepare(self) -> list[Timed]:
        torch = self.torch
        n, k = self.weight.shape
        torch.manual_seed(1)
        random = {"device": self.weight.device, "dtype": torch.bfloat16}
        x = torch.randn(self.m, k, **random, requires_grad=True)
        grad = torch.randn(self.m, n, **random)
        exact = references(x.detach(), self.weight, grad)
        timed = []
        for config, (recipe, module, weight) in self.built.items():
            case = TrainingCase(config=config, m=self.m, k=k, n=n)
            call = _bind(torch, module, x, weight, grad)
            try:
                case = replace(case, **error_fields(recipe, call(), exact))
                pace = self.timer.pace(call)
            except Exception as failure:  # refusals are results
                outcome, text = outcome_of(torch, failure)
                self.keep(replace(case, outcome=outcome, error=text))
                if outcome == "out-of-memory":
                    torch.cuda.empty_cache()
                continue
            # One call a pair of events: of the hundred launches of an eager step, six steps a pair would not fit the
            # driver's queue.
            timed.append(Timed(call, Pace(max(pace.device_us, PAIR_US), pace.host_us), case=case))
        return timed


def references(x: Any, weight: Any, grad: Any) -> tuple[Any, Any, Any]:
    """Output, input's gradient and weight's gradient in FP32, from operands that were rounded to BF16 before."""
    x, weight, grad = x.float(), weight.float(), grad.float()
    return x @ weight.t(), grad @ weight, grad.t() @ x


def error_fields(recipe: Recipe, results: tuple[Any, ...], exact: tuple[Any, ...]) -> dict[str, Any]:
    """The fields of a case that come from comparing its three results with FP32."""
    fields: dict[str, Any] = {"outcome": "ok"}
    for part, result, reference in zip(PARTS, results, exact, strict=True):
        number_format = getattr(recipe, part)
        error = relative_error(result, reference)
        if math.isfinite(error):
            fields[f"{part}_error"] = round(error, 5)
        else:
            fields["error"] = f"the {part.replace('_', ' ')} holds values that are not finite"
        if number_format in FP8:
            fields[f"{part}_limit"] = round(ERROR_LIMITS[number_format], 4)
    return fields


def product_fields(ran: list[tuple[str, float]]) -> dict[str, Any]:
    """The fields of a case that come from its profiled call; empty if it shows no kernel."""
    fields = kernel_fields(ran)
    if not fields:
        return {}
    kinds = Counter(kind for name, _ in ran if (kind := gemm_kind(name)) is not None)
    return {"products": dict(kinds), **{name: fields[name] for name in ("gemm_us", "other_kernels", "other_us")}}


def _bind(torch: Any, module: Any, x: Any, weight: Any, grad: Any) -> Call:
    return lambda: step(torch, module, x, weight, grad)
