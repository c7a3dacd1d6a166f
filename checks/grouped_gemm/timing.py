"""Times the grouped products of one shape together, and what padding its groups takes.

Runs in the child; torch comes in as an argument.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from fp8doctor.checks.grouped_gemm.facts import GroupedCase
from fp8doctor.checks.grouped_gemm.groups import (
    ends_of,
    pad,
    pad_by_list,
    reference,
    uneven_sizes,
    unpad,
    worst_group_error,
)
from fp8doctor.checks.grouped_gemm.products import Layer, Product, fp8_operands, quantised
from fp8doctor.checks.linear.timing import LAUNCHES_SHOW, kernel_fields, outcome_of
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS
from fp8doctor.measuring.kernels import profile_calls
from fp8doctor.measuring.timer import Call, Pace, Timer
from fp8doctor.measuring.turns import Contestant, time_calls, time_device

Keep = Callable[[GroupedCase], None]
FP8, PADDED = "torch-fp8-rowwise", "torch-fp8-rowwise-padded"
PRODUCTS = ("layer", "gemm")


@dataclass
class Timed(Contestant):
    """A case under way; `reads_back` if each call waits for the device, so that only the call can be timed."""

    case: GroupedCase = field(default_factory=GroupedCase)
    reads_back: bool = False


@dataclass
class GroupBench:
    """All configurations at one shape: `layers` by slug, each called with rows and ends; `weight` (experts x N x K)."""

    torch: Any
    timer: Timer
    m: int
    weight: Any
    layers: dict[str, Layer]
    product: Product
    keep: Keep
    _timed: list[Timed] = field(default_factory=list)
    _sizes: tuple[int, ...] = ()

    @property
    def shape(self) -> str:
        """ "16384x7168x2048, 8 experts"."""
        experts, n, k = self.weight.shape
        return f"{self.m}x{k}x{n}, {experts} experts"

    def time_device(self, rounds: int, epoch_s: float) -> None:
        """Call every configuration once and compare it with FP32; then time all of them, batch by batch in turn."""
        with self.torch.no_grad():
            self._timed = self._prepare()
            queued = [item for item in self._timed if not item.reads_back]
            started = time.monotonic()
            time_device(self.timer, queued, rounds)
            ended = time.monotonic()
        for item in queued:
            if item.device_us is None:
                item.case = replace(item.case, outcome="not-measured", error=LAUNCHES_SHOW)
            else:
                seconds = (round(started - epoch_s, 3), round(ended - epoch_s, 3))
                item.case = replace(item.case, device_us=item.device_us, started_s=seconds[0], ended_s=seconds[1])
            self.keep(item.case)
        self._timed = [item for item in self._timed if item.reads_back or item.device_samples]

    def time_calls(self) -> None:
        """Take one value of each call's time, and keep what there is of them so far; nobody calls a bare product."""
        called = [item for item in self._timed if item.case.kind != "gemm"]
        with self.torch.no_grad():
            time_calls(self.timer, called)
        for item in called:
            item.case = replace(item.case, call_us=item.call_us, host_us=item.host_us)
            self.keep(item.case)

    def profile(self) -> None:
        """Add to each product's case the kernels of one profiled call; after all timing, since it slows launches."""
        products = [item for item in self._timed if item.case.kind in PRODUCTS]
        with self.torch.no_grad():
            ran = profile_calls(self.torch, self.timer.device, [p.call for p in products], self.timer.flush)
        for item, kernels in zip(products, ran or [], strict=False):
            self.keep(replace(item.case, **kernel_fields(kernels)))

    def _prepare(self) -> list[Timed]:
        torch = self.torch
        experts, n, k = self.weight.shape
        self._sizes = uneven_sizes(self.m, experts)
        ends = ends_of(torch, self._sizes, self.weight.device)
        torch.manual_seed(1)
        x = torch.randn(self.m, k, device=self.weight.device, dtype=torch.bfloat16)
        exact = reference(torch, x, self.weight, self._sizes)
        timed: list[Timed | None] = []
        for config, layer in self.layers.items():
            limit = ERROR_LIMITS["e4m3" if config.startswith(FP8) else "bf16-output"]
            timed.append(self._begin(self._case(config, "layer"), _bind(layer, x, ends), exact, limit))
        padded, padded_ends, places = pad(torch, x, ends)
        columns, column_scales = fp8_operands(torch, self.weight)
        for config, rows, bounds, back in (
            (FP8, x, ends, None),
            # Last of the products: lined up it is what all sources call legal.
            (PADDED, padded, padded_ends, places),
        ):
            x8, scales = quantised(torch, rows)
            call = _bind(self.product, x8, columns, scales, column_scales, bounds)
            case = self._case(config, "gemm")
            timed.append(self._begin(case, call, exact, ERROR_LIMITS["e4m3"], places=back))
        result = padded.new_zeros((padded.shape[0], n))
        timed.append(self._plain("pad", _bind(pad, torch, x, ends)))
        timed.append(self._plain("unpad", _bind(unpad, result, places)))
        timed.append(self._plain("pad-by-list", _bind(pad_by_list, torch, x, ends), reads_back=True))
        return [item for item in timed if item is not None]

    def _case(self, config: str, kind: str) -> GroupedCase:
        experts, n, k = self.weight.shape
        return GroupedCase(config=config, kind=kind, experts=experts, m=self.m, k=k, n=n)

    def _begin(self, case: GroupedCase, call: Call, exact: Any, limit: float, places: Any = None) -> Timed | None:
        """Call once, compare with FP32, and take the case up for timing."""
        try:
            result = call()
            error = worst_group_error(result if places is None else unpad(result, places), exact, self._sizes)
        except Exception as failure:  # refusals are results
            outcome, text = outcome_of(self.torch, failure)
            self.keep(replace(case, outcome=outcome, error=text))
            # Raises if the call has left the GPU unusable; a fresh child then goes on with the rest.
            self.torch.cuda.synchronize(self.timer.device)
            return None
        finite = math.isfinite(error)
        case = replace(
            case,
            outcome="ok",
            relative_error=round(error, 5) if finite else None,
            relative_error_limit=round(limit, 4),
            error=None if finite else "the result holds values that are not finite",
        )
        return Timed(call, self.timer.pace(call), case=case)

    def _plain(self, kind: str, call: Call, *, reads_back: bool = False) -> Timed:
        """A call that moves rows and computes nothing."""
        case = replace(self._case("torch-bf16", kind), outcome="ok")
        call()
        if reads_back:
            return Timed(call, Pace(0.0, 0.0), case=case, reads_back=True)  # never queued, so no pace is asked for
        return Timed(call, self.timer.pace(call), case=case)


def _bind(function: Callable[..., Any], *arguments: Any) -> Call:
    return lambda: function(*arguments)
