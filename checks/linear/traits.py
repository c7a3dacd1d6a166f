"""What of the linear layer is compared between two reports: its limits, the method, and all that was timed?"""

from __future__ import annotations

from fp8doctor.checks.linear.advice import TASK, label
from fp8doctor.checks.linear.cases import time_of, waits_for_host
from fp8doctor.checks.linear.facts import Case, Ceiling, Linear
from fp8doctor.measuring.comparing import method_trait
from fp8doctor.model import Candidate, Trait
from fp8doctor.registry import timings, traits

PRODUCT = "product alone"
# What is timed and never advised has no name in the advice.
_NAMES = {
    "torch-fp8-tensorwise-static": "FP8 tensor-wise with a static scale",
    "torch-fp8-tensorwise-slowaccum": "FP8 tensor-wise, use_fast_accum=False",
    "torch-fp8-rowwise-slowaccum": "FP8 row-wise, use_fast_accum=False",
}
# Between recorded H200s of one kind the best rates differ by up to 0.6 %, held ones by 1.4 %, copies by 1.4 %, and the
# host's time of a launch by 1.7 times (tests/boxes: h200, h200-torch-only, h200-flash-attn-4).
_BURST, _HELD, _COPY, _LAUNCH = 0.03, 0.03, 0.03, 0.7


@traits
def of_linear(linear: Linear) -> list[Trait]:
    """What this box reaches at best, and what a launch costs its host."""
    found = method_trait("the linear layer", linear.method, "linear.method", (TASK, PRODUCT))
    if (best := linear.ceilings) is None:
        return found
    launch = best.launch_us.median if best.launch_us else None
    copy = ("GB/s", "linear.ceilings.copy_gb_s", _COPY)
    return [
        *found,
        *_rates("BF16", best.bf16),
        *_rates("FP8", best.fp8),
        Trait("condition", "copy rate measured", best.copy_gb_s, *copy, more_is="faster"),
        Trait("condition", "host time of one launch", launch, "us", "linear.ceilings.launch_us", _LAUNCH,
              "the host needed another time for the same launch", ("call",), "slower"),
    ]  # fmt: skip


def _rates(name: str, ceiling: Ceiling | None) -> list[Trait]:
    if ceiling is None:
        return []
    where = f"linear.ceilings.{ceiling.format}"
    burst, held = ceiling.burst_tflops, ceiling.sustained_tflops
    return [
        Trait("condition", f"best {name} rate measured", burst, "TFLOP/s", f"{where}.burst_tflops", _BURST,
              more_is="faster"),
        Trait("condition", f"{name} rate held for a second", held, "TFLOP/s", f"{where}.sustained_tflops", _HELD,
              more_is="faster"),
    ]  # fmt: skip


@timings
def every_case(linear: Linear) -> list[Candidate]:
    """All that was timed: also products alone, hand-written layers and static scales, which are not advised."""
    seen = [c for c in linear.cases or () if c.outcome == "ok" and c.m and c.k and c.n and time_of(c.device_us)]
    return [_candidate(case) for case in seen]


def _candidate(case: Case) -> Candidate:
    config = case.config or ""
    alone = case.kind == "gemm"
    return Candidate(
        task=PRODUCT if alone else TASK,
        config=config,
        label=_label(config, alone),
        format=next((name for name in ("fp8", "int8") if name in config), "bf16"),
        how="",
        shape={"k": case.k or 0, "n": case.n or 0},
        sweep=case.m,
        device_us=case.device_us,
        call_us=None if alone else case.call_us,
        waits_for_host=waits_for_host(case) and "+" not in config and not alone,
        requires=(config.partition("-")[0],),
        kernel=case.gemm_kernel,
    )


def _label(config: str, alone: bool) -> str:
    base, plus, rest = config.partition("+")
    if base in _NAMES:
        return _NAMES[base] + label(f"{plus}{rest}")
    return label(config).partition(" (")[0] if alone else label(config)
