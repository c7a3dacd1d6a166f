"""How long does a block take, on the device and on the host, when it is called again and again?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

from fp8doctor.checks.model.trying.blocks import IN_TURN, Block
from fp8doctor.checks.model.trying.comparing import first_tensor, output_of
from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.stepping import Meter
from fp8doctor.model import Estimate

# Work of this length is timed, and as much before it: a power limit acts over a tenth of a second, and a GPU that was
# idle runs faster than it does in a step.
TIMED_S, WARM_S = 0.8, 0.3
FEWEST, MOST = 5, 400
# A host that needs more than this part of a loop's time may set its pace.
HOST_IS_AHEAD = 0.8
# Calls of which the device's part is timed by itself.
ALONE = 20


@dataclass(frozen=True)
class BlockTime:
    """Milliseconds of one block: of the device, until the host has asked for one, and from one call's end to the next.

    Where the host is ahead, the device's time is that between the ends of calls, under the power that a step draws;
    else it is timed with all asked for beforehand.
    """

    device_ms: Estimate
    host_ms: float
    loop_ms: Estimate


def time_blocks(meter: Meter, blocks: Sequence[Block], modules: Mapping[str, Sequence[Any]]) -> dict[str, BlockTime]:
    """The times of each kind of block.

    Args:
        meter: the device's clock.
        blocks: kinds of blocks.
        modules: for each kind's key what is called in its place; the first few take turns.
    """
    return {block.key: _time(meter, [caller(block, one) for one in modules[block.key][:IN_TURN]]) for block in blocks}


def _time(meter: Meter, calls: Sequence[Callable[[], Any]]) -> BlockTime:
    def in_turn() -> None:
        for call in calls:
            call()

    again = min(meter.first(in_turn) for _ in range(3))
    for _ in range(_fitting(WARM_S, again)):
        in_turn()
    times = meter.steps_ms(in_turn, _fitting(TIMED_S, again))
    host = sorted(meter.host_ms(in_turn))
    host_ms = host[len(host) // 2] / len(calls)
    loop = estimate([ms / len(calls) for ms in times], digits=4)
    device = loop
    if host_ms > HOST_IS_AHEAD * loop.median:
        one_after_the_other = cycle(calls)
        device = estimate(meter.device_alone_ms(lambda: next(one_after_the_other)(), ALONE, host_ms), digits=4)
    return BlockTime(device, round(host_ms, 4), loop)


def _fitting(seconds: float, again_s: float) -> int:
    return max(FEWEST, min(MOST, int(seconds / max(again_s, 1e-6))))


def caller(block: Block, module: Any) -> Callable[[], Any]:
    """A call of a module as the block is called; of one that trains, forward and backward."""
    if not block.module.training:
        return lambda: output_of(block, module)

    import torch
    import torch.utils.checkpoint

    called: Callable[[Any], Any] = block.call
    if block.again_in_backward:
        called = partial(torch.utils.checkpoint.checkpoint, block.call, use_reentrant=False)
    gradient = torch.randn_like(output_of(block, module))

    def forward_and_backward() -> None:
        before = [(tensor, tensor.grad) for tensor in (*module.parameters(), *block.tensors())]
        for tensor, _ in before:
            tensor.grad = None
        with torch.enable_grad():
            first_tensor(called(module)).backward(gradient)
        for tensor, grad in before:
            tensor.grad = grad

    return forward_and_backward
