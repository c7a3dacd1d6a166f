"""Finding one's way in the timed calls of te.Linear: which is fastest where, and which clock counts?"""

from __future__ import annotations

from collections.abc import Iterable

from fp8doctor.checks.linear.cases import gains, time_of, us, waits_for_host
from fp8doctor.checks.transformer_engine.configurations import BF16, GRAPH, TE_BF16, is_graph, scaling_of
from fp8doctor.checks.transformer_engine.times import FORWARD, TRAINING, LayerTime, TransformerEngineTimes
from fp8doctor.measuring.statistics import speedup
from fp8doctor.model import Clock, Estimate, Evidence, Shape

FACT = "transformer_engine_times.cases"
# A host's own speed moves within seconds (benchmarks/RESULTS.md): by call times a smaller gain is none.
CALL_GAIN = 1.10


class Times:
    """The timed cases of one record, by configuration, passes and shape."""

    def __init__(self, times: TransformerEngineTimes) -> None:
        self._timed = {
            (case.config, case.passes, shape_of(case)): case
            for case in times.cases or ()
            if time_of(case.device_us) is not None
        }
        self.shapes = list(dict.fromkeys(shape for _, _, shape in self._timed))

    def get(self, config: str, shape: Shape, passes: str = TRAINING) -> LayerTime | None:
        """The timed case of a configuration, None if it was not timed."""
        return self._timed.get((config, passes, shape))

    def by_work(self) -> list[Shape]:
        """The shapes that were timed, the one with the least work first."""
        return sorted(self.shapes, key=lambda shape: shape.m * shape.k * shape.n)

    def recipes(self, shape: Shape, passes: str = TRAINING, *suffixes: str) -> list[LayerTime]:
        """The cases of all recipes at a shape, with these suffixes and no other, in the order of measuring."""
        return [
            case
            for (config, ran, where), case in self._timed.items()
            if (ran, where) == (passes, shape)
            and scaling_of(config) is not None
            and tuple((config or "").split("+")[1:]) == suffixes
        ]

    def bf16(self, shape: Shape, passes: str = TRAINING) -> LayerTime | None:
        """nn.Linear in BF16 as it is fastest here, eager or as a CUDA graph."""
        found = (self.get(config, shape, passes) for config in (BF16, f"{BF16}+{GRAPH}"))
        return fastest(case for case in found if case)


def shape_of(case: LayerTime) -> Shape:
    """The shape of a case; a size that nobody observed is 0."""
    return Shape(case.m or 0, case.k or 0, case.n or 0)


def what_counts(case: LayerTime) -> Estimate:
    """The time that a user of this case waits for: the device's, or the call's where the device waits for the host.

    A CUDA graph that holds a whole model pays the host's time once, so there the device's time counts.
    """
    call = time_of(case.call_us)
    if call is not None and not is_graph(case.config) and waits_for_host(case):
        return call
    assert case.device_us is not None, "only timed cases are compared"
    return case.device_us


def fastest(cases: Iterable[LayerTime]) -> LayerTime | None:
    """The case with the shortest time that counts; None without cases."""
    return min(cases, key=lambda case: what_counts(case).median, default=None)


def quickest_to_ask_for(cases: Iterable[LayerTime]) -> LayerTime | None:
    """The case whose call takes the shortest; None if no call was timed."""
    called = [(case.call_us.median, place, case) for place, case in enumerate(cases) if case.call_us]
    return min(called)[2] if called else None


def compared(slow: LayerTime, fast: LayerTime) -> tuple[Estimate, Estimate, Clock]:
    """The times by which two cases are compared, and their clock.

    Two eager calls are compared at the call if the device waits for the host in either: a call and the work of another
    say nothing together. Beside a CUDA graph each counts with what its user waits for.
    """
    calls = time_of(slow.call_us), time_of(fast.call_us)
    graphs = [is_graph(slow.config), is_graph(fast.config)]
    if not any(graphs) and calls[0] and calls[1] and (waits_for_host(slow) or waits_for_host(fast)):
        return calls[0], calls[1], "call"
    waiting = any(waits_for_host(case) and not is_graph(case.config) for case in (slow, fast))
    return what_counts(slow), what_counts(fast), "call" if waiting else "device"


def factor(slow: LayerTime, fast: LayerTime) -> Estimate:
    """How many times as fast `fast` is, by the times that count."""
    times = compared(slow, fast)
    return speedup(times[0], times[1])


def is_faster(fast: LayerTime, slow: LayerTime) -> bool:
    """Whether `fast` is faster beyond the noise, by the times that count."""
    slow_us, fast_us, clock = compared(slow, fast)
    return gains(slow_us, fast_us) and (clock == "device" or speedup(slow_us, fast_us).median >= CALL_GAIN)


def told(case: LayerTime | None) -> str:
    """ "152 us of work, 911 us a call"; the call where it was timed."""
    if case is None:
        return "not timed"
    call = f", {us(case.call_us)} a call" if case.call_us else ""
    return f"{us(case.device_us)} of work{call}"


def line(what: str, case: LayerTime, more: str = "") -> Evidence:
    """A case as evidence; its value is the time that counts."""
    return Evidence(f"{what}: {told(case)}{more}", what_counts(case).median, "us", FACT)


def listed(items: Iterable[object]) -> str:
    """ "a, b and c"."""
    *most, last = [str(item) for item in items]
    return f"{', '.join(most)} and {last}" if most else last


def host_parts(times: Times, shape: Shape, config: str) -> tuple[float, float, float] | None:
    """What the host spends on one forward and backward, in us: as in BF16, FP8's in the forward, and in the backward.

    The forward's share is that of a forward alone, without gradients; what FP8 adds for the backward's sake counts to
    the backward. None if one of the four was not timed, or if the parts do not add up.
    """
    found = [times.get(c, shape, p) for p in (FORWARD, TRAINING) for c in (TE_BF16, config)]
    asking = [case.host_us.median for case in found if case and case.host_us]
    if len(asking) < len(found):
        return None
    bf16_forward, fp8_forward, bf16_all, fp8_all = asking
    parts = (bf16_all, fp8_forward - bf16_forward, (fp8_all - bf16_all) - (fp8_forward - bf16_forward))
    return parts if min(parts) > 0 else None
