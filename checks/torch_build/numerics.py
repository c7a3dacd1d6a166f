"""How wrong is a result, and how wrong may its number format make it?

Imported in children by several subjects: nothing but the standard library at module level.
"""

from __future__ import annotations

import math
from typing import Any

# Relative Frobenius error against FP32 that a format costs by itself: what rounding the operands of a matrix product
# to it does when they are random normal numbers and the product is exact. It hardly depends on the shape.
# e4m3, e4m3-one-operand and bf16-output were measured on an H200 (0.038, 0.027, 0.0017: benchmarks/RESULTS.md). All
# of them are recomputed in FP32 by tests/checks/test_torch_build_numerics.py, which fails if an entry is off by 5 %.
FORMAT_ERRORS: dict[str, float] = {
    # Result rounded to BF16, operands BF16 from the start (the reference multiplies the same rounded operands).
    "bf16-output": 0.0017,
    # Operands and result rounded to BF16.
    "bf16": 0.0029,
    # Both operands e4m3 (or e4m3fnuz), one scale a tensor, a row or a block of 128: the scaling moves it by 4 % at most
    # on normal numbers; where there are outliers it matters.
    "e4m3": 0.038,
    # One operand e4m3, the other 16-bit: weight-only FP8.
    "e4m3-one-operand": 0.027,
    "e5m2-e4m3": 0.059,
    # Both operands INT8, one symmetric scale a row of 3,072. A row's steps are all as large as its largest value makes
    # them, so longer rows cost more: an eighth more at 16,384 (recomputed, too).
    "int8": 0.012,
    # Blocks of 32 with a power of two as scale: OCP MX v1.0 rounds the scale down, so the largest of a block saturates.
    "mxfp8": 0.042,
    # Both operands e2m1 in blocks of 16 with an e4m3 scale; a second scale for the tensor makes no difference here.
    "nvfp4": 0.135,
}

# More than twice the format's own error is not rounding.
TOLERANCE = 2.0
ERROR_LIMITS: dict[str, float] = {name: TOLERANCE * error for name, error in FORMAT_ERRORS.items()}


def relative_error(result: Any, reference: Any) -> float:
    """||result - reference|| / ||reference|| (Frobenius), summed in FP64; infinity if the result is not finite.

    Args:
        result: a torch tensor of any floating dtype, on any device.
        reference: a torch tensor of the same shape.
    """
    exact = reference.detach().double()
    off = (result.detach().to(exact.device).double() - exact).norm().item()
    return _ratio(off, exact.norm().item())


def worst_line_error(result: Any, reference: Any) -> float:
    """The relative error of the row or column that is most wrong; infinity if the result is not finite.

    One wrong row among hundreds hardly shows in `relative_error`: it is what a kernel that runs over the edge of its
    last tile leaves behind.
    """
    exact = reference.detach().double()
    off = result.detach().to(exact.device).double() - exact
    worst = [_ratio_max(off.norm(dim=axis), exact.norm(dim=axis)) for axis in (0, 1)]
    return max(worst)


def _ratio(off: float, length: float) -> float:
    if not math.isfinite(off) or not math.isfinite(length):
        return math.inf
    if length == 0.0:
        return 0.0 if off == 0.0 else math.inf
    return off / length


def _ratio_max(off: Any, length: Any) -> float:
    return max(map(_ratio, off.tolist(), length.tolist()))
