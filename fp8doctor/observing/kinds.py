"""Which kind of layer is a module: a linear one, a convolution, an attention, experts; and of which size?

Nothing is imported here: classes are known by the module that they are from.
Sources: transformers 5.17, modeling_utils.py (AttentionInterface: a module that attends asks `ALL_ATTENTION_FUNCTIONS`
for what its configuration names, all 415 classes of it in their forward), integrations/moe.py (`is_transposed`),
pytorch_utils.py (Conv1D); diffusers 0.40, models/attention.py (AttentionModuleMixin), models/attention_dispatch.py
(dispatch_attention_fn: a processor's `_attention_backend`, else what is active), models/attention_processor.py; torch
2.13, nn/modules/activation.py; Transformer Engine's attention/dot_product_attention; torchtitan's and torchao's
GroupedExperts.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass
from typing import Any

# What transformers before 4.48 calls its attentions: one class for each implementation, as some of its models have yet.
_OWN_CLASS = (
    (re.compile(r"FlashAttention2$"), "flash_attention_2"),
    (re.compile(r"Sdpa(Self|Cross)?Attention$"), "sdpa"),
)
_INTERFACE = "ALL_ATTENTION_FUNCTIONS"
# The processors of diffusers that multiply, take a softmax and multiply again (get_attention_scores).
_BY_HAND = re.compile(r"^(CustomDiffusion|IPAdapter|Sliced)?Attn(AddedKV)?Processor$")
# Parameters of three dimensions in a module of experts that are no weights.
_NO_WEIGHT = re.compile(r"bias|scale|zero|lora_")
_PLAIN = ("torch.nn.parameter.Parameter", "torch.Tensor", "torch.nn.parameter.Buffer")
_DTENSOR = "DTensor"


@dataclass(frozen=True)
class Kind:
    """What a module is. Its weight is None where it has none of its own."""

    name: str
    k: int | None = None
    n: int | None = None
    weight: Any = None
    implementation: str | None = None
    experts: int | None = None


def kind_of(module: Any) -> Kind | None:
    """What a module is, None if it is nothing that is listed."""
    weight = getattr(module, "weight", None)
    if hasattr(module, "num_embeddings"):
        return Kind("embedding", weight=weight)
    if hasattr(module, "kernel_size") and hasattr(module, "in_channels"):
        return Kind("convolution", module.in_channels, module.out_channels, weight)
    k, n = getattr(module, "in_features", None), getattr(module, "out_features", None)
    shape, name = tuple(getattr(weight, "shape", ())), type(module).__name__
    if isinstance(k, int) and isinstance(n, int):
        several = len(shape) == 3 and "Experts" in name
        return Kind("experts", k, n, weight, experts=int(shape[0])) if several else Kind("linear", k, n, weight)
    if len(shape) == 2 and name.endswith("Conv1D"):
        return Kind("linear", int(shape[0]), int(shape[1]), weight)  # transformers' keeps its weight as (in, out)
    if len(shape) == 2 and name.endswith("Linear"):
        return Kind("linear", int(shape[1]), int(shape[0]), weight)
    return _attention(module) or _experts(module)


def is_plain(tensor: Any) -> bool:
    """Whether a tensor is one of torch's own, which computes in what it is kept in; a DTensor by what is in it."""
    if type(tensor).__name__ == _DTENSOR:
        tensor = getattr(tensor, "_local_tensor", None)
    kind = type(tensor)
    return f"{kind.__module__}.{kind.__qualname__}" in _PLAIN


def _attention(module: Any) -> Kind | None:
    """A module that attends by itself, and not by one that it holds."""
    for named in (_of_transformers, _of_diffusers, _of_others):
        implementation = named(module)
        if implementation is not None:
            return Kind("attention", implementation=implementation or None)
    return None


def _of_transformers(module: Any) -> str | None:
    config: Any = getattr(module, "config", None)
    if not hasattr(config, "_attn_implementation"):
        return None
    forward = inspect.unwrap(type(module).forward)
    if _INTERFACE in getattr(getattr(forward, "__code__", None), "co_names", ()):
        # Without a name the interface hands out the model's own function, which attends by hand.
        return str(config._attn_implementation or "eager")
    if not type(module).__module__.startswith("transformers"):
        return None
    return next((named for pattern, named in _OWN_CLASS if pattern.search(type(module).__name__)), None)


def _of_diffusers(module: Any) -> str | None:
    """The backend's name; "sdpa" where torch chooses; "" where the processor does not tell."""
    ours = (base for base in type(module).__mro__ if base.__module__.startswith("diffusers."))
    if not any(base.__name__ in ("AttentionModuleMixin", "Attention", "MochiAttention") for base in ours):
        return None
    processor = getattr(module, "processor", None)
    if processor is None:
        return None
    if hasattr(processor, "_attention_backend"):
        return _backend(processor._attention_backend)
    name = type(processor).__name__
    if "XFormers" in name:
        return "xformers"
    if "2_0" in name and not re.search("Linear|NPU|XLA", name):
        return "sdpa"
    return "eager" if _BY_HAND.search(name) else ""


def _backend(chosen: Any) -> str:
    if chosen is None:
        dispatch = sys.modules.get("diffusers.models.attention_dispatch")
        chosen = getattr(getattr(dispatch, "_AttentionBackendRegistry", None), "_active_backend", None)
    name = str(getattr(chosen, "value", chosen) or "native")
    return "sdpa" if name == "native" else name


def _of_others(module: Any) -> str | None:
    for base in type(module).__mro__:
        if base.__name__ == "MultiheadAttention" and base.__module__ == "torch.nn.modules.activation":
            return "sdpa"  # where its weights are not asked for; else it multiplies by hand
        if base.__name__ == "DotProductAttention" and base.__module__.startswith("transformer_engine"):
            return "transformer-engine"
    return None


def _experts(module: Any) -> Kind | None:
    """Experts whose weights lie in one tensor: (experts, out, in), or where they say so (experts, in, out)."""
    own = getattr(module, "_parameters", {})
    weights = {
        name: weight
        for name, weight in own.items()
        if weight is not None and weight.dim() == 3 and not _NO_WEIGHT.search(name)
    }
    if not weights or not ("Experts" in type(module).__name__ or {"gate_up_proj", "down_proj"} <= weights.keys()):
        return None
    name, largest = max(weights.items(), key=lambda item: int(item[1].numel()))
    experts, n, k = (int(size) for size in largest.shape)
    if _is_transposed(module, name, k, n):
        n, k = k, n
    # Formats of four bits are packed into integers: how many features those are is not told by the shape.
    known = bool(largest.is_floating_point())
    return Kind("experts", k if known else None, n if known else None, largest, experts=experts)


def _is_transposed(module: Any, name: str, last: int, middle: int) -> bool:
    """Whether experts multiply their weights as they lie; they say so, or it shows in the size of what goes in."""
    if hasattr(module, "is_transposed"):
        return bool(module.is_transposed)
    inputs = getattr(module, "hidden_size", getattr(module, "hidden_dim", None))
    return name == "gate_up_proj" and inputs == middle != last
