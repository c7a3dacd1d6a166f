"""Which GPU kernels did a call run, and how long did each take?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Call = Callable[[], Any]
# The kernel of torch.cuda._sleep; it stands before and after each call on the timeline.
SEPARATOR = "spin_kernel"


def profile_calls(torch: Any, device: Any, calls: Sequence[Call], flush: Call) -> list[list[tuple[str, float]]] | None:
    """Run each call once under the profiler, L2 cold, and return its kernels in order: (name, microseconds).

    None if the profiler cannot trace kernels here (another profiler holds CUPTI, or it is missing).
    """
    try:
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        torch.cuda.synchronize(device)
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for call in calls:
                flush()
                torch.cuda._sleep(1000)
                call()
                torch.cuda._sleep(1000)
            torch.cuda.synchronize(device)
        events = [e for e in profiler.events() if e.device_type == DeviceType.CUDA]
    except (ImportError, RuntimeError, AttributeError, AssertionError):  # the last: a torch built without Kineto
        return None
    return split_calls([(e.time_range.start, e.name, e.time_range.elapsed_us()) for e in events], len(calls))


def split_calls(events: Sequence[tuple[float, str, float]], calls: int) -> list[list[tuple[str, float]]] | None:
    """Split a timeline of (start, name, microseconds) into calls at the separators; None if they do not add up."""
    found: list[list[tuple[str, float]]] = []
    for _, name, us in sorted(events):
        if SEPARATOR in name:
            found.append([])
        elif found:
            found[-1].append((name, round(us, 3)))
    # Every second stretch lies between a call's end and the next one's flush.
    return found[0::2] if len(found) == 2 * calls else None
