"""How much of a step does a GPU send and receive, and how much of that has nothing else beside it?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fp8doctor.measuring.stepping import Meter

# A stretch of time, and a kernel on the timeline, in microseconds.
Stretch = tuple[float, float]
Ran = tuple[float, float, str]
# So NCCL's and RCCL's kernels are called.
_NCCL = "nccl"
WARM_STEPS = 2


def profiled(meter: Meter, step: Callable[[], Any], *, first: bool) -> dict[str, Any]:
    """Run the step a few times, the last one under the profiler on the first GPU; what its kernels add up to."""
    for _ in range(WARM_STEPS):
        step()
    meter.wait()
    if not first or not meter.on_gpu:
        step()
        meter.wait()
        return {}
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        meter.wait()
    events = [e for e in profiler.events() if e.device_type == DeviceType.CUDA]
    return sums([(e.time_range.start, e.time_range.end, e.name) for e in events])


def sums(events: Iterable[Ran]) -> dict[str, Any]:
    """How long it all took, how long NCCL's kernels ran, how long nothing ran beside them, and how many there were."""
    ran = list(events)
    sent = [(start, end) for start, end, name in ran if _NCCL in name.lower()]
    rest = [(start, end) for start, end, name in ran if _NCCL not in name.lower()]
    if not rest:
        return {}
    whole = _length(_union([*sent, *rest]))
    return {
        "profiled_ms": _ms(max(end for _, end, _ in ran) - min(start for start, _, _ in ran)),
        "communication_ms": _ms(_length(_union(sent))),
        "exposed_ms": _ms(whole - _length(_union(rest))),
        "communications": len(sent),
    }


def _union(stretches: Iterable[Stretch]) -> list[Stretch]:
    """The same time without overlaps, in order."""
    found: list[Stretch] = []
    for start, end in sorted(stretches):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _length(stretches: Iterable[Stretch]) -> float:
    return sum(end - start for start, end in stretches)


def _ms(us: float) -> float:
    return round(us / 1e3, 3)
