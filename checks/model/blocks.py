"""A copy of one of a model's blocks in plain 16 bits, and what the model calls it with.

torch is imported inside: this runs where the model is.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fp8doctor.checks.ladder.conversions import RefusedError
from fp8doctor.observing.looking import own, repeated

# Blocks with weights of their own are timed in turn: a block by itself finds a part of its weights in L2, and is up to
# a tenth faster than in the model (FLUX and Llama 3 on an H200, benchmarks/RESULTS.md).
IN_TURN = 4
# What other libraries hang on a module; a copy is called without it.
_HUNG = ("forward", "_hf_hook", "_old_forward", "_diffusers_hook")


@dataclass
class Block:
    """One kind of block: the first of its list and some like it, how many there are, and what it is called with."""

    name: str
    module: Any
    # The first few, which are called in turn when they are timed.
    alike: list[Any]
    count: int
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def call(self, module: Any) -> Any:
        """The output of a module that is called as this block is."""
        return module(*self.arguments, **self.keywords)


def kinds_of_blocks(model: Any, step: Callable[[], Any]) -> list[Block]:
    """One block of each kind that the model repeats, with the inputs of a step.

    Args:
        model: a torch.nn.Module, which is called by `step` and not compiled as a whole.
        step: one step.
    """
    found: list[Block] = []
    with contextlib.ExitStack() as stack:
        for name, members in repeated(model):
            kinds: dict[Any, list[Any]] = {}
            for member in members:
                kinds.setdefault(_sizes(own(member)), []).append(member)
            for alike in kinds.values():
                stack.enter_context(_noting(name, alike, found))
        step()
    return found


def _sizes(module: Any) -> tuple[Any, ...]:
    return tuple((name, tuple(p.shape)) for name, p in module.named_parameters())


@contextlib.contextmanager
def _noting(name: str, alike: list[Any], found: list[Block]) -> Iterator[None]:
    """Note the first call of a block; compiled, it is called as it is meanwhile: a hook would have it compiled anew."""
    import torch
    from torch.utils import _pytree

    first = alike[0]
    compiled = getattr(first, "_compiled_call_impl", None)

    def note(module: Any, arguments: Any, keywords: Any) -> None:
        if any(block.module is own(first) for block in found):
            return
        kept = _pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), (arguments, keywords))
        several = [own(member) for member in alike[:IN_TURN]]
        found.append(Block(name, own(first), several, len(alike), kept[0], kept[1]))

    if compiled is not None:
        first._compiled_call_impl = None
    handle = first.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
        if compiled is not None:
            first._compiled_call_impl = compiled


def in_16_bits(block: Block, dtype: Any, device: Any) -> Any:
    """A copy of the block with plain linear layers in `dtype`: dequantised, with LoRAs merged, without hooks.

    Raises:
        RefusedError: if weights are elsewhere, or in a form that cannot be turned back.
    """
    import torch

    if any(p.is_meta for p in block.module.parameters()):
        raise RefusedError(f"the weights of {block.name} are not on the GPU (they are offloaded)")
    copied = copy.deepcopy(block.module)
    for module in copied.modules():
        for name in _HUNG:
            vars(module).pop(name, None)
        module._compiled_call_impl = None
    for name, layer in list(copied.named_modules()):
        if not isinstance(getattr(layer, "in_features", None), int) or ".lora_" in name or "base_layer" in name:
            continue
        plain = torch.nn.Linear(layer.in_features, layer.out_features, _bias(layer) is not None, device, dtype)
        with torch.no_grad():
            plain.weight.copy_(_weight(layer, dtype))
            if (bias := _bias(layer)) is not None:
                plain.bias.copy_(bias)
        plain.requires_grad_(any(p.requires_grad for p in layer.parameters()))
        parent, _, last = name.rpartition(".")
        setattr(copied.get_submodule(parent), last, plain)
    return copied.to(device=device, dtype=dtype).train(block.module.training)


def _bias(layer: Any) -> Any:
    core = getattr(layer, "base_layer", layer)
    bias = getattr(core, "bias", None)
    return bias if bias is not None and bias.numel() else None


def _weight(layer: Any, dtype: Any) -> Any:
    """The weight of a layer as a plain tensor, with its LoRA."""
    import torch

    core = getattr(layer, "base_layer", layer)
    weight = core.weight.data
    plain = weight if type(weight) is torch.Tensor else weight.dequantize()
    plain = plain.to(dtype)
    if core is not layer and not getattr(layer, "merged", False):
        for adapter in layer.active_adapters:
            plain = plain + layer.get_delta_weight(adapter).to(dtype)
    return plain
