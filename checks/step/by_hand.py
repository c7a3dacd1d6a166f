"""Which kernels are an attention that is computed by hand: a product, a softmax, a product?"""

from __future__ import annotations

import re

from fp8doctor.checks.step.products import BATCHED, size_of, total_us
from fp8doctor.checks.step.sums import chosen, operator_count, sum_count
from fp8doctor.traced import KernelTotal, ProductTotal, Trace

MATH = "aten::_scaled_dot_product_attention_math"
# A cross-entropy's softmax is a logarithm's, and no attention.
_SOFTMAX, _LOG_SOFTMAX = re.compile(r"(?i)softmax"), re.compile(r"(?i)log_?softmax")
_FUSED = re.compile(r"(?i)fmha|flash|attn|attention|sdpa|mla_")
_MASKING = {"aten::masked_fill", "aten::masked_fill_"}
# Two products stand beside each softmax of an attention.
PRODUCTS_A_SOFTMAX = 2
# The widest head that flash attention takes; the layers of an expert are wider.
WIDEST_HEAD = 256


def apart(trace: Trace) -> list[KernelTotal]:
    """Attention that is no kernel of its own: torch's math path, or by hand (two batched products to each softmax)."""
    parts = chosen(trace, lambda k: k.kind == "attention" and not _FUSED.search(k.name or ""))
    math = parts if operator_count(trace, MATH) or any(k.backend == "math" or _is_softmax(k) for k in parts) else []
    products = [k for k in _by_hand(trace) if k not in math]
    if not products:
        return math
    softmax = chosen(trace, lambda k: _is_softmax(k) and k not in math)
    # What stands between the products is known by its order, or else by its operator.
    masking = [] if trace.between_products_us else chosen(trace, lambda k: k.operator in _MASKING)
    return [*math, *products, *softmax, *masking]


def layer_us(trace: Trace, *kinds: str) -> float:
    """GPU time of products of these kinds that are no attention's."""
    of_attention = _by_hand(trace)
    us = (trace.us_by_kind or {}).get
    taken = sum(k.us or 0.0 for k in of_attention if k.kind in kinds)
    return max(0.0, sum(us(kind, 0.0) for kind in kinds) - taken)


def is_by_hand(trace: Trace) -> bool:
    """Whether batched products of the trace are an attention's."""
    return bool(_by_hand(trace))


def _by_hand(trace: Trace) -> list[KernelTotal]:
    """The batched products of an attention by hand; a mixture of experts has such products and a softmax as well."""
    products = chosen(trace, lambda k: k.operator in BATCHED and k.kind != "attention")
    if not products:
        return []
    batched = [p for p in trace.products or () if p.operator in BATCHED and size_of(p) is not None]
    if batched:
        paired = [p for p in batched if any(_are_scores(p, q) or _are_scores(q, p) for q in batched)]
        return products if 2 * total_us(paired) >= total_us(batched) and _has_softmax(trace, products) else []
    if chosen(trace, lambda k: k.kind == "attention" and bool(_FUSED.search(k.name or ""))):
        return []
    return products if _has_softmax(trace, products) else []


def _has_softmax(trace: Trace, products: list[KernelTotal]) -> bool:
    softmax = chosen(trace, lambda k: _is_softmax(k) and k.kind != "attention")
    return bool(softmax) and sum_count(products) >= PRODUCTS_A_SOFTMAX * sum_count(softmax)


def _are_scores(first: ProductTotal, second: ProductTotal) -> bool:
    """Whether one makes scores of queries and keys, and the other multiplies them by values."""
    alike = (first.batch, first.m, first.n) == (second.batch, second.m, second.k)
    return alike and max(first.k or 0, second.n or 0) <= WIDEST_HEAD


def _is_softmax(kernel: KernelTotal) -> bool:
    words = f"{kernel.operator} {kernel.name}"
    return bool(_SOFTMAX.search(words)) and not _LOG_SOFTMAX.search(words)
