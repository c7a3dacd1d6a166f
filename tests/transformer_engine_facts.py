"""Times of te.Linear, built by hand after a real H200 (torch 2.11, Transformer Engine 2.20.2).

Calls, forwards, the largest shape and what was graphed are that box's own. The work behind its eager backwards, which
was measured with the host's time in it, is assumed, and so is the host's part of each call.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import fp8doctor.checks.transformer_engine
from fp8doctor.checks.linear.facts import Linear
from fp8doctor.checks.transformer_engine.times import FORWARD, TRAINING, LayerTime, TransformerEngineTimes
from fp8doctor.checks.workload import WorkloadSeen
from fp8doctor.measuring.timer import Method
from fp8doctor.model import Candidate, Exhibit, Facts, Finding, RuleResult, Shape
from fp8doctor.registry import Registry
from tests.linear_facts import us

SMALL, MIDDLE, LARGE = Shape(16, 3072, 3072), Shape(1024, 3072, 3072), Shape(4096, 3072, 3072)
WIDE, LARGEST = Shape(4096, 3072, 12288), Shape(8192, 8192, 8192)
# The order of measuring.
SHAPES = (MIDDLE, WIDE, LARGE, SMALL, LARGEST)

# Device us and call us at each of SHAPES; None where it was not timed.
_TRAINING: dict[str, tuple[tuple[float, float] | None, ...]] = {
    "torch-bf16": ((89.3, 103.4), (1339.0, 1336.2), (299.8, 298.1), (66.4, 114.4), (5392.4, 4971.4)),
    "te-bf16": ((91.0, 383.0), (1341.0, 1345.0), (301.0, 390.0), (68.0, 380.0), None),
    "te-fp8-current": ((150.0, 911.1), (850.0, 921.0), (290.0, 928.4), (120.0, 910.0), (3062.9, 2994.7)),
    "te-fp8-delayed": ((140.0, 940.2), (770.0, 960.9), (270.0, 952.0), (110.0, 942.5), (2820.3, 2799.8)),
    "te-fp8-current+cudagraph": ((160.4, 259.5), (900.3, 983.6), (325.2, 332.6), (124.1, 231.9), None),
    "torch-bf16+cudagraph": ((89.1, 95.0), (1338.0, 1340.0), (299.0, 301.0), (66.0, 80.0), None),
    "te-fp8-current+cachedweight": ((125.0, 850.0), None, None, None, None),
}
_FORWARD: dict[str, tuple[tuple[float, float] | None, ...]] = {
    "torch-bf16": ((30.7, 27.8), (387.5, 389.6), (103.3, 99.8), (13.9, 17.9), (1444.8, 1606.0)),
    "te-bf16": ((30.8, 60.0), (388.0, 393.4), (103.5, 100.4), (14.0, 47.5), None),
    "te-fp8-current": ((51.7, 103.2), (318.8, 312.8), (101.8, 108.4), (49.7, 102.9), (1026.1, 994.4)),
    "te-fp8-delayed": ((34.6, 78.6), (291.9, 280.9), (80.0, 95.6), (48.3, 99.7), (895.1, 862.6)),
    "te-fp8-current+cachedweight": ((32.6, 83.7), None, None, None, None),
    "te-fp8-current+fp8weight": ((32.0, 80.0), None, None, None, None),
    "te-fp8-current+cudagraph": ((51.5, 53.0), None, None, None, None),
}


def timed(config: str, passes: str, shape: Shape, device: float | None, call: float | None, **more: Any) -> LayerTime:
    """A timed and right case. Of a call that takes much longer than its work the host asks nearly all the time."""
    asks = 0.97 if call and device and call > 1.2 * device else 0.5
    in_fp8, training = "fp8" in config, passes == TRAINING
    fields: dict[str, Any] = {
        "config": config,
        "kind": "layer",
        "passes": passes,
        "m": shape.m,
        "k": shape.k,
        "n": shape.n,
        "outcome": "ok",
        "device_us": None if device is None else us(device),
        "call_us": None if call is None else us(call),
        "host_us": None if call is None else us(asks * call),
        "relative_error": 0.0376 if in_fp8 else 0.00166,
        "relative_error_limit": 0.076 if in_fp8 else 0.0034,
        "gradient_error": (0.059 if in_fp8 else 0.00168) if training else None,
        "gradient_error_limit": (0.118 if in_fp8 else 0.0034) if training else None,
    }
    return LayerTime(**{**fields, **more})


def _every_case() -> tuple[LayerTime, ...]:
    return tuple(
        timed(config, passes, shape, *us_and_call)
        for place, shape in enumerate(SHAPES)
        for passes, table in ((TRAINING, _TRAINING), (FORWARD, _FORWARD))
        for config, row in table.items()
        if (us_and_call := row[place]) is not None
    )


TIMES = TransformerEngineTimes(
    measurable=True,
    method=Method(1, 126 << 20, 15, "median"),
    device_name="NVIDIA H200",
    default_config="te-fp8-delayed",
    configs=("te-fp8-current", "te-fp8-delayed"),
    cases=_every_case(),
    not_measured=(),
)
ABSENT = TransformerEngineTimes(measurable=False, why_not="Transformer Engine is not installed")


def only(*shapes: Shape) -> TransformerEngineTimes:
    """The times at these shapes alone."""
    return replace(TIMES, cases=tuple(c for c in TIMES.cases or () if Shape(c.m or 0, c.k or 0, c.n or 0) in shapes))


def without(*configs: str) -> TransformerEngineTimes:
    """The times without these configurations."""
    return replace(TIMES, cases=tuple(c for c in TIMES.cases or () if c.config not in configs))


def changed(config: str, passes: str = TRAINING, shape: Shape | None = None, **fields: Any) -> TransformerEngineTimes:
    """The times with other fields in each case of `config` (at `shape`)."""
    sizes = None if shape is None else (shape.m, shape.k, shape.n)
    hits = [
        c for c in TIMES.cases or () if (c.config, c.passes) == (config, passes) and sizes in (None, (c.m, c.k, c.n))
    ]
    assert hits, config
    return replace(TIMES, cases=tuple(replace(c, **fields) if c in hits else c for c in TIMES.cases or ()))


REGISTRY = Registry()
REGISTRY.collect(fp8doctor.checks.transformer_engine)
RULES = tuple(id for id, rule in REGISTRY.rules.items() if "times" in rule.needs)


def verdict(rule: str, times: TransformerEngineTimes, seen: WorkloadSeen | None = None) -> RuleResult:
    """What the rule with this id says of these times, for the workload that was named."""
    asked = {"seen": seen} if "seen" in REGISTRY.rules[rule].needs else {}
    return REGISTRY.rules[rule].function(times=times, **asked)


def finding(rule: str, times: TransformerEngineTimes = TIMES) -> Finding:
    """The finding of the rule with this id; it must have one."""
    result = verdict(rule, times)
    assert isinstance(result, Finding), result
    return result


def candidates(
    times: TransformerEngineTimes = TIMES, linear: Linear | None = None, seen: WorkloadSeen | None = None
) -> list[Candidate]:
    """All of Transformer Engine that competes."""
    return [candidate for made in _made("candidates", times, linear, seen) for candidate in made]


def exhibits(times: TransformerEngineTimes = TIMES) -> dict[str, Exhibit]:
    """All that there is to look at, by id."""
    return {shown.id: shown for shown in _made("exhibit", times) if shown is not None}


def _made(
    what: str, times: TransformerEngineTimes, linear: Linear | None = None, seen: WorkloadSeen | None = None
) -> list[Any]:
    have: dict[str, Facts | None] = {TransformerEngineTimes.key: times, Linear.key: linear, WorkloadSeen.key: seen}
    makers = [maker for maker in REGISTRY.makers if maker.makes == what]
    return [maker.function(**{name: have[need.key] for name, need in maker.needs.items()}) for maker in makers]
