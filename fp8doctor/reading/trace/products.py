"""Which matrix product did an operator compute, by the shapes that the profiler recorded?"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from msgspec.json import decode

from fp8doctor.reading.trace.operators import CAST, LAYERS, PRODUCTS
from fp8doctor.reading.trace.refusal import BROKEN_JSON


@dataclass(frozen=True)
class Product:
    """Sizes as in C[m,n] = A[m,k] B[k,n]; of several products at once, `batch` of them. None: not recorded so."""

    m: int | None = None
    k: int | None = None
    n: int | None = None
    batch: int | None = None
    types: tuple[str, ...] = ()


def product(operator: str, dims: bytes, types: bytes) -> Product:
    """The product that an operator with these inputs computes.

    Args:
        operator: its name, one of `PRODUCTS` or `LAYERS`.
        dims: "Input Dims" as JSON, a list of sizes for each input.
        types: "Input type" as JSON, a name for each input.
    """
    first, second, transposed = PRODUCTS[operator] if operator in PRODUCTS else LAYERS[operator]
    sizes, names = _list(dims), _list(types)
    a, b = _sizes(sizes, first), _sizes(sizes, second)
    said = tuple(str(names[at])[:80] for at in (first, second) if at < len(names))
    if a is None or b is None or len(a) < 1 or len(b) < 2:
        return Product(types=said)
    k = a[-1]
    n = b[-2] if transposed else b[-1]
    if (b[-1] if transposed else b[-2]) != k:
        return Product(types=said)
    if len(a) == 3 and len(b) == 3:
        return Product(a[1], k, n, a[0], said)
    return Product(prod(a[:-1]), k, n, b[0] if len(b) == 3 else None, said)


def types_of(operator: str, types: bytes) -> str:
    """The types of the operands, for telling a kind; of a copy those of destination and source.

    Of a layer nothing: what it is called with is not what its product is of.
    """
    if operator in LAYERS:
        return ""
    names = _list(types)
    first, second, _ = (0, 1, False) if operator == CAST else PRODUCTS[operator]
    return ",".join(str(names[at]) for at in (first, second) if at < len(names))


def _list(text: bytes) -> list[Any]:
    try:
        found = decode(text) if text else []
    except BROKEN_JSON:
        return []
    return found if isinstance(found, list) else []


def _sizes(inputs: list[Any], at: int) -> list[int] | None:
    found = inputs[at] if at < len(inputs) else None
    if isinstance(found, list) and all(type(size) is int and 0 <= size < 1 << 40 for size in found):
        return found
    return None
