"""What is this model made of? Nothing in it is changed, and nothing of it is run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from fp8doctor.observed import Blocks, Conversion, Layer, Model

# A subject's answer to how a module was converted; None: by none of its doing.
Describe = Callable[[Any], "Conversion | None"]
EXAMPLES = 3
# FP8's products read their operands in vectors of so many bytes (cuBLASLt's alignment for FP8).
ALIGNMENT_BYTES = 16
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_FLOAT8 = "float8"


def look(model: Any, describers: Iterable[Describe]) -> Model:
    """The model's layers, alike ones together, and what it repeats.

    Args:
        model: a torch.nn.Module.
        describers: the subjects' functions that tell how a module was converted.
    """
    began = time.perf_counter()
    describers = tuple(describers)
    compiled = compiled_names(model)
    layers: dict[Layer, list[str]] = {}
    for name, module in model.named_modules():
        layer = _layer(module, describers)
        if layer is None or _is_inside_of_adapter(name):
            continue
        key = replace(layer, name=alike(own_name(name)), compiled=_is_in(own_name(name), compiled))
        layers.setdefault(key, []).append(own_name(name))
    return Model(
        class_name=class_name(own(model)),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes_by_dtype=_bytes_by_dtype(model),
        parameters_by_device=_by_device(model),
        training=bool(model.training),
        compiled="whole" if "" in compiled else "parts" if compiled else "none",
        checkpointing=any(getattr(module, "gradient_checkpointing", False) is True for module in model.modules()),
        layers=tuple(
            replace(layer, count=len(names), examples=tuple(names[:EXAMPLES])) for layer, names in layers.items()
        ),
        blocks=tuple(_blocks(model, compiled)),
        looking_ms=round(1e3 * (time.perf_counter() - began), 1),
    )


def own(model: Any) -> Any:
    """The model itself, where torch.compile wrapped it."""
    return getattr(model, "_orig_mod", model)


def own_name(name: str) -> str:
    """A module's name without the wrappers of torch.compile."""
    return name.replace("_orig_mod.", "").removesuffix("._orig_mod").removesuffix("_orig_mod")


def alike(name: str) -> str:
    """The name with "*" in the place of numbers: "blocks.3.attn" and "blocks.17.attn" are alike."""
    return _NUMBER.sub("*", name)


def class_name(thing: Any) -> str:
    """ "torch.nn.modules.linear.Linear"."""
    kind = type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


def compiled_names(model: Any) -> tuple[str, ...]:
    """The outermost modules that were handed to torch.compile; "" is the model itself."""
    found: list[str] = []
    for name, module in model.named_modules():
        # `module.compile()` keeps the compiled call on the module; `torch.compile(module)` wraps it.
        handed = getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
        if handed and not any(one == "" or own_name(name).startswith(f"{one}.") for one in found):
            found.append(own_name(name))
    return tuple(found)


def _is_in(name: str, outer: tuple[str, ...]) -> bool:
    """Whether a module is one of these or inside of one; "" is the model itself."""
    return any(one in ("", name) or name.startswith(f"{one}.") for one in outer)


def _is_inside_of_adapter(name: str) -> bool:
    """Whether a module is a part of a layer with a LoRA, which is told as a whole."""
    return ".lora_" in name or name.endswith(".base_layer") or ".base_layer." in name


def _layer(module: Any, describers: tuple[Describe, ...]) -> Layer | None:
    core = getattr(module, "base_layer", module)
    weight = getattr(core, "weight", None)
    kind, k, n = _kind(core, weight)
    if kind is None:
        return None
    kept = innermost(weight) if weight is not None else None
    told = _conversion(module, core, describers)
    kept_dtype = _dtype(kept)
    keeps = told.keeps if told and told.keeps else _format(kept_dtype)
    return Layer(
        class_name=class_name(module),
        kind=kind,
        k=k,
        n=n,
        dtype=_dtype(weight),
        kept_dtype=kept_dtype,
        library=told.library if told else None,
        keeps=keeps,
        multiplies=_multiplies(told, keeps),
        scaling=told.scaling if told else None,
        adapter_rank=told.adapter_rank if told else None,
        trains=any(parameter.requires_grad for parameter in module.parameters(recurse=False)),
        device=str(weight.device) if weight is not None else None,
        offloaded_by=_offloaded_by(module),
        cast_by="diffusers-layerwise" if "layerwise_casting" in _diffusers_hooks(module) else None,
        misaligned=_misaligned(kept),
    )


def _multiplies(told: Conversion | None, keeps: str | None) -> str | None:
    if told is not None and (told.multiplies or told.keeps):
        return told.multiplies or "16-bit"
    # torch has no product of plain FP8 tensors without scales: whoever calls it casts first.
    return "16-bit" if keeps == "fp8" else keeps


def _kind(module: Any, weight: Any) -> tuple[str | None, int | None, int | None]:
    shape = tuple(getattr(weight, "shape", ()))
    name = type(module).__name__
    if hasattr(module, "num_embeddings"):
        return "embedding", None, None
    if hasattr(module, "kernel_size") and hasattr(module, "in_channels"):
        return "convolution", module.in_channels, module.out_channels
    k, n = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(k, int) and isinstance(n, int):
        return "linear", k, n
    if len(shape) == 2 and name.endswith(("Linear", "Conv1D")):
        return "linear", int(shape[1]), int(shape[0])
    return None, None, None


def _conversion(module: Any, core: Any, describers: tuple[Describe, ...]) -> Conversion | None:
    """What the subjects say of it; of a layer with an adapter, of what is below it with the adapter's rank."""
    found: Conversion | None = None
    for one in (core, module) if core is not module else (module,):
        for describe in describers:
            try:
                said = describe(one)
            except Exception:  # a library of another version may keep it elsewhere: then it is not known
                continue
            if said is None:
                continue
            if found is None:
                found = said
            elif said.adapter_rank:
                found = replace(found, adapter_rank=said.adapter_rank)
    return found


def innermost(tensor: Any) -> Any:
    """The tensor that holds the data, inside of quantised ones."""
    for _ in range(8):
        flatten = getattr(tensor, "__tensor_flatten__", None)
        if flatten is None:
            break
        names, _ = flatten()
        inner = next((getattr(tensor, name, None) for name in names), None)
        if inner is None:
            break
        tensor = inner
    return tensor


def _dtype(tensor: Any) -> str | None:
    dtype = getattr(tensor, "dtype", None)
    return str(dtype).removeprefix("torch.") if dtype is not None else None


def _format(dtype: str | None) -> str | None:
    if dtype is None:
        return None
    if dtype.startswith(_FLOAT8):
        return "fp8"
    return {"bfloat16": "16-bit", "float16": "16-bit", "float32": "32-bit", "int8": "int8"}.get(dtype)


def _misaligned(tensor: Any) -> bool | None:
    try:
        return bool(tensor.data_ptr() % ALIGNMENT_BYTES)
    except Exception:  # a tensor on the meta device has no address
        return None


def _diffusers_hooks(module: Any) -> tuple[str, ...]:
    return tuple(getattr(getattr(module, "_diffusers_hook", None), "hooks", ()) or ())


def _offloaded_by(module: Any) -> str | None:
    # accelerate keeps its hook as `_hf_hook` (accelerate/hooks.py), several as a SequentialHook.
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        if getattr(one, "offload", False):
            return "accelerate"
    return "diffusers-group" if any("group_offloading" in name for name in _diffusers_hooks(module)) else None


def _bytes_by_dtype(model: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        inner = innermost(tensor)
        try:
            size = int(inner.numel() * inner.element_size())
        except Exception:
            continue
        found[_dtype(inner) or "?"] = found.get(_dtype(inner) or "?", 0) + size
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _by_device(model: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for parameter in model.parameters():
        device = str(parameter.device)
        found[device] = found.get(device, 0) + parameter.numel()
    return found


def repeated(model: Any) -> Iterator[tuple[str, list[Any]]]:
    """The outermost lists of two and more modules of one class that have parameters: the model's blocks."""
    taken: list[str] = []
    for name, module in model.named_modules():
        if type(module).__name__ not in ("ModuleList", "Sequential") or len(module) < 2:
            continue
        members = [own(member) for member in module]
        if len({type(member) for member in members}) != 1 or any(name.startswith(f"{one}.") for one in taken):
            continue
        if not any(True for _ in members[0].children()) or next(members[0].parameters(), None) is None:
            continue
        taken.append(name)
        yield own_name(name), list(module)


def _blocks(model: Any, compiled: tuple[str, ...]) -> Iterator[Blocks]:
    for name, members in repeated(model):
        yield Blocks(
            name=name,
            class_name=class_name(own(members[0])),
            count=len(members),
            parameters=sum(p.numel() for member in members for p in member.parameters()),
            compiled=sum(_is_in(f"{name}.{i}".removeprefix("."), compiled) for i in range(len(members))),
        )
