"""A small Transformer Engine for the CPU, written to disk as real modules, in words of today or of old.

It casts and multiplies as the real one does, and keeps state where the real one keeps it: scales that come from earlier
calls, a weight that was cast before, a class that is patched while a graph is captured.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fp8doctor.checks.transformer_engine import Recipe, TransformerEngine
from fp8doctor.checks.transformer_engine.calls import Engine
from tests.broken_packages import BrokenSite
from tests.stub_cuda import StubTorch

_RECIPES = """
class _Recipe:
    pass
class DelayedScaling(_Recipe): pass
class Float8CurrentScaling(_Recipe): pass
class Float8BlockScaling(_Recipe): pass
class NVFP4BlockScaling(_Recipe): pass
"""

# Counts what a test asks about, and does what a test tells it to do at a call.
SWITCHES = """
from collections import Counter
counted = Counter()
at_call = None      # called with the layer and the name of the recipe before each forward
fail_capture = None # an exception to raise while a graph is captured
"""

_PYTORCH = """
import torch
from transformer_engine.common import recipe as recipes
from transformer_engine import switches
from . import graph, {quantization}

_now, _storing = [], []


class _Autocast:
    def __init__(self, enabled, recipe):
        self.recipe = recipe if enabled else None

    def __enter__(self):
        _now.append(self.recipe)
        _touched.clear()

    def __exit__(self, *error):
        _now.pop()
        if torch.is_grad_enabled():
            for layer in _touched:
                layer.scales.update(layer.seen)


_touched = []


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layer, x, weight, cast_weight):
        recipe = type(_now[-1]).__name__
        x8 = layer.cast("x", x, torch.float8_e4m3fn, recipe)
        ctx.save_for_backward(x8, cast_weight)
        ctx.layer, ctx.recipe = layer, recipe
        return (x8 @ cast_weight.t()).bfloat16()

    @staticmethod
    def backward(ctx, grad):
        x8, w8 = ctx.saved_tensors
        g8 = ctx.layer.cast("grad", grad, torch.float8_e5m2, ctx.recipe)
        return None, (g8 @ w8).bfloat16(), (g8.t() @ x8).bfloat16(), None


class Linear(torch.nn.Module):
    def __init__(self, in_features, out_features, bias=True, params_dtype=None, device="cuda", init_method=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(out_features, in_features, dtype=params_dtype, device=device))
        self.init_method = init_method or torch.nn.init.normal_
        self.init_method(self.weight)
        self.bias = torch.nn.Parameter(torch.zeros(out_features, dtype=params_dtype, device=device)) if bias else None
        self.scales, self.seen, self.kept = {{}}, {{}}, None
        if _storing:
            self.kept = self.cast("weight", self.weight, torch.float8_e4m3fn, "Float8CurrentScaling")
            self.stored = True
            self.weight = torch.nn.Parameter(self.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)

    def cast(self, name, tensor, dtype, recipe):
        switches.counted[f"cast {{name}}"] += 1
        largest = torch.finfo(dtype).max
        self.seen[name] = scale = largest / tensor.detach().float().abs().max().item()
        if recipe == "DelayedScaling":
            scale = self.scales.get(name, 1.0)
        return (tensor.detach().float() * scale).clamp(-largest, largest).to(dtype).float() / scale

    def forward(self, x, is_first_microbatch=None):
        recipe = _now[-1] if _now else None
        if switches.at_call is not None:
            switches.at_call(self, None if recipe is None else type(recipe).__name__)
        if recipe is None:
            return torch.nn.functional.linear(x, self.weight, self.bias)
        for tensor in (x, self.weight):
            if tensor.numel() // tensor.shape[-1] % 8 or tensor.shape[-1] % 16:
                raise ValueError(
                    "FP8 execution requires the product of all dimensions except the last to be divisible by 8 and the"
                    f" last dimension to be divisible by 16, but got tensor with dims={{list(tensor.shape)}}"
                )
        _touched.append(self)
        kept = getattr(self, "stored", False) or (is_first_microbatch is False and self.kept is not None)
        if not kept:
            cast = self.cast("weight", self.weight, torch.float8_e4m3fn, type(recipe).__name__)
            self.kept = cast if is_first_microbatch is not None else self.kept
        weight = self.kept if kept or is_first_microbatch is not None else cast
        y = _Multiply.apply(self, x, self.weight, weight)
        return y if self.bias is None else y + self.bias


def _make_graphed(module, sample_args, enabled, recipe):
    graph._IS_GRAPH_CAPTURING = True
    kind, own = type(module), type(module).__call__

    def call(self, *args, **kwargs):
        with _Autocast(enabled and self is module, recipe):
            return own(self, *args, **kwargs)

    kind.__call__ = call
    for _ in range(3):
        module(*sample_args)
    if switches.fail_capture is not None:
        raise switches.fail_capture
    kind.__call__ = own
    graph._IS_GRAPH_CAPTURING = False
    switches.counted["graphs"] += 1
    return module
"""

_TODAY = """
from contextlib import contextmanager

def autocast(enabled=True, calibrating=False, recipe=None):
    return _Autocast(enabled, recipe)

@contextmanager
def quantized_model_init(enabled=True, recipe=None):
    _storing.append(recipe)
    yield
    _storing.pop()

def get_default_recipe():
    return recipes.DelayedScaling()

def make_graphed_callables(modules, sample_args, num_warmup_iters=3, enabled=None, recipe=None):
    return _make_graphed(modules, sample_args, enabled, recipe)
"""

_OF_OLD = """
from contextlib import contextmanager

def fp8_autocast(enabled=True, calibrating=False, fp8_recipe=None, fp8_group=None):
    return _Autocast(enabled, fp8_recipe)

@contextmanager
def fp8_model_init(enabled=True):
    _storing.append(True)
    yield
    _storing.pop()

def make_graphed_callables(modules, sample_args, num_warmup_iters=3, fp8_enabled=False, fp8_recipe=None):
    return _make_graphed(modules, sample_args, fp8_enabled, fp8_recipe)
"""

_STATE = """
from transformer_engine import switches
from transformer_engine.common import recipe as recipes
class FP8GlobalStateManager:
    @classmethod
    def reset(cls): switches.counted["resets"] += 1
def get_default_fp8_recipe(): return recipes.DelayedScaling()
"""

_GRAPH = """
_IS_GRAPH_CAPTURING = False
def set_capture_end():
    global _IS_GRAPH_CAPTURING
    _IS_GRAPH_CAPTURING = False
"""


def write(folder: Path, *, old: bool = False) -> BrokenSite:
    """Write the package into `folder`; `old` gives it the names that releases up to 2.8 have."""
    site = BrokenSite(folder)
    state = "fp8" if old else "quantization"
    site.module("transformer_engine.common.recipe", _RECIPES)
    site.module("transformer_engine.switches", SWITCHES)
    site.module(f"transformer_engine.pytorch.{state}", _STATE)
    site.module("transformer_engine.pytorch.graph", _GRAPH)
    site.module("transformer_engine.pytorch", _PYTORCH.format(quantization=state) + (_OF_OLD if old else _TODAY))
    return site


@contextmanager
def imported(folder: Path, *, old: bool = False) -> Iterator[tuple[Engine, Any]]:
    """The package imported here, and its switches; afterwards it is gone."""
    write(folder, old=old)
    sys.path.insert(0, str(folder))
    try:
        te = importlib.import_module("transformer_engine.pytorch")
        recipes = importlib.import_module("transformer_engine.common.recipe")
        yield Engine(te, recipes), importlib.import_module("transformer_engine.switches")
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == "transformer_engine"]:
            del sys.modules[name]


def stub_torch(torch: Any, device_us: float, **settings: Any) -> StubTorch:
    """Torch with a device that takes `device_us` for everything."""
    made = StubTorch(torch, pair_ms=device_us / 1000, **settings)
    made.cuda.get_device_properties = lambda device: SimpleNamespace(L2_cache_size=4096, name="a stub")
    made.cuda.make_graphed_callables = lambda module, sample_args: module
    return made


def seen(*recipes: str) -> TransformerEngine:
    """What the probe of Transformer Engine itself says where these recipes run and are right."""
    right = {"available": True, "forward_ok": True, "finite": True, "relative_error": 0.037}
    found = tuple(Recipe(name, relative_error_limit=0.076, **right) for name in recipes)  # type: ignore[arg-type]
    return TransformerEngine(installed=True, import_ok=True, version="2.20.2", recipes=found)
