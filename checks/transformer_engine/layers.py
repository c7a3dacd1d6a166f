"""Which layers of somebody's model are Transformer Engine's, and in which recipe did they run last?

Sources: transformer_engine/pytorch/module/base.py (TransformerEngineBaseModule: `fp8` is set by each forward,
`fp8_meta["recipe"]` with it, `primary_weights_in_fp8` where the weights lie in FP8), quantization.py (once fp8.py:
FP8GlobalStateManager, what the autocast that is on says).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from fp8doctor.observed import Conversion
from fp8doctor.registry import describes

_LAYERS = ("Linear", "LayerNormLinear", "LayerNormMLP", "GroupedLinear")
_SCALING = {
    "DelayedScaling": "delayed",
    "Float8CurrentScaling": "current",
    "Float8BlockScaling": "block",
    "MXFP8BlockScaling": "mxfp8",
    "NVFP4BlockScaling": "nvfp4",
}


@describes
def by_transformer_engine(module: Any) -> Conversion | None:
    """One of its layers; whether it multiplies in FP8 is known after a forward, by the autocast that was round it."""
    kind = type(module)
    if not kind.__module__.startswith("transformer_engine") or kind.__name__ not in _LAYERS:
        return None
    recipe = type(module.fp8_meta.get("recipe")).__name__
    scaling = _SCALING.get(recipe)
    ran = "fp4" if scaling == "nvfp4" else "fp8"
    return Conversion(
        "transformer-engine",
        "fp8" if getattr(module, "primary_weights_in_fp8", False) else None,
        ran if getattr(module, "fp8", False) else None,
        scaling if getattr(module, "fp8", False) else None,
    )


def autocast_now() -> Callable[[], AbstractContextManager[Any]] | None:
    """What enters the autocast again that is on now; None if none is. The package is not imported for it."""
    engine = sys.modules.get("transformer_engine.pytorch")
    modules = (sys.modules.get(f"transformer_engine.pytorch.{name}") for name in ("quantization", "fp8"))
    manager: Any = next((found for m in modules if (found := getattr(m, "FP8GlobalStateManager", None))), None)
    if engine is None or not getattr(manager, "is_fp8_enabled", bool)():
        return None
    recipe = manager.get_fp8_recipe()
    if hasattr(engine, "autocast"):
        return lambda: engine.autocast(enabled=True, recipe=recipe)
    return lambda: engine.fp8_autocast(enabled=True, fp8_recipe=recipe)
