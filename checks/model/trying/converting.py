"""A copy of a block in plain 16 bits: dequantised, with LoRAs merged, without hooks.

torch is imported inside: this runs where the model is.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from types import FunctionType
from typing import Any

from fp8doctor.checks.ladder.conversions import RefusedError
from fp8doctor.checks.model.trying.blocks import Block
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS, relative_error

# What other libraries hang on a module; a copy is called without it.
_HUNG = ("forward", "_hf_hook", "_old_forward", "_diffusers_hook")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Layers with a float8 weight whose scales lie beside it.
_SCALES = ("weight_scale", "weight_scale_inv", "scale_weight", "scale_b")


def in_16_bits(block: Block, module: Any, dtype: Any, device: Any, *, with_adapters: bool = False) -> Any:
    """A copy of one of a kind of blocks with plain linear layers in `dtype`, with its LoRAs merged or beside them.

    What a block mostly in `dtype` keeps in another type on purpose (a norm, a router, a buffer of positions) stays so;
    of a block mostly in another type all is cast, as `model.to(dtype)` does.

    Raises:
        RefusedError: if weights are elsewhere, or in a form that cannot be turned back.
    """
    import torch

    if any(p.is_meta for p in module.parameters()):
        raise RefusedError(f"the weights of {block.name or 'the model'} are not on the GPU (they are offloaded)")
    mostly = most_common_type(module)
    copied = _without_what_hangs_on_it(module)
    for name, layer in list(copied.named_modules()):
        if not isinstance(getattr(layer, "in_features", None), int) or ".lora_" in name or "base_layer" in name:
            continue
        plain_already = type(layer) is torch.nn.Linear and type(layer.weight.data) is torch.Tensor
        if mostly in (None, dtype) and plain_already and layer.weight.element_size() > 1:
            continue
        beside = with_adapters and hasattr(layer, "base_layer")
        plain = torch.nn.Linear(layer.in_features, layer.out_features, _bias(layer) is not None, device, dtype)
        with torch.no_grad():
            plain.weight.copy_(_weight(layer, dtype, trains=module.training, merged=not beside))
            if (bias := _bias(layer)) is not None:
                plain.bias.copy_(bias)
        plain.requires_grad_(any(p.requires_grad for p in layer.parameters()))
        if beside:
            layer.base_layer = plain
            continue
        if name == "":
            return plain.train(module.training)
        parent, _, last = name.rpartition(".")
        setattr(copied.get_submodule(parent), last, plain)
    return _cast(copied, mostly, dtype).to(device=device).train(module.training)


def most_common_type(module: Any) -> Any:
    """The type of 16 or 32 bits in which most of a module's parameters are; None if it has none such."""
    weights: Counter[Any] = Counter()
    for parameter in module.parameters():
        if parameter.is_floating_point() and parameter.element_size() > 1:
            weights[parameter.dtype] += parameter.numel()
    return weights.most_common(1)[0][0] if weights else None


def _cast(copied: Any, mostly: Any, dtype: Any) -> Any:
    """Parameters in 8 bits, adapters, and all of the type that most are in, cast to `dtype`."""
    if mostly not in (None, dtype):
        return copied.to(dtype=dtype)
    for name, parameter in copied.named_parameters():
        if parameter.is_floating_point() and (parameter.element_size() == 1 or ".lora_" in name):
            parameter.data = parameter.data.to(dtype)
    return copied


def with_code_of_its_own(modules: list[Any]) -> None:
    """Let copies of one class have a forward of their own to be compiled.

    Dynamo keeps what it compiled with the code, a handful of versions each: the model's own forward would fill up.
    """
    kind = type(modules[0])
    forward = kind.forward
    if not isinstance(forward, FunctionType):
        return
    code = forward.__code__.replace(co_name=f"{forward.__code__.co_name}_tried")
    own = FunctionType(code, forward.__globals__, forward.__name__, forward.__defaults__, forward.__closure__)
    own.__kwdefaults__ = forward.__kwdefaults__
    names = {"forward": own, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    alike = type(kind.__name__, (kind,), names)
    for module in modules:
        if type(module) is kind:
            module.__class__ = alike


def _without_what_hangs_on_it(module: Any) -> Any:
    """A copy, but not of hooks and their like: what they are bound to would be copied with them."""
    hung: list[Any] = []
    memo: dict[int, Any] = {}
    for part in module.modules():
        memo |= {id(vars(part)[name]): OrderedDict() for name in _HOOKS if vars(part).get(name)}
        hung += [vars(part)[name] for name in _HUNG if name in vars(part)]
    memo |= {id(one): one for one in hung}
    copied = copy.deepcopy(module, memo)
    for part in copied.modules():
        for name in _HUNG:
            vars(part).pop(name, None)
        part._compiled_call_impl = None
    return copied


def _bias(layer: Any) -> Any:
    core = getattr(layer, "base_layer", layer)
    bias = getattr(core, "bias", None)
    return bias if bias is not None and bias.numel() else None


def _weight(layer: Any, dtype: Any, *, trains: bool, merged: bool) -> Any:
    """The weight of a layer as a plain tensor, with its LoRA if it is to be merged."""
    core = getattr(layer, "base_layer", layer)
    plain = _dequantised(core).to(dtype)
    if merged and core is not layer and not getattr(layer, "merged", False):
        if trains and any(p.requires_grad for p in layer.parameters()):
            raise RefusedError("its LoRA trains beside it, and merged it would not")
        for adapter in layer.active_adapters:
            plain = plain + layer.get_delta_weight(adapter).to(dtype)
    return plain


def _dequantised(layer: Any) -> Any:
    """A layer's weight as a tensor whose values are what it multiplies by; of a class of one's own if it does no more.

    Raises:
        RefusedError: for layers that do more than multiply, or whose weights this does not know how to turn back.
    """
    import torch

    kind = type(layer)
    called = f"{kind.__module__.partition('.')[0]}'s {kind.__name__}"
    engine = kind.__module__.startswith("transformer_engine") and kind.__name__ == "Linear"
    if not engine and not (isinstance(layer, torch.nn.Linear) and _multiplies_alone(layer)):
        raise RefusedError(f"{called} has no plain counterpart that a copy could have in its place")
    weight = layer.weight.data
    if type(weight) in (torch.Tensor, torch.nn.Parameter):
        if weight.is_floating_point() and weight.dim() == 2 and not _has_scales(layer):
            return weight
    elif hasattr(weight, "dequantize"):
        return weight.dequantize()
    raise RefusedError(f"{called} keeps its weights in a form that cannot be turned back here")


def _has_scales(layer: Any) -> bool:
    return any(getattr(layer, name, None) is not None for name in _SCALES)


def _multiplies_alone(layer: Any) -> bool:
    """Whether a layer gives its input times its weight; one that has a forward of its own is called for it."""
    import torch

    kind, weight = type(layer), layer.weight.data
    plain = type(weight) in (torch.Tensor, torch.nn.Parameter) and weight.is_floating_point() and weight.dim() == 2
    plain = plain and not _has_scales(layer)
    if kind.forward is torch.nn.Linear.forward or kind.__module__.startswith("torchao") or not plain:
        return True
    dtype = torch.bfloat16 if weight.element_size() == 1 else weight.dtype
    x = torch.randn(16, layer.in_features, device=weight.device, dtype=dtype)
    bias = None if layer.bias is None else layer.bias.data.to(dtype)
    try:
        with torch.no_grad():
            error = relative_error(layer(x), torch.nn.functional.linear(x, weight.to(dtype), bias))
    except Exception:
        return False
    return error <= ERROR_LIMITS["e4m3"]


def compiled_graphs() -> int:
    """How many graphs Dynamo has compiled in this process."""
    import torch._dynamo.utils as dynamo

    return int(dynamo.counters["stats"]["unique_graphs"])


def linears(module: Any) -> dict[str, tuple[int, int]]:
    """The linear layers of a plain block, without what is beside them: name -> (K, N)."""
    import torch

    return {
        name: (part.in_features, part.out_features)
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear)
    }


def left_alone(module: Any, names: tuple[str, ...]) -> list[str]:
    """Those of some linear layers that are as they were in plain 16 bits, after they were to be converted."""
    import torch

    parts = ((name, module.get_submodule(name)) for name in names)
    return [name for name, part in parts if type(part) is torch.nn.Linear and type(part.weight.data) is torch.Tensor]
