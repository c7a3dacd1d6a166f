"""Other modules in the place of a model's blocks, for a moment; and what a step takes without any block.

torch is imported inside: this runs where the model is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fp8doctor.checks.model.trying.block_times import BlockTime
from fp8doctor.checks.model.trying.blocks import Block
from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.stepping import Meter

STEPS, WARM_STEPS = 20, 3
# Steps in which optimizers are timed.
OPTIMIZER_STEPS = 3
# Where torch.nn.Module keeps what it is made of.
_MADE_OF = ("_parameters", "_buffers", "_modules")
# What Module.__call__ hands a call over to, where it is set. Set as any attribute, a module there would become a child.
_HANDED_TO = "_compiled_call_impl"


@contextlib.contextmanager
def in_their_place(model: Any, replacements: Mapping[Any, Any]) -> Iterator[None]:
    """Other modules in the place of some of a model's; of the model itself, its calls go to the other one."""
    put: list[tuple[Any, str, Any]] = []
    for parent in list(model.modules()):
        if hasattr(parent, "_orig_mod"):
            continue  # a wrapper of torch.compile is replaced as a whole
        for name, child in list(parent._modules.items()):
            new = replacements.get(getattr(child, "_orig_mod", child))
            if new is not None:
                put.append((parent, name, child))
                parent._modules[name] = new
    itself = replacements.get(model)
    kept = {name: vars(model)[name] for name in (_HANDED_TO,) if name in vars(model)}
    try:
        if itself is not None:
            vars(model)[_HANDED_TO] = itself
        yield
    finally:
        if itself is not None:
            vars(model).pop(_HANDED_TO)
            vars(model).update(kept)
        for parent, name, child in put:
            parent._modules[name] = child


def outside(meter: Meter, model: Any, blocks: Sequence[Block], step: Callable[[], Any]) -> BlockTime:
    """What a step takes outside of its blocks, of the device alone and of the host: each block gives an earlier output.

    A backward hands its gradient on from each block's output to its first input. Optimizers rest meanwhile, so that no
    parameter is changed by such a step; what they take is timed in steps as they are, and added.
    """
    optimizers, device_ms, host_ms = _optimizing(meter, step) if model.training else ([], 0.0, 0.0)
    replacements = {member: _silent(block, member) for block in blocks for member in block.alike}
    with _resting(optimizers), in_their_place(model, replacements):
        for _ in range(WARM_STEPS):
            step()
        host = sorted(meter.host_ms(step))
        asked_ms = host[len(host) // 2]
        times = [ms + device_ms for ms in meter.device_alone_ms(step, STEPS, asked_ms)]
    found = estimate(times, digits=4)
    return BlockTime(found, round(asked_ms + host_ms, 4), found)


def _optimizing(meter: Meter, step: Callable[[], Any]) -> tuple[list[Any], float, float]:
    """The optimizers that a step uses, and what their steps take of the device and of the host, in milliseconds."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    optimizers: list[Any] = []
    begun: list[tuple[float, Any]] = []
    spent: list[tuple[float, Any, Any]] = []

    def mark() -> Any:
        if not meter.on_gpu:
            return None
        with torch.cuda.device(meter.device):
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event

    def before(optimizer: Any, *_: Any) -> None:
        if not any(optimizer is one for one in optimizers):
            optimizers.append(optimizer)
        begun.append((time.perf_counter(), mark()))

    def after(*_: Any) -> None:
        began, begin = begun.pop()
        spent.append((1e3 * (time.perf_counter() - began), begin, mark()))

    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    try:
        for _ in range(OPTIMIZER_STEPS):
            step()
    finally:
        for handle in handles:
            handle.remove()
    meter.wait()
    host_ms = sum(ms for ms, _, _ in spent) / OPTIMIZER_STEPS
    device_ms = sum(begin.elapsed_time(end) if begin is not None else ms for ms, begin, end in spent) / OPTIMIZER_STEPS
    return optimizers, device_ms, host_ms


@contextlib.contextmanager
def _resting(optimizers: Sequence[Any]) -> Iterator[None]:
    """Optimizers whose steps do nothing; afterwards they do as before."""
    kept = [(optimizer, vars(optimizer).get("step")) for optimizer in optimizers]
    for optimizer in optimizers:
        vars(optimizer)["step"] = lambda *_, **__: None
    try:
        yield
    finally:
        for optimizer, own in kept:
            vars(optimizer).pop("step")
            if own is not None:
                vars(optimizer)["step"] = own


def _silent(block: Block, member: Any) -> Any:
    """A module that does nothing but return what the block did."""
    import torch
    from torch.utils import _pytree

    parameters = [p for p in member.parameters() if p.requires_grad] if block.module.training else []

    class HandOn(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, output: Any, before: Any) -> Any:
            ctx.shape = before.shape
            return output.view_as(output)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return None, gradient if gradient.shape == ctx.shape else gradient.new_zeros(ctx.shape)

    class Silent(torch.nn.Module):  # type: ignore[misc]
        def forward(self, *arguments: Any, **keywords: Any) -> Any:
            leaves = _pytree.tree_leaves((arguments, keywords))
            before = next((leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad), None)
            if before is None and parameters:
                before = torch.zeros((), device=parameters[0].device, requires_grad=True)
            if before is None:
                return block.output
            return _pytree.tree_map_only(torch.Tensor, lambda t: HandOn.apply(t, before), block.output)

    silent = Silent().train(member.training)
    # What a model may ask its blocks for beside calling them, and a step for their parameters.
    for name, value in vars(member).items():
        if name in _MADE_OF or (not name.startswith("_") and name not in vars(silent)):
            vars(silent)[name] = value
    return silent
