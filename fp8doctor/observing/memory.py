"""What lies on the GPU, by what it is for, and what does a step need on top?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fp8doctor.measuring.stepping import Meter
from fp8doctor.observed import Memory


def gradients_of(model: Any) -> list[Any]:
    """The gradients that a model has now.

    Args:
        model: a torch.nn.Module.
    """
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def of_step(model: Any, step: Callable[[], Any], device: Any, set_aside: Iterable[Any] = ()) -> Memory | None:
    """The memory of one more step of a warm model; None where there is no GPU.

    Args:
        model: a torch.nn.Module, within `as_it_was`: the copies of its buffers that are kept there do not count.
        step: one step, called once.
        device: a torch.device.
        set_aside: gradients that were there before, and are put back later.
    """
    import torch

    return account(model, step, Meter(torch, device), set_aside)


def account(model: Any, step: Callable[[], Any], meter: Meter, set_aside: Iterable[Any] = ()) -> Memory | None:
    """The same by a given meter."""
    if not meter.on_gpu:
        return None
    try:
        meter.wait()
        before = meter.allocated_bytes()
        seen: set[int] = set()
        weights = _bytes(model.parameters(), meter.device, seen)
        buffers = _bytes(model.buffers(), meter.device, seen)
        gradients = _bytes((*gradients_of(model), *set_aside), meter.device, seen)
        meter.forget_peak()
        step()
        meter.wait()
        peak = meter.peak_bytes()
        device_bytes = int(meter.torch.cuda.get_device_properties(meter.device).total_memory)
    except Exception:  # a step that ran before and now does not: then nothing is known of its memory
        return None
    known = None if weights is None or buffers is None or gradients is None else weights + buffers + gradients
    # What is not torch's allocator's own (memory of another library) was counted, and never given out by it.
    other = None if known is None else before - known - _copied(model, meter.device)
    return Memory(
        weights_gb=_gb(weights),
        buffers_gb=_gb(buffers),
        gradients_gb=_gb(gradients),
        other_gb=_gb(other) if other is not None and other >= 0 else None,
        step_gb=_gb(max(peak - before, 0)),
        device_gb=_gb(device_bytes),
    )


def _gb(count: int | None) -> float | None:
    return None if count is None else round(count / 1e9, 4)


def _copied(model: Any, device: Any) -> int:
    """What `as_it_was` copies of the buffers."""
    return sum(b.numel() * b.element_size() for b in model.buffers() if b.device == device)


def _bytes(tensors: Iterable[Any], device: Any, seen: set[int]) -> int | None:
    """What they take on this device; a storage that several share counts once. None: one of them does not say."""
    count = 0
    try:
        for tensor in tensors:
            for inner in _inner(tensor):
                storage = inner.untyped_storage()
                if inner.device == device and storage.data_ptr() not in seen:
                    seen.add(storage.data_ptr())
                    count += int(storage.nbytes())
    except (RuntimeError, NotImplementedError):  # a wrapper whose data is kept where nobody knows
        return None
    return count


def _inner(tensor: Any) -> Iterator[Any]:
    """The tensors that hold the data: of a quantised one its values and its scales.

    torchao's tensors and torch's own wrappers name theirs (__tensor_flatten__); Transformer Engine's keep them as
    attributes, and have no storage of their own.
    """
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None:
        names, _ = flatten()
        parts = [getattr(tensor, name) for name in names]
    elif hasattr(tensor, "__dict__") and not _has_storage(tensor):
        parts = [part for part in vars(tensor).values() if hasattr(part, "untyped_storage")]
    else:
        parts = []
    if not parts:
        yield tensor
    for part in parts:
        yield from _inner(part)


def _has_storage(tensor: Any) -> bool:
    try:
        tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return False
    return True
