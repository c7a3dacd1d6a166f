"""What does a step take whose blocks take other times, all else as it is?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fp8doctor.checks.model.trying.block_times import BlockTime
from fp8doctor.checks.model.trying.blocks import Block
from fp8doctor.model import Estimate
from fp8doctor.observed import StepRun

# A host that needs more than this part of a step may have waited for room in the launch queue, so that its time says
# nothing (`Meter.host_ms`).
HOST_IS_AHEAD = 0.8


@dataclass(frozen=True)
class Counted:
    """How often a step calls a kind of blocks, and what one takes."""

    count: int
    time: BlockTime


def as_it_is_of(blocks: Sequence[Block], times: Mapping[str, BlockTime]) -> dict[str, Counted]:
    """The blocks as they are, by key."""
    return {block.key: Counted(block.count * block.calls, times[block.key]) for block in blocks if block.key in times}


def whole_step(
    run: StepRun | None, now: Mapping[str, Counted], new: Mapping[str, BlockTime], outside: BlockTime | None
) -> Estimate | None:
    """The whole step with other blocks, in milliseconds; None where the step was not timed.

    Where the device sets the pace: the step less the blocks' time now, plus their time then. Where the host sets it,
    its wavering hides the rest in the difference: then what the device needs outside of the blocks, plus their time
    then. In both cases no less than the host needs. The interval is that of a sum of independent times.

    Args:
        run: the step as it is.
        now: the blocks as they are.
        new: the same blocks in another configuration, by key.
        outside: what the step takes without its blocks, if that could be measured.
    """
    if run is None or run.step_ms is None or not set(new) <= set(now):
        return None
    held = run.host_ms is not None and run.host_ms > HOST_IS_AHEAD * run.step_ms.median
    base = outside.device_ms if held and outside is not None else run.step_ms
    terms = [(1, base), *((now[key].count, time.device_ms) for key, time in new.items())]
    if base is run.step_ms:
        terms += [(-now[key].count, now[key].time.device_ms) for key in new]
    median = sum(count * time.median for count, time in terms)
    # Independent errors add by their squares (JCGM 100:2008, "Guide to the expression of uncertainty in measurement",
    # 5.1.2); of what is subtracted, the upper end widens downwards.
    below = math.hypot(*(c * (t.median - t.low) if c > 0 else c * (t.high - t.median) for c, t in terms))
    above = math.hypot(*(c * (t.high - t.median) if c > 0 else c * (t.median - t.low) for c, t in terms))
    blocks = sum(now[key].count * time.device_ms.low for key, time in new.items())
    least = max(blocks, _host_ms(now, new, outside))
    return Estimate(
        median=round(max(median, least), 4),
        low=round(max(min(median - below, median), least), 4),
        high=round(max(median + above, least), 4),
        n=min(time.device_ms.n for time in new.values()),
    )


def _host_ms(now: Mapping[str, Counted], new: Mapping[str, BlockTime], outside: BlockTime | None) -> float:
    """What the host needs for the step then; 0 where its part outside of the blocks is not known."""
    if outside is None:
        return 0.0
    return outside.host_ms + sum(now[key].count * time.host_ms for key, time in new.items())
