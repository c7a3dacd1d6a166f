"""What does the person mean by "package.module:factory"?

Runs in the child; torch comes in as an argument.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LARGEST = 1 << 32


class NoModelError(Exception):
    """No model comes of what was named, and why."""


@dataclass(frozen=True)
class Named:
    """A model, and what it is called with, or a step of the person's own."""

    model: Any
    inputs: Any = None
    step: Callable[[], Any] | None = None


def made(torch: Any, name: str, inputs: tuple[str, ...], folder: str | None, device: Any) -> Named:
    """Import the module and call the factory.

    Args:
        torch: the module.
        name: "package.module:factory"; the factory returns a model, or (model, inputs), or (model, inputs, step).
        inputs: tensors as "SHAPE:dtype"; none: the factory's own.
        folder: is looked for modules in, too.
        device: where tensors for `inputs` are made.

    Raises:
        NoModelError: if there is no such factory, it raises, or it returns no model.
    """
    module_name, _, factory_name = name.partition(":")
    if folder is not None and folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
        for part in factory_name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise NoModelError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    try:
        result = found() if not isinstance(found, torch.nn.Module) else found
    except Exception as error:
        raise NoModelError(f"{name} raised {type(error).__name__}: {error}") from error
    given = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    if not given or not isinstance(given[0], torch.nn.Module) or len(given) > 3:
        kind = type(given[0] if given else result).__name__
        raise NoModelError(f"{name} returned a {kind}; it must return a torch.nn.Module, or (model, inputs)")
    if inputs:
        default = _default_type(torch, given[0])
        return Named(given[0], tuple(tensor(torch, text, device, default) for text in inputs))
    return Named(*given)


def _default_type(torch: Any, model: Any) -> str:
    """What a model is most likely called with: token numbers if it begins with an embedding, else its own type."""
    first = next((m for m in model.modules() if next(m.parameters(recurse=False), None) is not None), None)
    if isinstance(first, torch.nn.Embedding):
        return "int64"
    wide = (p.dtype for p in model.parameters() if p.dtype in (torch.float32, torch.float16, torch.bfloat16))
    return str(next(wide, torch.bfloat16)).removeprefix("torch.")


def tensor(torch: Any, text: str, device: Any, default: str = "bfloat16") -> Any:
    """A tensor of "SHAPE:dtype" ("1x4096x3072:bfloat16"): random numbers, or of whole numbers small ones.

    Without a dtype it is `default`.

    Raises:
        NoModelError: if the text is none, or the tensor would be larger than any memory.
    """
    found = re.fullmatch(r"(\d{1,10}(?:x\d{1,10})*)(?::(\w+))?", text)
    dtype = getattr(torch, found[2] or default, None) if found else None
    if found is None or not isinstance(dtype, torch.dtype):
        raise NoModelError(f"{text!r} is no SHAPE:dtype, such as 1x4096x3072:bfloat16")
    shape = [int(size) for size in found[1].split("x")]
    count = 1
    for size in shape:
        count *= size
    if count > LARGEST:
        raise NoModelError(f"{text} is larger than any GPU's memory")
    if dtype.is_floating_point:
        return torch.randn(shape, device=device).to(dtype)
    return torch.randint(0, 2 if dtype is torch.bool else 100, shape, device=device).to(dtype)
