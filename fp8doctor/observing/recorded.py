"""What would a recorded step have taken without the profiler?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fp8doctor.traced import Trace

# A recorded step is the profiler's in part where it is longer than the clocked one by more than steps differ.
LONGER = 1.10
_PARTS = (
    "idle_launching_us",
    "idle_waiting_us",
    "idle_elsewhere_us",
    "idle_loading_us",
    "idle_between_us",
)


def without_profiler(trace: Trace, step_ms: float) -> Trace:
    """The same trace with so much idle time that its steps are as long as by the clock.

    A profiler slows the host alone: where the GPU waits for launches, it waits for the profiler too (one step took
    3.9 ms recorded and 2.9 without, another 478 and 327). Each kind of idle time is shortened by the same factor.

    Args:
        trace: steps of a model as they were recorded.
        step_ms: what one of them takes without a profiler, by the clock.
    """
    if not trace.steps or not trace.span_us or trace.busy_us is None or not trace.idle_us or step_ms <= 0:
        return trace
    if trace.compilations:  # the recording is longer for these
        return trace
    clocked_us = 1e3 * step_ms * trace.steps
    if trace.span_us <= LONGER * clocked_us:
        return trace
    idle_us = min(max(clocked_us - trace.busy_us, 0.0), trace.idle_us)
    factor = idle_us / trace.idle_us

    def shortened(us: float | None) -> float | None:
        return None if us is None else round(us * factor, 3)

    span_us = trace.busy_us + idle_us
    parts: dict[str, Any] = {name: shortened(getattr(trace, name)) for name in _PARTS}
    return replace(
        trace,
        span_us=round(span_us, 3),
        step_us=round(span_us / trace.steps, 3),
        idle_us=round(idle_us, 3),
        idle_functions=trace.idle_functions
        and tuple(replace(one, us=shortened(one.us)) for one in trace.idle_functions),
        waits=trace.waits and tuple(replace(wait, idle_us=shortened(wait.idle_us)) for wait in trace.waits),
        profiler_us=round(trace.idle_us - idle_us, 3),
        **parts,
    )
