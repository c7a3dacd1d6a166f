"""Importing torch early, or not at all: what a probe may do before torch itself was examined."""

from __future__ import annotations

import importlib
from pathlib import Path

# Where drivers put their devices: NVIDIA's, AMD's, and Windows' under WSL. Without one, torch can use no GPU.
_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")


def has_device() -> bool:
    """Whether there is a device file of a GPU."""
    return any(next(Path("/dev").glob(pattern), None) for pattern in _DEVICES)


def import_torch(*more: str) -> None:
    """Import torch, and the modules named, if there is a GPU to use it with. The GPU itself is not touched."""
    if has_device():
        for name in ("torch", *more):
            importlib.import_module(name)
