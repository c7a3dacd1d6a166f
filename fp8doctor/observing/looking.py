"""What is this model made of? Nothing in it is changed, and nothing of it is run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from fp8doctor.observed import Blocks, Conversion, Layer, Model
from fp8doctor.observing.cutting import cut_of, gathered
from fp8doctor.observing.kinds import Kind, is_plain, kind_of

# A subject's answer to how a module was converted; None: by none of its doing.
Describe = Callable[[Any], "Conversion | None"]
EXAMPLES = 3
# FP8's products read their operands in vectors of so many bytes (cuBLASLt's alignment for FP8).
ALIGNMENT_BYTES = 16
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_FLOAT8 = "float8"
# What experts are said to be kept in: integers may be two values of four bits.
_IN_FULL = ("fp8", "16-bit", "32-bit")


def look(model: Any, describers: Iterable[Describe]) -> Model:
    """The model's layers, alike ones together, and what it repeats.

    Args:
        model: a torch.nn.Module.
        describers: the subjects' functions that tell how a module was converted.
    """
    began = time.perf_counter()
    describers = tuple(describers)
    compiled, by_fsdp = compiled_names(model), gathered(model)
    layers: dict[Layer, list[str]] = {}
    for name, module in model.named_modules():
        layer = _layer(module, describers, by_fsdp)
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


def _layer(module: Any, describers: tuple[Describe, ...], by_fsdp: dict[int, Any] | None) -> Layer | None:
    core = module
    while hasattr(core, "base_layer"):
        core = core.base_layer
    kind = kind_of(core)
    if kind is None:
        return None
    weight, k, n = kind.weight, kind.k, kind.n
    cut = cut_of(core, weight, k, n, by_fsdp) if kind.name == "linear" and k and n else None
    kept = innermost(weight) if weight is not None else None
    told = _conversion(module, core, describers)
    kept_dtype = _dtype(kept)
    keeps = told.keeps if told and told.keeps else _format(kept_dtype)
    return Layer(
        class_name=class_name(module),
        kind=kind.name,
        k=cut.k if cut else k,
        n=cut.n if cut else n,
        dtype=_dtype(weight),
        kept_dtype=kept_dtype,
        library=told.library if told else None,
        keeps=keeps if kind.name != "experts" or keeps in _IN_FULL else None,
        multiplies=_multiplies(told, keeps) if kind.name != "experts" else _of_experts(told, kind, keeps),
        scaling=told.scaling if told else None,
        adapter_rank=told.adapter_rank if told else None,
        trains=any(parameter.requires_grad for parameter in module.parameters(recurse=False)),
        device=_device(core, weight),
        offloaded_by=_offloaded_by(module),
        cast_by="diffusers-layerwise" if "layerwise_casting" in _diffusers_hooks(module) else None,
        misaligned=_misaligned(kept) if kept is not None else None,
        implementation=kind.implementation,
        experts=kind.experts,
        ranks=cut.ranks if cut else None,
        cut=cut.along if cut else None,
    )


def _of_experts(told: Conversion | None, kind: Kind, keeps: str | None) -> str | None:
    """Their products are a function of the model's own: what is kept in FP8 may be multiplied in it as well."""
    if told is not None and (told.multiplies or told.keeps):
        return told.multiplies
    return keeps if keeps in ("16-bit", "32-bit") and is_plain(kind.weight) else None


def _multiplies(told: Conversion | None, keeps: str | None) -> str | None:
    if told is not None and (told.multiplies or told.keeps):
        return told.multiplies or "16-bit"
    # torch has no product of plain FP8 tensors without scales: whoever calls it casts first.
    return "16-bit" if keeps == "fp8" else keeps


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


def _device(module: Any, weight: Any) -> str | None:
    of = next(module.parameters(), None) if weight is None else weight
    return str(of.device) if of is not None else None


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
