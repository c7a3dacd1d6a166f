"""Is a converted block right, and which of its layers lose most by it?

torch is imported inside: this runs where the model is.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

from fp8doctor.checks.ladder.comparing import Reference
from fp8doctor.checks.ladder.conversions import RefusedError
from fp8doctor.checks.model.trying.blocks import Block
from fp8doctor.checks.torch_build.numerics import FORMAT_ERRORS, relative_error
from fp8doctor.observed import LayerError


def output_of(block: Block, module: Any) -> Any:
    """The first floating tensor that a module returns when it is called as the block is, without gradients.

    Raises:
        RefusedError: if it returns none.
    """
    import torch

    with torch.no_grad():
        return first_tensor(block.call(module))


def compared_output(block: Block, module: Any) -> Any:
    """What a module adds to its input, in FP32 on the host, with nothing dropped at random.

    A block of a transformer passes its input on: beside it, an error in what it computes would hardly show. Of a block
    without an input of the output's shape it is the output.
    """
    with without_dropout(module):
        output = output_of(block, module).float()
    passed_on = next((t for t in block.tensors() if t.is_floating_point() and t.shape == output.shape), None)
    return (output if passed_on is None else output - passed_on.detach().float()).cpu()


@contextlib.contextmanager
def without_dropout(module: Any) -> Iterator[None]:
    """A module that drops nothing; afterwards it does as before."""
    dropping = dropouts(module)
    for part in dropping:
        part.training = False
    try:
        yield
    finally:
        for part in dropping:
            part.training = True


def dropouts(module: Any) -> list[Any]:
    """The parts of a module that drop values at random, so that two calls differ."""
    import torch

    kinds = (torch.nn.Dropout, torch.nn.Dropout1d, torch.nn.Dropout2d, torch.nn.Dropout3d, torch.nn.AlphaDropout)
    return [part for part in module.modules() if isinstance(part, kinds) and part.training and part.p > 0]


def first_tensor(output: Any) -> Any:
    """The first floating tensor of an output.

    Raises:
        RefusedError: if there is none.
    """
    import torch

    leaves = torch.utils._pytree.tree_leaves(output)
    found = next((leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()), None)
    if found is None:
        raise RefusedError("the block returns no tensor")
    return found


def reference_of(block: Block, plain: Any) -> Reference:
    """What a block gives in BF16, by how much that is off FP32, and the rows that each of its layers is called with."""
    import torch

    rows: dict[str, int] = {}
    handles = [
        part.register_forward_pre_hook(_counting(name, rows))
        for name, part in plain.named_modules()
        if isinstance(part, torch.nn.Linear)
    ]
    try:
        output = compared_output(block, plain)
    finally:
        for handle in handles:
            handle.remove()
    return Reference(output=output, bf16_error=_bf16_error(block, plain, output), rows=rows)


def _counting(name: str, rows: dict[str, int]) -> Callable[[Any, Any], None]:
    def count(module: Any, arguments: Any) -> None:
        shape = getattr(arguments[0], "shape", None) if arguments else None
        if shape:
            rows[name] = int(shape.numel() // (shape[-1] or 1))

    return count


def _bf16_error(block: Block, plain: Any, output: Any) -> float | None:
    import torch

    try:
        wide = copy.deepcopy(plain).float()
        return relative_error(output, compared_output(block.cast(torch.bfloat16, torch.float32), wide))
    except Exception:  # no memory for it, or a type that it insists on
        return None


def layer_errors(block: Block, plain: Any, converted: Any, names: tuple[str, ...]) -> list[LayerError]:
    """How far each converted layer is from BF16, on the input that it has in BF16."""
    found: list[LayerError] = []
    expected = decibels(FORMAT_ERRORS["e4m3"])

    def compare(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            error = relative_error(converted.get_submodule(name)(*arguments), output)
            found.append(LayerError(block.layer_name(name), decibels(error), expected))

        return hook

    handles = [plain.get_submodule(name).register_forward_hook(compare(name)) for name in names]
    try:
        output_of(block, plain)
    finally:
        for handle in handles:
            handle.remove()
    return found


def decibels(error: float) -> float | None:
    """A relative error as a ratio of signal to noise: -20 log10; None without any error, 0 where it is not finite."""
    if error == 0:
        return None
    return round(-20 * math.log10(error), 1) if error < float("inf") else 0.0
