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
# torchao's own filter for H100 leaves layers this narrow in 16 bits (float8_linear_utils.py: K or N up to 1,024).
NARROW = 1024
# Fewer rows than this are a few tokens: leaving them in 16 bits is right.
FEW_ROWS = 128
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


def total_count(products: Iterable[ProductTotal]) -> int:
    """Their launches."""
    return sum(product.count or 0 for product in products)


@dataclass(frozen=True)
class Adapter:
    """Products of a small rank beside a layer: down to the rank, and up from it."""

    rank: int
    beside: Size
    in_fp8: bool
    down: ProductTotal
    up: ProductTotal


def adapters(trace: Trace) -> list[Adapter]:
    """Each layer that has a down and an up product of one small rank beside it, run about as often."""
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
    if min(k, n) <= NARROW or m <= FEW_ROWS or max(k, n) >= VOCABULARY:
        return True
    if per_step(trace, product.count or 0) <= 1:
        return True
    return size not in in_fp8 and any(sorted(size) == sorted(other) for other in in_fp8)
