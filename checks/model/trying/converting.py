"""A copy of a block in plain 16 bits: dequantised, with LoRAs merged, without hooks.

torch is imported inside: this runs where the model is.
"""

from __future__ import annotations

import copy
from typing import Any

from fp8doctor.checks.ladder.conversions import RefusedError
from fp8doctor.checks.model.trying.blocks import Block

# What other libraries hang on a module; a copy is called without it.
_HUNG = ("forward", "_hf_hook", "_old_forward", "_diffusers_hook")
# Layers with a float8 weight whose scales lie beside it.
_SCALES = ("weight_scale", "weight_scale_inv", "scale_weight", "scale_b")


def in_16_bits(block: Block, module: Any, dtype: Any, device: Any) -> Any:
    """A copy of one of a kind of blocks with plain linear layers in `dtype`.

    Raises:
        RefusedError: if weights are elsewhere, or in a form that cannot be turned back.
    """
    import torch

    if any(p.is_meta for p in module.parameters()):
        raise RefusedError(f"the weights of {block.name or 'the model'} are not on the GPU (they are offloaded)")
    copied = copy.deepcopy(module)
    for part in copied.modules():
        for name in _HUNG:
            vars(part).pop(name, None)
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
        part._compiled_call_impl = None
    for name, layer in list(copied.named_modules()):
        if not isinstance(getattr(layer, "in_features", None), int) or ".lora_" in name or "base_layer" in name:
            continue
        plain = torch.nn.Linear(layer.in_features, layer.out_features, _bias(layer) is not None, device, dtype)
        with torch.no_grad():
            plain.weight.copy_(_weight(layer, dtype))
            if (bias := _bias(layer)) is not None:
                plain.bias.copy_(bias)
        plain.requires_grad_(any(p.requires_grad for p in layer.parameters()))
        if name == "":
            return plain.train(module.training)
        parent, _, last = name.rpartition(".")
        setattr(copied.get_submodule(parent), last, plain)
    return copied.to(device=device, dtype=dtype).train(module.training)


def _bias(layer: Any) -> Any:
    core = getattr(layer, "base_layer", layer)
    bias = getattr(core, "bias", None)
    return bias if bias is not None and bias.numel() else None


def _weight(layer: Any, dtype: Any) -> Any:
    """The weight of a layer as a plain tensor, with its LoRA."""
    core = getattr(layer, "base_layer", layer)
    plain = _dequantised(core).to(dtype)
    if core is not layer and not getattr(layer, "merged", False):
        for adapter in layer.active_adapters:
            plain = plain + layer.get_delta_weight(adapter).to(dtype)
    return plain


def _dequantised(layer: Any) -> Any:
    """A layer's weight as a tensor whose values are what it multiplies by.

    Raises:
        RefusedError: for layers that do more than multiply, or whose weights this does not know how to turn back.
    """
    import torch

    kind = type(layer)
    called = f"{kind.__module__.partition('.')[0]}'s {kind.__name__}"
    engine = kind.__module__.startswith("transformer_engine") and kind.__name__ == "Linear"
    if not isinstance(layer, torch.nn.Linear) and not engine:
        raise RefusedError(f"{called} has no plain counterpart that a copy could have in its place")
    weight = layer.weight.data
    if type(weight) in (torch.Tensor, torch.nn.Parameter):
        scaled = any(getattr(layer, name, None) is not None for name in _SCALES)
        if weight.is_floating_point() and not scaled and weight.dim() == 2:
            return weight
    elif hasattr(weight, "dequantize"):
        return weight.dequantize()
    raise RefusedError(f"{called} keeps its weights in a form that cannot be turned back here")


def linears(module: Any) -> dict[str, tuple[int, int]]:
    """The linear layers of a plain block: name -> (K, N)."""
    import torch

    return {
        name: (part.in_features, part.out_features)
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear)
    }


def dropping(module: Any) -> bool:
    """Whether a block drops values at random, so that two calls differ."""
    import torch

    return bool(module.training) and any(isinstance(p, torch.nn.Dropout) and p.p > 0 for p in module.modules())
