"""What a block is called with and changes: a cache of keys and values grows with each call.

torch is imported inside: this runs where the model is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

# Objects that are looked at, and values of a tensor that is put back: positions, not keys.
MOST, SMALL = 10_000, 1024


def of_its_own(value: Any) -> Any:
    """A copy of what is neither a tensor nor a part of the model; the thing itself where there can be none."""
    import torch

    if isinstance(value, (torch.nn.Module, type)) or callable(value) or not hasattr(value, "__dict__"):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # it holds a stream, a lock or a part of a graph
        return value


class Remembered:
    """Lists, dicts and objects as they are now, and small tensors: each call of a block finds them so."""

    def __init__(self, roots: Any) -> None:
        self.lists: list[tuple[list[Any], list[Any]]] = []
        self.dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self.tensors: list[tuple[Any, int, Any]] = []
        # What is kept by its identity must not go.
        self.seen: dict[int, Any] = {}
        waiting = [roots]
        while waiting and len(self.seen) < MOST:
            value = waiting.pop()
            if id(value) not in self.seen:
                self.seen[id(value)] = value
                waiting += self._inside(value)

    def _inside(self, value: Any) -> Iterator[Any]:
        """What a value holds, which is noted."""
        import torch

        if isinstance(value, torch.Tensor):
            if value.numel() <= SMALL and not value.is_inference():
                self.tensors.append((value, value._version, value.detach().clone()))
        elif isinstance(value, (tuple, list)):
            if type(value) is list:
                self.lists.append((value, list(value)))
            yield from value
        elif isinstance(value, dict):
            self.dicts.append((value, dict(value)))
            yield from value.values()
        elif not isinstance(value, (torch.nn.Module, type)) and not callable(value) and hasattr(value, "__dict__"):
            yield vars(value)

    def restore(self) -> None:
        """Put all of it back."""
        for one, values in self.lists:
            one[:] = values
        for mapping, items in self.dicts:
            if mapping.keys() != items.keys() or any(mapping[name] is not items[name] for name in items):
                mapping.clear()
                mapping.update(items)
        for index, (tensor, version, values) in enumerate(self.tensors):
            if tensor._version != version:
                tensor.detach().copy_(values)
                self.tensors[index] = (tensor, tensor._version, values)
