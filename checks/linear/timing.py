"""Times the configurations of one shape together, and later looks at the kernels that they ran.

Runs in the child; torch comes in as an argument.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from fp8doctor.checks.linear.facts import Case
from fp8doctor.checks.linear.variants import Layer, Variant, gemms
from fp8doctor.checks.torch_build.kernels import gemm_kind
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS, relative_error
from fp8doctor.measuring.kernels import profile_calls
from fp8doctor.measuring.timer import Call, Pace, Timer
from fp8doctor.measuring.turns import Contestant, time_calls, time_device

LAUNCHES_SHOW = "launches could not be kept out of the time (is CUDA_LAUNCH_BLOCKING set?)"
Keep = Callable[[Case], None]


@dataclass
class Timed(Contestant):
    """A case under way."""

    case: Case = field(default_factory=Case)
    # Waits for the device by itself: see `Variant.reads_back`.
    reads_back: bool = False


@dataclass
class ShapeBench:
    """All configurations at one shape (M x K x N)."""

    torch: Any
    timer: Timer
    m: int
    weight: Any
    built: dict[str, tuple[Variant, Layer]]
    # Configurations that are also replayed as a CUDA graph.
    graphed: frozenset[str]
    with_slow_accumulation: bool
    keep: Keep
    _called: list[Timed] = field(default_factory=list)

    def time_device(self, rounds: int, epoch_s: float) -> None:
        """Call every configuration once and compare it with FP32; then time all of them, batch by batch in turn."""
        with self.torch.no_grad():
            prepared = self._prepare()
            timed = [item for item in prepared if not item.reads_back]
            started = time.monotonic()
            time_device(self.timer, timed, rounds)
            ended = time.monotonic()
            for item in timed:
                if item.device_us is None:
                    self.keep(replace(item.case, outcome="not-measured", error=LAUNCHES_SHOW))
                    continue
                item.case = replace(
                    item.case,
                    device_us=item.device_us,
                    started_s=round(started - epoch_s, 3),
                    ended_s=round(ended - epoch_s, 3),
                )
                self.keep(item.case)
            # Nobody waits for a bare product's call.
            layers = [item for item in prepared if item.case.kind == "layer"]
            self._called = [item for item in layers if item.reads_back or item.device_samples]

    def time_calls(self) -> None:
        """Take one value of every layer's call time.

        Called several times in the run, with the other shapes between: a host wavers over seconds, not milliseconds.
        And apart from the device's times, since loops without a pause bring a large GPU to its power limit.
        """
        with self.torch.no_grad():
            time_calls(self.timer, self._called)

    def keep_calls(self) -> None:
        """Keep what `time_calls` gathered, and let go of the memory that the calls hold."""
        for item in self._called:
            if item.call_samples:
                self.keep(replace(item.case, call_us=item.call_us, host_us=item.host_us))
        self._called = []

    def profile(self, cases: dict[tuple[Any, ...], Case]) -> None:
        """Add to each timed case the kernels of one profiled call.

        Done after all timing: a profiler that was once attached may leave launches slower for the host.
        """
        x = self._activation()
        calls: list[tuple[Case, Call]] = []
        with self.torch.no_grad():
            for config, (_, layer) in self.built.items():
                case = cases.get((config, "layer", self.m, *self._kn()))
                if case is not None and case.outcome == "ok":
                    calls.append((case, _bind(layer, x)))
            for config, build in gemms(self.torch, x, self.weight).items():
                case = cases.get((config, "gemm", self.m, *self._kn()))
                if case is not None and case.outcome == "ok":
                    calls.append((case, build()))
            ran = profile_calls(self.torch, self.timer.device, [call for _, call in calls], self.timer.flush)
        for (case, _), kernels in zip(calls, ran or [], strict=False):
            self.keep(replace(case, **kernel_fields(kernels)))

    def _kn(self) -> tuple[int, int]:
        n, k = self.weight.shape
        return k, n

    def _activation(self) -> Any:
        self.torch.manual_seed(1)
        return self.torch.randn(self.m, self._kn()[0], device=self.weight.device, dtype=self.torch.bfloat16)

    def _prepare(self) -> list[Timed]:
        k, n = self._kn()
        x = self._activation()
        reference = x.float() @ self.weight.float().t()
        timed: list[Timed] = []
        for config, (variant, layer) in self.built.items():
            case = Case(config=config, kind="layer", m=self.m, k=k, n=n)
            limit = ERROR_LIMITS[variant.numerics]
            begun = self._begin(case, _bind(layer, x), reference, limit, reads_back=variant.reads_back)
            if begun is not None:
                timed.append(begun)
                if config in self.graphed and (graph := self._graph(begun, reference, limit)) is not None:
                    timed.append(graph)
        for config, build in gemms(self.torch, x, self.weight).items():
            if "slowaccum" in config and not self.with_slow_accumulation:
                continue
            case = Case(config=config, kind="gemm", m=self.m, k=k, n=n)
            limit = ERROR_LIMITS["bf16-output" if config == "torch-bf16" else "e4m3"]
            try:
                call = build()
            except RuntimeError as error:
                self._refused(case, error)
                continue
            begun = self._begin(case, call, reference, limit)
            if begun is not None:
                timed.append(begun)
        return timed

    def _begin(self, case: Case, call: Call, reference: Any, limit: float, *, reads_back: bool = False) -> Timed | None:
        """Call once, compare with FP32, and take the case up for timing."""
        try:
            error = relative_error(call(), reference)
        except RuntimeError as failure:
            self._refused(case, failure)
            return None
        finite = math.isfinite(error)
        case = replace(
            case,
            outcome="ok",
            relative_error=round(error, 5) if finite else None,
            relative_error_limit=round(limit, 4),
            sqnr_db=round(-20 * math.log10(error), 1) if finite and error > 0 else None,
            error=None if finite else "the result holds values that are not finite",
        )
        if reads_back:
            self.keep(case)
            return Timed(call, Pace(0.0, 0.0), case=case, reads_back=True)  # never queued, so no pace is asked for
        return Timed(call, self.timer.pace(call), case=case)

    def _graph(self, twin: Timed, reference: Any, limit: float) -> Timed | None:
        """The same call replayed as a CUDA graph, with its input in place."""
        of = twin.case
        case = Case(config=f"{of.config}+cudagraph", kind=of.kind, m=of.m, k=of.k, n=of.n)
        try:
            graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph):
                output = twin.call()
        except RuntimeError as failure:
            self._refused(case, failure)
            return None

        def replay() -> Any:
            graph.replay()
            return output

        return self._begin(case, replay, reference, limit)

    def _refused(self, case: Case, error: Exception) -> None:
        outcome, text = outcome_of(self.torch, error)
        self.keep(replace(case, outcome=outcome, error=text, relative_error=None))
        if outcome == "out-of-memory":
            self.torch.cuda.empty_cache()


def _bind(layer: Layer, x: Any) -> Call:
    return lambda: layer(x)


def kernel_fields(ran: list[tuple[str, float]]) -> dict[str, Any]:
    """The fields of a case that come from its profiled call; empty if it shows no kernel.

    cuBLAS clears a small workspace before some products, and adds up the parts of a product that it split along K:
    both belong to the product.
    """
    if not ran:
        return {}
    products = [(us, name, kind) for name, us in ran if (kind := gemm_kind(name)) is not None]
    _, name, kind = max(products, default=(0.0, None, "none"))
    helpers = [us for name, us in ran if _helps_a_product(name)]
    others = [us for name, us in ran if gemm_kind(name) is None and not _helps_a_product(name)]
    return {
        "gemm_kernel": name[:160] if name else None,
        "gemm_kind": kind,
        "gemm_us": round(sum(us for us, _, _ in products) + sum(helpers), 2) if products else None,
        "other_kernels": len(others),
        "other_us": round(sum(others), 2),
    }


def _helps_a_product(kernel_name: str) -> bool:
    return kernel_name.startswith("Memset") or "splitKreduce" in kernel_name


def outcome_of(torch: Any, error: Exception) -> tuple[str, str]:
    """ "out-of-memory", "refused" (the library says that it does not do this) or "error"; and the first line said."""
    text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out-of-memory", text
    # The words of PyTorch's own refusals (ScaledBlas.cpp; of `_int_mm` in Blas.cpp), cuBLAS's status, and the
    # words of torchao (float8/inference.py).
    refusals = (
        "CUBLAS_STATUS_NOT_SUPPORTED",
        "is only supported",
        "only supported in",
        "requires CUDA compute capability",
        "not currently supported",
        "to be divisible by 16",
        "must be divisible by 16",
        "Invalid scaling configuration",
        "needs to be greater than 16",
        "needs to be greater than 0 and a multiple of 8",
    )
    return ("refused" if any(word in str(error) for word in refusals) else "error"), text
