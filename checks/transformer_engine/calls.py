"""How is each configuration of te.Linear called, in the words of the release that is installed?

Runs in the child; torch and Transformer Engine come in as arguments. The names are those of 2.9 to 2.20.2, or of 1.13
to 2.8 (transformer_engine/pytorch/__init__.py, quantization.py, fp8.py and graph.py of those releases).
"""

from __future__ import annotations

import contextlib
import gc
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fp8doctor.checks.transformer_engine.configurations import BF16, Configuration, scaling_of
from fp8doctor.checks.transformer_engine.times import TRAINING
from fp8doctor.measuring.timer import Call

Context = Callable[[], contextlib.AbstractContextManager[Any]]
# DelayedScaling takes its scales from earlier calls.
SETTLING_CALLS = 3


@dataclass
class Engine:
    """transformer_engine.pytorch (`te`) and transformer_engine.common.recipe (`recipes`), whatever the release."""

    te: Any
    recipes: Any

    def recipe(self, name: str) -> Any:
        """A recipe of the class `name`, with its defaults."""
        return getattr(self.recipes, name)()

    def default_recipe(self) -> str | None:
        """The class of the recipe that is taken where none is named; None if this release does not say."""
        ask = getattr(self.te, "get_default_recipe", None)
        if ask is None:
            ask = getattr(getattr(self.te, "fp8", None), "get_default_fp8_recipe", None)
        try:
            return None if ask is None else type(ask()).__name__
        except Exception:  # an answer less: its own words are none of ours
            return None

    def autocast(self, recipe: Any) -> contextlib.AbstractContextManager[Any]:
        """Within it, layers multiply as `recipe` says."""
        if hasattr(self.te, "autocast"):
            context: contextlib.AbstractContextManager[Any] = self.te.autocast(enabled=True, recipe=recipe)
        else:
            context = self.te.fp8_autocast(enabled=True, fp8_recipe=recipe)
        return context

    def stored_weights(self, recipe: Any) -> contextlib.AbstractContextManager[Any]:
        """Within it, new layers keep their weight in FP8 alone."""
        init = getattr(self.te, "quantized_model_init", None) or self.te.fp8_model_init
        named = {"recipe": recipe} if "recipe" in inspect.signature(init).parameters else {}
        context: contextlib.AbstractContextManager[Any] = init(enabled=True, **named)
        return context

    def linear(self, torch: Any, weight: Any) -> Any:
        """te.Linear without bias that holds a copy of `weight` (N x K, BF16)."""

        def copy(parameter: Any) -> None:
            with torch.no_grad():
                parameter.copy_(weight)

        n, k = weight.shape
        return self.te.Linear(k, n, bias=False, params_dtype=weight.dtype, device=weight.device, init_method=copy)

    def graphed(self, module: Any, x: Any, recipe: Any | None) -> Any:
        """The module with its forward and backward as CUDA graphs; `recipe` None: in BF16.

        A capture that fails leaves the class of the module patched and Transformer Engine waiting for the end of the
        capture (make_graphed_callables in graph.py has no `finally`): every layer after it would run in BF16.
        """
        make = self.te.make_graphed_callables
        new = "enabled" in inspect.signature(make).parameters
        on, of = ("enabled", "recipe") if new else ("fp8_enabled", "fp8_recipe")
        named = {on: recipe is not None, **({} if recipe is None else {of: recipe})}
        kind, own_call = type(module), vars(type(module)).get("__call__")
        try:
            with _without_collecting():
                return make(module, (x,), **named)
        except BaseException:
            if own_call is not None:
                kind.__call__ = own_call
            elif "__call__" in vars(kind):
                del kind.__call__
            if (ended := getattr(getattr(self.te, "graph", None), "set_capture_end", None)) is not None:
                ended()
            raise

    def forget(self) -> None:
        """Let go of the scales of all layers so far: every autocast with DelayedScaling updates all that it knows."""
        state = getattr(self.te, "quantization", None) or getattr(self.te, "fp8", None)
        if (manager := getattr(state, "FP8GlobalStateManager", None)) is not None:
            manager.reset()


@dataclass
class Built:
    """A configuration that can be called: `call` returns the output, (M x N) in BF16."""

    call: Call
    # The leaves whose gradients the call writes, input and weight; none where it has no backward.
    leaves: tuple[Any, ...] = ()


@dataclass
class LayerCalls:
    """The calls of one shape: `x` is (M x K) and needs a gradient, `weight` (N x K), `grad` (M x N), all in BF16.

    Gradients are set to None before each call, as `zero_grad(set_to_none=True)`, PyTorch's default, does before each
    step: the backward writes them and adds to none. The gradient that comes in is random and always the same.
    """

    torch: Any
    engine: Engine
    x: Any
    weight: Any
    grad: Any
    _modules: dict[str, Any] = field(default_factory=dict)
    _recipes: dict[str, Any] = field(default_factory=dict)

    def build(self, way: Configuration) -> Built:
        """Make the layer, bring the scales of its recipe to rest, and capture its graph if it is one.

        Raises:
            Exception: whatever Transformer Engine says to it.
        """
        scaling = scaling_of(way.config)
        recipe = self._recipe(scaling.recipe) if scaling else None
        context = self._context(recipe)
        if way.passes == TRAINING:
            return self._training(way, recipe, context)
        module = self._stored(way.base, recipe) if way.with_stored_weight else self._module(way.base, recipe)
        flag: dict[str, bool] = {}
        if way.with_cached_weight:
            self._cache(module, context)
            flag = {"is_first_microbatch": False}
        # A leaf that needs no gradient: what inference is given.
        x = self.x.detach()

        def forward() -> Any:
            with context():
                return module(x, **flag)

        return Built(self._captured(forward)) if way.graphed else Built(forward)

    def _training(self, way: Configuration, recipe: Any, context: Context) -> Built:
        x, grad, flag = self.x, self.grad, dict[str, bool]()
        if not way.graphed:
            module = self._module(way.base, recipe)
        else:
            # A module of its own: the graph takes the place of its forward. And an input of its own: what gathers the
            # gradient of a leaf belongs to the stream that used the leaf first, and capturing takes another stream.
            module, x = self._new(way.base), self.x.detach().clone().requires_grad_(True)
            if way.base == BF16:
                with _without_collecting():
                    module = self.torch.cuda.make_graphed_callables(module, (x,))
            else:
                module = self.engine.graphed(module, x, recipe)
        if way.with_cached_weight:
            self._cache(module, context)
            flag["is_first_microbatch"] = False
        leaves = (x, module.weight)

        def step() -> Any:
            for leaf in leaves:
                leaf.grad = None
            with context():
                y = module(x, **flag)
            y.backward(grad)
            return y

        return Built(step, leaves)

    def _recipe(self, name: str) -> Any:
        if name not in self._recipes:
            self._recipes[name] = self.engine.recipe(name)
        return self._recipes[name]

    def _context(self, recipe: Any) -> Context:
        return contextlib.nullcontext if recipe is None else lambda: self.engine.autocast(recipe)

    def _new(self, base: str) -> Any:
        if base != BF16:
            return self.engine.linear(self.torch, self.weight)
        n, k = self.weight.shape
        module = self.torch.nn.Linear(k, n, bias=False, device=self.weight.device, dtype=self.weight.dtype)
        with self.torch.no_grad():
            module.weight.copy_(self.weight)
        return module

    def _module(self, base: str, recipe: Any) -> Any:
        """One module a recipe, for all of its eager calls: changing the recipe of a module makes all its state anew."""
        if base not in self._modules:
            module = self._new(base)
            self._settle(module, recipe)
            self._modules[base] = module
        return self._modules[base]

    def _stored(self, base: str, recipe: Any) -> Any:
        """A module whose weight is FP8 alone, without the transposed copy that only a backward reads."""
        name = f"{base}, stored"
        if name not in self._modules:
            with self.torch.no_grad(), self.engine.stored_weights(recipe):
                self._modules[name] = self._new(base)
        return self._modules[name]

    def _settle(self, module: Any, recipe: Any) -> None:
        """Give DelayedScaling calls to take its scales from, with gradients: without them autocast updates none."""
        context = self._context(recipe)
        for _ in range(SETTLING_CALLS if type(recipe).__name__ == "DelayedScaling" else 0):
            with self.torch.enable_grad(), context():
                module(self.x.detach())

    def _cache(self, module: Any, context: Context) -> None:
        """Have the weight cast and kept. With gradients enabled, so that what the backward reads is kept as well."""
        with self.torch.enable_grad(), context():
            module(self.x, is_first_microbatch=True)

    def _captured(self, forward: Call) -> Call:
        """The call replayed as a CUDA graph, with its input in place.

        Without gradients Transformer Engine updates no state when autocast ends, so that plain capturing is right
        (autocast_exit in quantization.py 2.20.2; its tests capture forwards so: tests/pytorch/nvfp4 in its repository).
        """
        graph = self.torch.cuda.CUDAGraph()
        with _without_collecting():
            forward()
            with self.torch.cuda.graph(graph):
                output = forward()

        def replay() -> Any:
            graph.replay()
            return output

        return replay


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """No garbage is collected meanwhile: freeing a graph while another is captured is an error (pytorch#161037)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
