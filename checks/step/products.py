"""Which matrix products belong together: a layer, its gradients, an adapter beside it?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fp8doctor.checks.step.sums import FP8, SIXTEEN, per_step
from fp8doctor.traced import ProductTotal, Trace

Size = tuple[int, int, int]
# Products inside an attention, not layers.
BATCHED = {"aten::bmm", "aten::baddbmm"}
# The largest rank of an adapter that is still called small beside its layer.
LARGEST_RANK = 256
# Up to this many rows are a few tokens, and leaving them in 16 bits is right: a product is limited by reading its
# weights. 1400e12 FLOP/s over 4.3e12 B/s on an H200 is 325 FLOP/byte, and M rows do 2 M FLOP for each byte of an FP8
# weight.
FEW_ROWS = 128
# Of the layers of one size, every fourth has an adapter at least (queries and values have, keys and outputs have not).
RARELY = 4
# A vocabulary's width: the last layer of a language model is customarily left in 16 bits.
VOCABULARY = 32_000


def size_of(product: ProductTotal) -> Size | None:
    """(m, k, n), where all were recorded."""
    if product.m is None or product.k is None or product.n is None:
        return None
    return product.m, product.k, product.n


def layers(trace: Trace, kinds: Iterable[str]) -> list[tuple[Size, ProductTotal]]:
    """The products of these kinds that are layers, with their sizes."""
    wanted = set(kinds)
    return [
        (size, product)
        for product in trace.products or ()
        if product.kind in wanted and product.operator not in BATCHED and (size := size_of(product)) is not None
    ]


def total_us(products: Iterable[ProductTotal]) -> float:
    """Their time."""
    return sum(product.us or 0.0 for product in products)


@dataclass(frozen=True)
class Adapter:
    """Products of a small rank beside a layer: down to the rank, and up from it."""

    rank: int
    beside: Size
    in_fp8: bool
    down: ProductTotal
    up: ProductTotal


def adapters(trace: Trace) -> list[Adapter]:
    """Each layer that has a down and an up product of one small rank beside it, run at least a quarter as often.

    Layers of one size need not all have an adapter. A model's first and last layer are narrow, too, and run once.
    """
    small = layers(trace, (*FP8, *SIXTEEN, "tf32-gemm", "fp32-gemm"))
    downs = [(s, p) for s, p in small if s[2] <= LARGEST_RANK and 8 * s[2] <= s[1]]
    ups = [(s, p) for s, p in small if s[1] <= LARGEST_RANK and 8 * s[1] <= s[2]]
    found = []
    for (m, k, n), base in small:
        if min(k, n) <= LARGEST_RANK:
            continue
        pair = next(
            (
                (down, up)
                for (dm, dk, rank), down in downs
                for (um, uk, un), up in ups
                if (dm, dk, um, uk, un) == (m, k, m, rank, n) and 8 * rank <= min(k, n)
                if RARELY * min(down.count or 0, up.count or 0) >= (base.count or 0)
            ),
            None,
        )
        if pair is not None:
            found.append(Adapter(pair[0].n or 0, (m, k, n), base.kind in FP8, *pair))
    return found


def is_left_on_purpose(trace: Trace, size: Size, product: ProductTotal, in_fp8: set[Size]) -> bool:
    """Whether a 16-bit product is one that is customarily no FP8.

    Narrow layers, few tokens, a lone product a step (a head), a vocabulary; and the weights' gradient where the layer
    itself is FP8 (torchao's rowwise_with_gw_hp keeps it in 16 bits).
    """
    m, k, n = size
    trains = trace.operators is None or any("Backward" in (op.name or "") for op in trace.operators)
    if is_narrow(k, n) or (trains and is_narrow(n, k)) or m <= FEW_ROWS or max(k, n) >= VOCABULARY:
        return True
    each = per_step(trace, product.count or 0)
    if each is not None and each <= 1:
        return True
    if size in in_fp8:
        return trains and size in ((n, m, k), (k, m, n))  # a gradient of the same size as its layer
    return any(sorted(size) == sorted(other) for other in in_fp8)


def is_narrow(k: int, n: int) -> bool:
    """Whether torchao's own filter leaves a layer from K to N features in 16 bits.

    Its conditions for row-wise scales (`_auto_filter_for_rowwise` of float8_linear_utils.py, torchao 0.17, by its
    measurements on H100); those for one scale a tensor, K <= 4096 and N <= 1024, are within them.
    """
    return n <= 2048 or k <= 1024 or (n <= 4096 and k <= 2048)
