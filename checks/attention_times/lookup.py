"""Finding one's way in the timed cases: which route is the fastest at a call, and how is it called?"""

from __future__ import annotations

from fp8doctor.checks.attention_times.facts import AttentionCase, AttentionTimes
from fp8doctor.checks.attention_times.shapes import Key, Task, normal
from fp8doctor.checks.linear.cases import ASKING_SHARE, HOST_BOUND, gains, time_of
from fp8doctor.measuring.workloads import AttentionUse
from fp8doctor.model import Estimate, Evidence

# Torch's own choice: what a program gets that asks for nothing.
DEFAULT = "torch-sdpa"
NAMES = {
    DEFAULT: "torch's own pick",
    "torch-sdpa-flash": "torch's flash backend (FlashAttention 2)",
    "torch-sdpa-efficient": "torch's memory-efficient backend",
    "torch-sdpa-cudnn": "torch's cuDNN backend",
    "torch-sdpa-math": "torch's unfused backend (math)",
    "torch-sdpa-fa3": "torch switched to FlashAttention 3",
    "torch-sdpa-fa4": "torch switched to FlashAttention 4",
    "flash-attn-2": "FlashAttention 2",
    "flash-attn-3": "FlashAttention 3",
    "flash-attn-4": "FlashAttention 4",
    "flash-attn-2-fp8": "FlashAttention 2 in FP8",
    "flash-attn-3-fp8": "FlashAttention 3 in FP8",
    "flash-attn-4-fp8": "FlashAttention 4 in FP8",
    "te-attention": "Transformer Engine's attention in BF16",
    "te-fp8-delayed-attention": "Transformer Engine's FP8 attention, DelayedScaling",
    "te-fp8-current-attention": "Transformer Engine's FP8 attention, Float8CurrentScaling",
    "te-mxfp8-attention": "Transformer Engine's FP8 attention, MXFP8BlockScaling",
}
_BACKENDS = {"flash": "FlashAttention 2", "cudnn": "cuDNN", "efficient": "the memory-efficient kernel", "math": "math"}


def is_fp8(route: str | None) -> bool:
    """Whether a route multiplies in FP8."""
    return "fp8" in (route or "")


def name_of(route: str | None) -> str:
    """A route in words."""
    return NAMES.get(route or "", route or "?")


def backend_name(case: AttentionCase) -> str:
    """What torch picked, in words."""
    return _BACKENDS.get(case.backend or "", case.backend or "an unnamed backend")


def task_of(case: AttentionCase) -> Task:
    """The call that a case is of."""
    use = AttentionUse(
        case.batch,
        case.heads,
        case.kv_heads,
        case.queries,
        case.keys,
        case.head_dim,
        bool(case.causal),
        case.calls,
    )
    return Task(use, bool(case.trains))


class Timings:
    """The timed and right cases of one record, by call and route."""

    def __init__(self, times: AttentionTimes) -> None:
        self.tasks: dict[Key, Task] = {}
        self._cases: dict[Key, dict[str, AttentionCase]] = {}
        # The first call at which a route was wrong, by route.
        self.wrong: dict[str, AttentionCase] = {}
        for case in times.cases or ():
            task = task_of(case)
            self.tasks.setdefault(task.key, task)
            if case.outcome == "ok" and time_of(case.device_us) is not None:
                self._cases.setdefault(task.key, {})[case.route or ""] = case
            elif case.outcome == "wrong":
                self.wrong.setdefault(case.route or "", case)

    def at(self, task: Task) -> dict[str, AttentionCase]:
        """The timed and right cases at a call, by route, torch's own pick first if it is among them."""
        found = self._cases.get(task.key, {})
        return {route: found[route] for route in sorted(found, key=lambda route: route != DEFAULT)}

    def reliable(self, task: Task) -> dict[str, AttentionCase]:
        """The same without the routes that were wrong at another call of this box; torch's own pick is always there."""
        return {route: case for route, case in self.at(task).items() if route == DEFAULT or route not in self.wrong}

    def best(self, task: Task, *, fp8: bool | None = None, without: str | None = None) -> AttentionCase | None:
        """The fastest on the device of the reliable routes; one that is no faster beyond the noise displaces none.

        Args:
            task: the call.
            fp8: True for FP8 routes alone, False for 16-bit ones, None for all.
            without: a route to leave out.
        """
        best: AttentionCase | None = None
        for route, case in self.reliable(task).items():
            if route != without and (fp8 is None or is_fp8(route) == fp8):
                best = case if best is None or is_faster(case, best) else best
        return best


# The cases of the record that was looked at last: a dozen rules and exhibits ask for the same one.
_last: list[tuple[AttentionTimes, Timings]] = []


def timed_of(times: AttentionTimes) -> Timings:
    """The timed and right cases of a record."""
    found = next(iter(_last), None)
    if found is None or found[0] is not times:
        found = (times, Timings(times))
        _last[:] = [found]  # another thread may put its own there; what is returned is this one's
    return found[1]


def device_us(times: AttentionTimes, route: str, use: AttentionUse, *, trains: bool = False) -> Estimate | None:
    """The device time of a route at a call in microseconds, None if it was not timed there, or was not right."""
    case = timed_of(times).at(Task(normal(use), trains)).get(route)
    return case.device_us if case else None


def best_route(
    times: AttentionTimes, use: AttentionUse, *, trains: bool = False, fp8: bool | None = None
) -> str | None:
    """The route that is fastest on the device at this call among those that were right at every call; None without any.

    Args:
        times: the record.
        use: the call; how often it is made does not matter.
        trains: whether a backward follows.
        fp8: True for FP8 routes alone, False for 16-bit ones, None for all.
    """
    best = timed_of(times).best(Task(normal(use), trains), fp8=fp8)
    return best.route if best else None


def is_faster(case: AttentionCase, than: AttentionCase) -> bool:
    """Whether a case is faster on the device than another, beyond the noise."""
    return case.device_us is not None and than.device_us is not None and gains(than.device_us, case.device_us)


def waits_for_host(case: AttentionCase) -> bool:
    """Whether the device waits for the host when this case is called in a loop: see `linear.cases.waits_for_host`."""
    if case.host_us is None or case.call_us is None or case.device_us is None:
        return False
    asks_all_the_time = case.host_us.median >= ASKING_SHARE * case.call_us.median
    return asks_all_the_time and case.call_us.low > HOST_BOUND * case.device_us.high


def line(case: AttentionCase, against: AttentionCase | None = None) -> Evidence:
    """A timed case as evidence: time, rate and, against another, the factor."""
    assert case.device_us is not None
    us = case.device_us.median
    words = f"{name_of(case.route)}: {us:,.0f} us" if us >= 20 else f"{name_of(case.route)}: {us:.1f} us"
    words += f", {case.tflops:,.0f} TFLOP/s" if case.tflops and case.tflops >= 10 else ""
    if against is not None and against.device_us is not None:
        words += f", {against.device_us.median / us:.2f}x"
    return Evidence(words, us, "us", "attention_times.cases")
