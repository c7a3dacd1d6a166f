"""What does a step take whose blocks take other times, all else as it is?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fp8doctor.checks.model.trying.block_times import HOST_IS_AHEAD, BlockTime
from fp8doctor.checks.model.trying.blocks import Block
from fp8doctor.model import Estimate
from fp8doctor.observed import StepRun

# What an estimate may be off beside what sampling tells (benchmarks/RESULTS.md, "Plans, measured").
SYSTEMATIC = 0.03


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

    The device and the host are summed up apart, and the longer one counts. Of the device: where it sets the pace of the
    step as it is, that step less the blocks' time now, plus their time then; where the host does, its wavering hides
    the rest in the difference: then what the device needs outside of the blocks, plus their time then. Of the host:
    what it needs outside of the blocks and for them. Where nothing is known of the outside, blocks count with what
    they take from the end of one call to the next. The interval is that of a sum of independent times.

    Args:
        run: the step as it is.
        now: the blocks as they are.
        new: the same blocks in another configuration, by key.
        outside: what the step takes without its blocks, if that could be measured.
    """
    if run is None or run.step_ms is None or not set(new) <= set(now):
        return None
    held = run.host_ms is not None and run.host_ms > HOST_IS_AHEAD * run.step_ms.median
    if outside is None:
        terms = [(1, run.step_ms), *((now[key].count, time.loop_ms) for key, time in new.items())]
        terms += [(-now[key].count, now[key].time.loop_ms) for key in new]
    else:
        base = outside.device_ms if held else run.step_ms
        terms = [(1, base), *((now[key].count, time.device_ms) for key, time in new.items())]
        if not held:
            terms += [(-now[key].count, now[key].time.device_ms) for key in new]
    summed = sum(count * time.median for count, time in terms)
    # No less than the host needs, nor than the blocks themselves.
    blocks = sum(now[key].count * time.device_ms.low for key, time in new.items())
    median = max(summed, blocks, _host_ms(now, new, outside))
    # Independent errors add by their squares (JCGM 100:2008, "Guide to the expression of uncertainty in measurement",
    # 5.1.2); of what is subtracted, the upper end widens downwards.
    of_method = SYSTEMATIC * median
    below = math.hypot(of_method, *(c * (t.median - t.low) if c > 0 else c * (t.high - t.median) for c, t in terms))
    above = math.hypot(of_method, *(c * (t.high - t.median) if c > 0 else c * (t.median - t.low) for c, t in terms))
    return Estimate(
        median=round(median, 4),
        low=round(max(median - below, 0.0), 4),
        high=round(median + above, 4),
        n=min(time.device_ms.n for time in new.values()),
    )


def _host_ms(now: Mapping[str, Counted], new: Mapping[str, BlockTime], outside: BlockTime | None) -> float:
    """What the host needs for the step then; 0 where its part outside of the blocks is not known."""
    if outside is None:
        return 0.0
    return outside.host_ms + sum(now[key].count * time.host_ms for key, time in new.items())
