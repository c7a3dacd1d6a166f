"""Measures the linear layer: every configuration at every shape, interleaved, within the time that is left."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fp8doctor.checks.gpu.facts import capability
from fp8doctor.checks.linear import ceilings
from fp8doctor.checks.linear.facts import Case, Compilation, Linear
from fp8doctor.checks.linear.variants import Layer, Variant, gemms, variants
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torch_build.kernels import gemm_kind
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS, relative_error
from fp8doctor.measuring.kernels import profile_calls
from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.timer import SAMPLES_A_BATCH, Timer
from fp8doctor.measuring.workloads import shapes
from fp8doctor.model import Request
from fp8doctor.plain import from_plain
from fp8doctor.registry import probe

# Batches of each case, interleaved with the other cases' of the shape, so that drift hits all alike.
ROUNDS = {"default": 3, "thorough": 7}
CALL_SAMPLES = 7
WARM_S = 2.0
# Kept free for ending in order.
RESERVE_S = 1.5
# What one shape and one compilation may take at most, to know whether the next one fits.
SHAPE_S = 2.0
COMPILE_S = 4.0
# Beyond the first layer these are measured: what competes, and what the break-even is read from.
MAIN = (
    "torch-bf16",
    "torch-fp8-rowwise",
    "torch-fp8-tensorwise",
    "torchao-fp8-rowwise",
    "torchao-fp8-tensorwise",
)


@dataclass
class Timed:
    """A case under way: the call, and its samples so far."""

    case: Case
    call: Callable[[], Any]
    about_us: float
    device_us: list[float]


@probe(runs_in="target", timeout_s=900, times_gpu=True, order=10, modes=("default", "thorough"))
def gather(request: Request, torch_build: TorchBuild | None) -> Iterator[Linear]:
    """Timing a linear layer in BF16 and FP8."""
    if torch_build is None or not torch_build.devices:
        why = "torch sees no GPU" if torch_build and torch_build.installed else "there is no torch to measure with"
        yield Linear(measurable=False, why_not=why)
        return
    yield from _Run(request).records()


class _Run:
    """One measurement; `record` grows and is yielded after each step."""

    def __init__(self, request: Request) -> None:
        import torch

        self.torch = torch
        self.request = request
        self.began = time.monotonic()
        torch.cuda.set_device(request.gpu)
        self.device = torch.device("cuda", request.gpu)
        self.rounds = ROUNDS[request.mode]
        self.cases: dict[tuple[Any, ...], Case] = {}
        self.compilations: list[Compilation] = []
        self.not_measured: list[str] = []
        self.record = Linear(measurable=True)
        self.skip: set[str] = set()
        self._resume()

    def _resume(self) -> None:
        """Go on from the record of a child that crashed: what it was trying is recorded as crashed, not tried again."""
        if self.request.so_far is None:
            return
        self.record = from_plain(Linear, self.request.so_far)
        self.cases = {_key(case): case for case in self.record.cases or ()}
        self.compilations = list(self.record.compilations or ())
        self.not_measured = list(self.record.not_measured or ())
        if self.record.attempting:
            self.skip = set(self.record.attempting.split(" | "))
            self.not_measured.append(f"{self.record.attempting}: the child ended by {self.request.so_far_ended}")

    def left_s(self) -> float:
        return self.request.seconds_left - RESERVE_S - (time.monotonic() - self.began)

    def records(self) -> Iterator[Linear]:
        torch = self.torch
        timer = Timer(torch, self.device)
        properties = torch.cuda.get_device_properties(self.device)
        cc = f"{properties.major}.{properties.minor}"
        hip = getattr(properties, "gcnArchName", "").partition(":")[0] if torch.version.hip else None
        self.record = replace(
            self.record,
            method=timer.method(self.rounds * SAMPLES_A_BATCH),
            device_name=properties.name,
            compute_capability=hip or cc,
        )
        warm = ceilings.product(torch, self.device, "bf16", (4096, 4096, 4096))
        self.record = replace(self.record, warm_up_s=round(timer.warm(warm, WARM_S), 2))
        del warm
        if self.record.ceilings is None and "ceilings" not in self.skip:
            yield self._now("ceilings")
            with_fp8 = hip is not None or (capability(cc) or (0, 0)) >= (8, 9)
            found = ceilings.measure(torch, timer, epoch_s=self.request.epoch_s, with_fp8=with_fp8)
            self.record = replace(self.record, ceilings=found)
            yield self._now(None)
        for position, ((k, n), tokens) in enumerate(shapes(self.request.workload, self.request.shapes).items()):
            yield from self._layer(timer, k, n, tokens, everything=position == 0 or self.request.mode == "thorough")
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

    def _layer(self, timer: Timer, k: int, n: int, tokens: tuple[int, ...], *, everything: bool) -> Iterator[Linear]:
        """Build and compile every configuration of one layer, then time them together at each number of tokens."""
        torch = self.torch
        if self.left_s() < SHAPE_S:
            self.not_measured.append(f"K={k} N={n}: the time budget was spent")
            return
        torch.manual_seed(0)
        try:
            weight = torch.randn(n, k, device=self.device, dtype=torch.bfloat16) / k**0.5
        except torch.cuda.OutOfMemoryError:
            self._out_of_memory(f"K={k} N={n}")
            return
        torch._dynamo.reset()
        built: dict[str, tuple[Variant, Layer]] = {}
        for variant in self._chosen(everything):
            label = f"{variant.config} K={k} N={n}"
            if label in self.skip:
                continue
            if variant.compiled and self.left_s() < COMPILE_S + SHAPE_S:
                self.not_measured.append(f"{label}: no time left to compile it")
                continue
            yield self._now(label)
            layer = self._build(variant, weight, k, n, tokens)
            if layer is not None:
                built[variant.config] = (variant, layer)
        for m in tokens:
            label = f"{m}x{k}x{n}"
            if label in self.skip or any(c.m == m and c.k == k and c.n == n and c.device_us for c in self.cases.values()):
                continue
            if self.left_s() < SHAPE_S:
                self.not_measured.append(f"{label}: the time budget was spent")
                continue
            yield self._now(label)
            try:
                self._shape(timer, m, weight, built, everything)
            except torch.cuda.OutOfMemoryError:
                self._out_of_memory(label)
        del weight, built
        gc.collect()
        torch.cuda.empty_cache()

    def _chosen(self, everything: bool) -> list[Variant]:
        """The configurations to build: all for the first layer; for the others what competes, torchao's if it is there."""
        installed = _installed("torchao")
        found = [v for v in variants() if v.library == "torch" or installed]
        if everything:
            return found
        main = [v for v in found if v.config.partition("+")[0] in MAIN]
        # torch's own compiled forms do what torchao's do; where torchao is installed they are measured once.
        return [v for v in main if not (installed and v.compiled and v.library == "torch" and v.multiplies_in_fp8)]

    def _build(self, variant: Variant, weight: Any, k: int, n: int, tokens: tuple[int, ...]) -> Layer | None:
        torch = self.torch
        began = time.monotonic()
        x = torch.randn(max(max(tokens), 2), k, device=self.device, dtype=torch.bfloat16)
        try:
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
        outcome, text = _outcome_of(self.torch, error)
        if variant.compiled:
            self.compilations.append(Compilation(variant.config, k, n, None, text))
        self._keep(Case(config=variant.config, kind="layer", k=k, n=n, outcome=outcome, error=text))
        self.torch.cuda.empty_cache()

    def _out_of_memory(self, label: str) -> None:
        self.torch.cuda.empty_cache()
        self.not_measured.append(f"{label}: out of GPU memory")

    def _keep(self, case: Case) -> None:
        self.cases[_key(case)] = case

    def _shape(
        self, timer: Timer, m: int, weight: Any, built: dict[str, tuple[Variant, Layer]], everything: bool
    ) -> None:
        torch = self.torch
        n, k = weight.shape
        torch.manual_seed(1)
        x = torch.randn(m, k, device=self.device, dtype=torch.bfloat16)
        reference = x.float() @ weight.float().t()
        timed: list[Timed] = []
        with torch.no_grad():
            for config, (variant, layer) in built.items():
                case = Case(config=config, kind="layer", m=m, k=k, n=n)
                limit = ERROR_LIMITS[variant.numerics]
                self._begin(timer, timed, case, _bind(layer, x), reference, limit)
                if config == "torch-bf16" or variant.compiled:
                    self._begin_graph(timer, timed, replace(case, config=f"{config}+cudagraph"), _bind(layer, x))
            for config, build in gemms(torch, x, weight).items():
                if everything or "slowaccum" not in config:
                    case = Case(config=config, kind="gemm", m=m, k=k, n=n)
                    limit = ERROR_LIMITS["bf16-output" if config == "torch-bf16" else "e4m3"]
                    try:
                        call = build()
                    except RuntimeError as error:
                        self._refused(case, error)
                        continue
                    self._begin(timer, timed, case, call, reference, limit)
            del reference
            self._time_together(timer, timed)

    def _begin(
        self, timer: Timer, timed: list[Timed], case: Case, call: Callable[[], Any], reference: Any, limit: float
    ) -> None:
        """Call once, compare with FP32, and take the case up for timing."""
        try:
            result = call()
            error = relative_error(result, reference)
        except RuntimeError as failure:
            self._refused(case, failure)
            return
        finite = error != float("inf")
        case = replace(
            case,
            outcome="ok",
            relative_error=round(error, 5) if finite else None,
            relative_error_limit=round(limit, 4),
            error=None if finite else "the result has values that are not finite",
        )
        timed.append(Timed(case, call, timer.rough_us(call), []))

    def _begin_graph(self, timer: Timer, timed: list[Timed], case: Case, call: Callable[[], Any]) -> None:
        twin = timed[-1].case if timed else None
        if twin is None or f"{twin.config}+cudagraph" != case.config:
            return
        try:
            graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph):
                call()
        except RuntimeError as failure:
            self._refused(case, failure)
            return
        case = replace(
            case,
            outcome="ok",
            relative_error=twin.relative_error,
            relative_error_limit=twin.relative_error_limit,
            error=twin.error,
        )
        timed.append(Timed(case, graph.replay, timer.rough_us(graph.replay), []))

    def _refused(self, case: Case, error: Exception) -> None:
        outcome, text = _outcome_of(self.torch, error)
        self._keep(replace(case, outcome=outcome, error=text))
        if outcome == "out-of-memory":
            self.torch.cuda.empty_cache()

    def _time_together(self, timer: Timer, timed: list[Timed]) -> None:
        started = time.monotonic()
        for _ in range(self.rounds):
            for item in timed:
                item.device_us += timer.device_samples(item.call, SAMPLES_A_BATCH, item.about_us)
        kernels = profile_calls(self.torch, self.device, [item.call for item in timed], timer.flush)
        for item, ran in zip(timed, kernels or [None] * len(timed), strict=True):
            # A bare product's call clock tells nothing that a user waits for.
            call_us = timer.call_samples(item.call, CALL_SAMPLES) if item.case.kind == "layer" else None
            self._keep(
                replace(
                    item.case,
                    device_us=estimate(item.device_us),
                    call_us=estimate(call_us) if call_us else None,
                    **_kernel_fields(ran),
                    started_s=round(started - self.request.epoch_s, 3),
                    ended_s=round(time.monotonic() - self.request.epoch_s, 3),
                )
            )


def _key(case: Case) -> tuple[Any, ...]:
    return (case.config, case.kind, case.m, case.k, case.n)


def _bind(layer: Layer, x: Any) -> Callable[[], Any]:
    return lambda: layer(x)


def _kernel_fields(ran: list[tuple[str, float]] | None) -> dict[str, Any]:
    """The fields of a case that come from its profiled call; empty if the profiler gave nothing."""
    if not ran:
        return {}
    products = [(us, name, kind) for name, us in ran if (kind := gemm_kind(name)) is not None]
    _, name, kind = max(products, default=(0.0, None, "none"))
    others = [us for name, us in ran if gemm_kind(name) is None]
    return {
        "gemm_kernel": name[:160] if name else None,
        "gemm_kind": kind,
        "gemm_us": round(sum(us for us, _, _ in products), 2) if products else None,
        "other_kernels": len(others),
        "other_us": round(sum(others), 2),
    }


def _outcome_of(torch: Any, error: Exception) -> tuple[str, str]:
    """"out-of-memory", "refused" (the library says that it does not do this) or "error", and the first line said."""
    text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out-of-memory", text
    refusals = ("NOT_SUPPORTED", "not supported", "not currently supported", "divisible by", "only supported", "Invalid scaling")
    return ("refused" if any(word in str(error) for word in refusals) else "error"), text


def _installed(distribution: str) -> bool:
    from importlib.util import find_spec

    return find_spec(distribution) is not None
