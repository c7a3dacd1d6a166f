"""Which cuDNN does a process use that imports Transformer Engine, and how does it keep torch's own?"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
from pathlib import Path

# Where the wheel of cuDNN that torch's wheels depend on puts its libraries.
_WHEEL = "nvidia.cudnn"


def wheel_folder() -> Path | None:
    """The folder of the cuDNN that came with torch's wheel; None if it did not come so (conda, vendors' images)."""
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(_WHEEL)
        for place in (spec.submodule_search_locations if spec else None) or ():
            if any(Path(place, "lib").glob("libcudnn.so.*")):
                return Path(place)
    return None


def keep_torchs_cudnn() -> None:
    """Load all of torch's own cuDNN, so that importing Transformer Engine brings no other.

    Transformer Engine looks for cuDNN in CUDNN_HOME and among the system's libraries first (_load_cuda_library in
    transformer_engine/common/__init__.py 2.20.2), and its core is linked to cuDNN's parts by name. Where the system has
    another cuDNN, torch then calls parts of that one: seen with torch's 9.19 beside a system's 9.14. To be called
    before Transformer Engine is imported.
    """
    folder = wheel_folder()
    if folder is None:
        return
    for path in sorted((folder / "lib").glob("libcudnn*.so.*")):
        with contextlib.suppress(OSError):  # what does not load is told by what needs it
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    os.environ.setdefault("CUDNN_HOME", str(folder))
