"""Facts of a linear layer, built by hand with the times of a real H200 (torch 2.11, torchao, Linear(3072, 3072))."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import fp8doctor.checks.linear
from fp8doctor.checks.gpu.clocks import Clocks, ClockSample
from fp8doctor.checks.gpu.facts import Gpu, Gpus
from fp8doctor.checks.linear.facts import Case, Ceiling, Ceilings, Linear
from fp8doctor.measuring.timer import Method
from fp8doctor.model import Candidate, Estimate, Exhibit, Facts, Finding, RuleResult
from fp8doctor.registry import Registry
from fp8doctor.specs import Need

LAYER = (3072, 3072)
FP8_KERNEL = "nvjet_sm90_qqtst_128x128_128x6_2x1_v_bz_ovscale_TNT"
BF16_KERNEL = "nvjet_sm90_tst_128x256_64x4_1x2_h_bz_coopA_TNT"

# device us and call us at 8,192, 4,096, 1,024 and 16 tokens; the other kernels' number, and their us at each.
_LAYERS: dict[str, tuple[tuple[tuple[float, float], ...], int, tuple[float, ...]]] = {
    "torch-bf16": (((195.8, 205.0), (101.7, 103.5), (29.2, 27.9), (12.5, 19.1)), 0, (0.0, 0.0, 0.0, 0.0)),
    "torch-bf16+compile": (((195.9, 205.0), (101.6, 106.8), (29.2, 89.7), (12.5, 47.5)), 0, (0.0, 0.0, 0.0, 0.0)),
    "torchao-fp8-rowwise": (
        ((397.2, 717.7), (215.7, 721.6), (78.0, 495.3), (44.1, 344.1)),
        8,
        (282.3, 148.2, 43.8, 19.5),
    ),
    "torchao-fp8-rowwise+compile": (
        ((149.1, 196.4), (80.5, 219.4), (29.2, 161.6), (16.3, 107.2)),
        1,
        (46.9, 24.2, 6.9, 1.7),
    ),
    "torchao-fp8-tensorwise": (
        ((401.4, 783.2), (212.7, 715.4), (73.3, 701.3), (38.9, 329.6)),
        8,
        (280.6, 144.1, 41.3, 18.2),
    ),
    "torchao-fp8-tensorwise+compile": (
        ((192.7, 327.6), (103.8, 299.7), (36.0, 255.7), (19.1, 136.0)),
        3,
        (80.5, 42.2, 13.3, 6.6),
    ),
    "torch-fp8-tensorwise-static+compile": (
        ((133.5, 141.1), (69.9, 139.0), (23.4, 92.6), (11.3, 67.6)),
        1,
        (22.7, 11.4, 3.5, 1.1),
    ),
    "torchao-fp8-weightonly": (
        ((275.4, 293.4), (183.6, 189.1), (110.5, 116.6), (89.1, 90.1)),
        3,
        (76.8, 77.9, 77.1, 78.3),
    ),
}
_GEMMS = {
    "torch-bf16": (195.3, 102.2, 29.2, 12.5),
    "torch-fp8-tensorwise": (108.5, 56.7, 18.5, 8.7),
    "torch-fp8-rowwise": (103.6, 55.4, 21.5, 13.1),
    "torch-fp8-tensorwise-slowaccum": (115.8, 60.6, 19.4, 8.5),
    "torch-fp8-rowwise-slowaccum": (119.2, 61.4, 23.3, 13.3),
}
TOKENS = (8192, 4096, 1024, 16)


def us(median: float, spread: float = 0.01) -> Estimate:
    """A time whose interval and middle half are `spread` to each side."""
    return Estimate(median, median * (1 - spread), median * (1 + spread), 25, 2 * spread * median)


def case(config: str, m: int, device: float | None, call: float | None = None, **more: Any) -> Case:
    """A timed and right case of one layer; its kernel is what the configuration says.

    Of a call that takes much longer than its work the host asks nearly all the time, of another one half of it.
    """
    asks = 0.97 if call and device and call > 1.2 * device else 0.5
    in_fp8 = "fp8" in config and "weightonly" not in config
    fields: dict[str, Any] = {
        "config": config,
        "kind": "layer",
        "m": m,
        "k": LAYER[0],
        "n": LAYER[1],
        "outcome": "ok",
        "device_us": None if device is None else us(device),
        "call_us": None if call is None else us(call),
        "host_us": None if call is None else us(asks * call),
        "relative_error": 0.0375 if "fp8" in config else 0.00166,
        "relative_error_limit": 0.076 if "fp8" in config else 0.0034,
        "gemm_kernel": FP8_KERNEL if in_fp8 else BF16_KERNEL,
        "gemm_kind": "fp8-gemm" if in_fp8 else "bf16-gemm",
    }
    return Case(**{**fields, **more})


def _every_case() -> tuple[Case, ...]:
    found: list[Case] = []
    for place, m in enumerate(TOKENS):
        for config, (times, kernels, other) in _LAYERS.items():
            parts = {"gemm_us": times[place][0] - other[place], "other_kernels": kernels, "other_us": other[place]}
            found.append(case(config, m, *times[place], **parts))
        found += [case(config, m, times[place], kind="gemm") for config, times in _GEMMS.items()]
    return tuple(found)


LINEAR = Linear(
    measurable=True,
    method=Method(1, 126 << 20, 25, "median"),
    device_name="NVIDIA H200",
    compute_capability="9.0",
    ceilings=Ceilings(
        bf16=Ceiling("bf16", 5632, 16384, 6144, 836.0, 682.8, 15.2, 16.2, 36),
        fp8=Ceiling("fp8", 11264, 16384, 12288, 1585.5, 1299.0, 16.7, 17.8, 36),
        copy_gb_s=4136.8,
        launch_us=Estimate(6.1, 6.06, 6.46, 7, 0.2),
    ),
    compilations=(),
    cases=_every_case(),
    not_measured=(),
)
NO_GPU = Linear(measurable=False, why_not="torch sees no GPU")
BOARD = Gpu(
    index=0,
    name="NVIDIA H200",
    compute_capability="9.0",
    vendor="nvidia",
    sm_count=132,
    memory_total_mib=143771.0,
    power_limit_w=700.0,
    power_limit_default_w=700.0,
    mig_enabled=False,
    mps_active=False,
    processes=(),
)
ONE_H200 = Gpus(gpus=(BOARD,))
STEADY = Clocks(
    samples=tuple(
        ClockSample(15.0 + i / 10, 1755, 3201, 690.0, 55.0, ("gpu_idle",) if i < 2 else ()) for i in range(30)
    )
)


def only(*configs: str) -> Linear:
    """The facts with these configurations alone."""
    return replace(LINEAR, cases=tuple(c for c in LINEAR.cases or () if c.config in configs))


def without(*configs: str) -> Linear:
    """The facts without these configurations."""
    return replace(LINEAR, cases=tuple(c for c in LINEAR.cases or () if c.config not in configs))


def changed(config: str, *, kind: str = "layer", m: int | None = None, **fields: Any) -> Linear:
    """The facts with other fields in each case of `config` (at `m` tokens)."""
    hits = [c for c in LINEAR.cases or () if c.config == config and c.kind == kind and m in (None, c.m)]
    assert hits, config
    return replace(LINEAR, cases=tuple(replace(c, **fields) if c in hits else c for c in LINEAR.cases or ()))


REGISTRY = Registry()
REGISTRY.collect(fp8doctor.checks.linear)


def verdict(rule: str, linear: Linear, gpus: Gpus | None = ONE_H200, clocks: Clocks | None = None) -> RuleResult:
    """What the rule with this id says of these facts."""
    spec = REGISTRY.rules[rule]
    return spec.function(**given(spec.needs, linear, gpus, clocks))


def finding(rule: str, linear: Linear, gpus: Gpus | None = ONE_H200, clocks: Clocks | None = None) -> Finding:
    """The finding of the rule with this id; it must have one."""
    result = verdict(rule, linear, gpus, clocks)
    assert isinstance(result, Finding), result
    return result


def exhibits(linear: Linear, gpus: Gpus | None = ONE_H200, clocks: Clocks | None = STEADY) -> dict[str, Exhibit]:
    """All that there is to look at, by id."""
    made = [m.function(**given(m.needs, linear, gpus, clocks)) for m in REGISTRY.makers if m.makes == "exhibit"]
    return {shown.id: shown for shown in made if shown is not None}


def candidates(linear: Linear, gpus: Gpus | None = ONE_H200) -> list[Candidate]:
    """All that competes."""
    made = [m.function(**given(m.needs, linear, gpus, None)) for m in REGISTRY.makers if m.makes == "candidates"]
    return [candidate for some in made for candidate in some]


def given(needs: dict[str, Need], linear: Linear, gpus: Gpus | None, clocks: Clocks | None) -> dict[str, Facts | None]:
    """The parameters that a rule or maker asks for."""
    have: dict[str, Facts | None] = {Linear.key: linear, Gpus.key: gpus, Clocks.key: clocks}
    return {name: have.get(need.key) for name, need in needs.items()}
