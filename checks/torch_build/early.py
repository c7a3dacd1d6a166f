"""Importing torch early: what a probe that will need it does while it waits for other probes."""

from __future__ import annotations

import importlib
from pathlib import Path

# Where drivers put their devices: NVIDIA's, AMD's, and Windows' under WSL. Without one, torch will not be needed.
_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")


def import_torch(*more: str) -> None:
    """Import torch, and the modules named, if there is a device file of a GPU. The GPU itself is not touched."""
    devices = Path("/dev")
    if any(next(devices.glob(pattern), None) for pattern in _DEVICES):
        for name in ("torch", *more):
            importlib.import_module(name)
