"""The configurations of a layer that trains: how each is built, and what its three products are made of.

Runs in the child; torch comes in as an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """One configuration: torchao's recipe (None: BF16), and the number format of each of its three products.

    A format is an entry of FORMAT_ERRORS. Sources: Float8LinearConfig.from_recipe_name in torchao 0.17.0
    (float8/config.py). tensorwise casts the gradient of the output to e5m2, both row-wise ones cast it to e4m3, and
    rowwise_with_gw_hp leaves the product that gives the weight's gradient in 16 bits.
    """

    config: str
    torchao: str | None
    output: str
    input_grad: str
    weight_grad: str
    compiled: bool = False

    @property
    def in_fp8(self) -> int:
        """How many of the three products are FP8 products."""
        return sum(name in FP8 for name in (self.output, self.input_grad, self.weight_grad))

    def wants_16(self, k: int, n: int, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes that must be multiples of 16: each FP8 product's second and third dimension (ScaledBlas.cpp).

        Tokens are among them where the weight's gradient, which adds up over them, is an FP8 product.
        """
        if not self.in_fp8:
            return ()
        return (k, n, *tokens) if self.weight_grad in FP8 else (k, n)


FP8 = ("e4m3", "e5m2-e4m3")
_EAGER = (
    Recipe("torch-bf16", None, "bf16-output", "bf16-output", "bf16-output"),
    Recipe("torchao-fp8train-tensorwise", "tensorwise", "e4m3", "e5m2-e4m3", "e5m2-e4m3"),
    Recipe("torchao-fp8train-rowwise", "rowwise", "e4m3", "e4m3", "e4m3"),
    Recipe("torchao-fp8train-rowwise-gw-hp", "rowwise_with_gw_hp", "e4m3", "e4m3", "bf16-output"),
)
# The most telling first, each followed by its compiled form.
RECIPES = tuple(
    recipe for eager in _EAGER for recipe in (eager, replace(eager, config=f"{eager.config}+compile", compiled=True))
)


def named(config: str | None) -> Recipe | None:
    """The recipe behind a slug, None for one that is not among them."""
    return next((recipe for recipe in RECIPES if recipe.config == config), None)


def build(torch: Any, recipe: Recipe, weight: Any) -> tuple[Any, Any]:
    """A module from (M x K) to (M x N) and its weight (N x K), a leaf that wants its gradient; not compiled.

    Raises:
        RuntimeError: if torchao left the layer as it was.
        Exception: what torchao raises where it does not know the recipe.
    """
    n, k = weight.shape
    linear = torch.nn.Linear(k, n, bias=False, device=weight.device, dtype=weight.dtype)
    linear.weight = torch.nn.Parameter(weight.clone())
    model = torch.nn.Sequential(linear)
    if recipe.torchao is not None:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training

        # In a Sequential: a layer inside a model is exchanged in its place.
        convert_to_float8_training(model, config=Float8LinearConfig.from_recipe_name(recipe.torchao))
        if type(model[0]) is torch.nn.Linear:
            raise RuntimeError("torchao left the layer as it was")
    return model, model[0].weight


def step(torch: Any, module: Any, x: Any, weight: Any, grad: Any) -> tuple[Any, Any, Any]:
    """Forward and backward once: the output, the input's gradient and the weight's. `grad` is the output's gradient."""
    output = module(x)
    input_grad, weight_grad = torch.autograd.grad(output, (x, weight), grad)
    return output, input_grad, weight_grad
