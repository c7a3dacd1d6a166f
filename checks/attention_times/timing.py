"""Times the routes of one attention call together, and later looks at the kernels that they ran.

Runs in the child; torch comes in as an argument.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from fp8doctor.checks.attention.call import CALL_LIMIT_S, time_limit
from fp8doctor.checks.attention_times.facts import AttentionCase
from fp8doctor.checks.attention_times.numerics import Reference, reference
from fp8doctor.checks.attention_times.plan import SLOW_TO_START, Route
from fp8doctor.checks.attention_times.routes import (
    Operands,
    Refusals,
    both_ways,
    default_backend,
    flash_forward,
    operands,
    outcome_of,
    switched,
    torch_forward,
)
from fp8doctor.checks.attention_times.shapes import Task, flops
from fp8doctor.checks.attention_times.te import Listener, engine_forward
from fp8doctor.checks.linear.timing import LAUNCHES_SHOW
from fp8doctor.measuring.kernels import profile_calls
from fp8doctor.measuring.timer import Call, Timer
from fp8doctor.measuring.turns import Contestant, time_calls, time_device

# The first call of what compiles its kernels: FlashAttention 4 took 1.8 s on an H200 (benchmarks/RESULTS.md).
COMPILE_LIMIT_S = 60.0
Keep = Callable[[AttentionCase], None]


@dataclass
class Timed(Contestant):
    """A route under way."""

    route: Route = field(default_factory=lambda: Route("", ""))
    case: AttentionCase = field(default_factory=AttentionCase)


def case_of(task: Task, slug: str, outcome: str | None = None, error: str | None = None) -> AttentionCase:
    """The case of a route at a call, without times."""
    batch, heads, kv_heads, queries, keys, head_dim = task.size
    return AttentionCase(
        route=slug,
        trains=task.trains,
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        queries=queries,
        keys=keys,
        head_dim=head_dim,
        causal=bool(task.use.causal),
        calls=task.use.calls,
        outcome=outcome,
        error=error,
    )


class AttentionBench:
    """All routes at one call."""

    def __init__(self, torch: Any, timer: Timer, task: Task, keep: Keep) -> None:
        self.torch = torch
        self.timer = timer
        self.task = task
        self.keep = keep
        # transformer_engine.pytorch and its logger, once they are imported.
        self.engine: Any = None
        self.listener: Listener | None = None
        self.given: Operands = operands(torch, task, timer.device)
        with torch.no_grad():
            gradient = None if self.given.gradient is None else self.given.gradient.transpose(1, 2)
            query, key, value = (tensor.detach() for tensor in self.given.heads_first)
            self.reference: Reference = reference(torch, task, query, key, value, gradient)
        self.timed: list[Timed] = []

    def begin(self, route: Route) -> None:
        """Call a route once, compare it with FP64, and take it up for timing; what it raises is its result."""
        torch, refusals = self.torch, Refusals()
        limit_s = COMPILE_LIMIT_S if route.slug in SLOW_TO_START else CALL_LIMIT_S
        case = case_of(self.task, route.slug)
        heard = self.listener if route.library == "te" else None
        try:
            with time_limit(limit_s), self._mode(), switched(route.switch), refusals.listening():
                call = self._call(route, heard)
                case = self._compared(route, replace(case, backend=self._backend(route, heard)), call())
                if case.outcome == "ok":
                    self.timed.append(Timed(call, self.timer.pace(call), route=route, case=case))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # packages raise SystemExit, too
            dropped = heard.dropped if heard else None
            outcome, words = outcome_of(torch, route, error, refusals.said, dropped)
            case = replace(case_of(self.task, route.slug, outcome, words), backend=heard.selected if heard else None)
            if outcome == "out-of-memory":
                torch.cuda.empty_cache()
        self.keep(case)

    def time_device(self, rounds: int, epoch_s: float) -> None:
        """Take the device times of all routes that were taken up, batch by batch in turn."""
        for switch, group in self._groups():
            started = time.monotonic()
            with self._mode(), switched(switch):
                time_device(self.timer, group, rounds)
            ended = time.monotonic()
            for item in group:
                if item.device_us is None:
                    item.case = replace(item.case, outcome="not-measured", error=LAUNCHES_SHOW)
                else:
                    rate = flops(self.task.use, trains=self.task.trains) / item.device_us.median * 1e-6
                    item.case = replace(
                        item.case,
                        device_us=item.device_us,
                        tflops=round(rate, 2),
                        started_s=round(started - epoch_s, 3),
                        ended_s=round(ended - epoch_s, 3),
                    )
                self.keep(item.case)
        self.timed = [item for item in self.timed if item.device_samples]

    def time_calls(self) -> None:
        """Take one value of every route's call time; called several times in the run, other shapes between."""
        for switch, group in self._groups():
            with self._mode(), switched(switch):
                time_calls(self.timer, [item for item in group if item.route.backend != "math"])

    def keep_calls(self) -> None:
        """Keep what `time_calls` gathered."""
        for item in self.timed:
            if item.call_samples:
                item.case = replace(item.case, call_us=item.call_us, host_us=item.host_us)
                self.keep(item.case)

    def profile(self) -> None:
        """Add to each timed case the kernels of one profiled call; after all timing, as launches stay slower."""
        for switch, group in self._groups():
            with self._mode(), switched(switch):
                calls = [item.call for item in group]
                ran = profile_calls(self.torch, self.timer.device, calls, self.timer.flush)
            for item, kernels in zip(group, ran or [], strict=False):
                if kernels:
                    longest, _ = max(kernels, key=lambda kernel: kernel[1])
                    item.case = replace(item.case, kernel=longest[:160], kernels=len(kernels))
                    self.keep(item.case)

    def _groups(self) -> Iterable[tuple[str | None, list[Timed]]]:
        """The routes by torch's switch: turning it between two batches would register kernels each time."""
        found: dict[str | None, list[Timed]] = {}
        for item in self.timed:
            found.setdefault(item.route.switch, []).append(item)
        return found.items()

    def _mode(self) -> Any:
        return self.torch.enable_grad() if self.task.trains else self.torch.no_grad()

    def _call(self, route: Route, heard: Listener | None) -> Call:
        if route.library == "te":
            assert heard is not None, "Transformer Engine's routes are begun after its import"
            with heard.listening():
                forward = engine_forward(self.torch, self.engine, route, self.given)
                forward()
        elif route.library == "flash":
            forward = flash_forward(self.torch, route, self.given)
        else:
            forward = torch_forward(self.torch, route, self.given)
        return both_ways(self.torch, forward, self.given) if self.task.trains else forward

    def _backend(self, route: Route, heard: Listener | None) -> str | None:
        if heard is not None:
            return heard.selected
        if route.library == "torch":
            return route.switch or route.backend or default_backend(self.torch, self.given)
        return None

    def _compared(self, route: Route, case: AttentionCase, result: Any) -> AttentionCase:
        output, gradients = result if self.task.trains else (result, None)
        error, limit = self.reference.output_error(output), self.reference.limit(fp8=route.fp8)
        case = replace(
            case,
            relative_error=_finite(error),
            relative_error_limit=round(limit, 5),
            bf16_error_limit=round(self.reference.bf16_limit, 5),
        )
        right = error <= limit
        if gradients is not None:
            off = self.reference.gradient_error(gradients[0].transpose(1, 2))
            most = self.reference.gradient_limit(fp8=route.fp8) or 0.0
            case = replace(case, gradient_error=_finite(off), gradient_error_limit=round(most, 5))
            right = right and off <= most
            error = max(error, off)
        said = None if math.isfinite(error) else "the result holds values that are not finite"
        return replace(case, outcome="ok" if right else "wrong", error=said)


def _finite(error: float) -> float | None:
    return round(error, 5) if math.isfinite(error) else None
