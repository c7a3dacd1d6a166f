"""torch's grouped products: which functions are here, and a layer of experts built from them.

Runs in the child; torch comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fp8doctor.checks.linear.variants import quantise_rows

# (rows, weights, ends) and (rows in FP8, weights in FP8, scale a row, scale a column, ends).
Product = Callable[..., Any]
# Rows (M x K) and ends to rows (M x N), all in BF16.
Layer = Callable[[Any, Any], Any]


def bf16_product(torch: Any) -> Product | None:
    """The grouped product in BF16: rows (M x K), weights (experts x K x N), ends; None if this torch has none.

    torch.nn.functional.grouped_mm is public since 2.10; before it is torch._grouped_mm.
    """
    function = getattr(torch.nn.functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
    if function is None:
        return None
    return lambda rows, weights, ends: function(rows, weights, offs=ends)


def fp8_product(torch: Any) -> Product | None:
    """The grouped product in FP8 with a scale a row: None if this torch has none.

    Rows are row-major (M x K), weights column-major in each expert (experts x K x N), their scales in FP32 of shape (M)
    and (experts x N), ends in int32 (meta_scaled_grouped_mm in torch/_meta_registrations.py, and
    _scaled_grouped_mm_cuda in GroupedBlas.cpp). The private function first: its public form, scaled_grouped_mm, has no
    meta function in 2.13, so it cannot be compiled.
    """
    private = getattr(torch, "_scaled_grouped_mm", None)
    if private is not None:
        return lambda rows, weights, row_scales, column_scales, ends: private(
            rows, weights, row_scales, column_scales, offs=ends, out_dtype=torch.bfloat16, use_fast_accum=True
        )
    public = getattr(torch.nn.functional, "scaled_grouped_mm", None)
    if public is None:
        return None
    rowwise = torch.nn.functional.ScalingType.RowWise
    return lambda rows, weights, row_scales, column_scales, ends: public(
        rows, weights, row_scales, rowwise, column_scales, rowwise, offs=ends, use_fast_accum=True
    )


def quantised(torch: Any, x: Any) -> tuple[Any, Any]:
    """Rows of `x` (... x K) in FP8, and their decode scales in FP32, of the shape of `x` without its last dimension."""
    x8, scale = quantise_rows(torch, x)
    return x8, scale.squeeze(-1)


def bf16_layer(product: Product, weight: Any) -> Layer:
    """The experts' layer in BF16; `weight` is (experts x N x K)."""
    columns = weight.transpose(-2, -1)
    return lambda x, ends: product(x, columns, ends)


def fp8_layer(torch: Any, product: Product, weight: Any) -> Layer:
    """The experts' layer in FP8: the rows are quantised at each call, the weights once, here."""
    w8, w_scale = quantised(torch, weight)
    columns = w8.transpose(-2, -1)

    def layer(x: Any, ends: Any) -> Any:
        x8, x_scale = quantised(torch, x)
        return product(x8, columns, x_scale, w_scale, ends)

    return layer


def fp8_operands(torch: Any, weight: Any) -> tuple[Any, Any]:
    """The weights of an FP8 product and their scales: (experts x K x N) column-major, and (experts x N)."""
    w8, w_scale = quantised(torch, weight)
    return w8.transpose(-2, -1), w_scale
