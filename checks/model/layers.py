"""Which of a model's layers multiply in FP8, which keep it only, and which could?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fp8doctor.checks.step.products import FEW_ROWS, VOCABULARY, is_narrow
from fp8doctor.model import Evidence
from fp8doctor.observed import Layer, LayerGain, Model
from fp8doctor.traced import Trace

# cuBLASLt's FP8 products take sizes that are multiples of 16 (leading dimensions of 16 bytes).
MULTIPLE = 16
FP8 = ("fp8", "fp4")
# Groups of layers that are listed by name.
LISTED = 4


def linears(model: Model) -> list[Layer]:
    """The layers that are matrix products, with known sizes."""
    return [layer for layer in model.layers or () if layer.kind == "linear" and layer.k and layer.n]


def multiplying(layers: Iterable[Layer]) -> list[Layer]:
    """Those whose products are meant to be in FP8."""
    return [layer for layer in layers if layer.multiplies in FP8]


def keeping(layers: Iterable[Layer]) -> list[Layer]:
    """Those that keep FP8 and multiply in 16 bits."""
    return [layer for layer in layers if layer.keeps in FP8 and layer.multiplies not in FP8]


def mostly_fp32(layers: list[Layer]) -> bool:
    """Whether more than half of the layers lie in FP32 and are multiplied as they are, or cast by autocast."""
    wide = [layer for layer in layers if layer.dtype == "float32" and layer.multiplies not in FP8]
    return counted(wide) > counted(layers) / 2


def fits(layer: Layer) -> bool:
    """Whether both sizes are what an FP8 product takes."""
    return (layer.k or 0) % MULTIPLE == 0 and (layer.n or 0) % MULTIPLE == 0


def suits(layer: Layer) -> bool:
    """Whether FP8 would pay in this layer as far as its sizes tell: wide enough, and not called with a few rows."""
    wide = not is_narrow(layer.k or 0, layer.n or 0) and max(layer.k or 0, layer.n or 0) < VOCABULARY
    return fits(layer) and wide and (layer.rows is None or max(layer.rows) > FEW_ROWS)


def with_rows(layers: Iterable[Layer], trace: Trace | None) -> list[Layer]:
    """The same with the rows of compiled layers, in which no hook counted them, by the products of their size."""
    rows: dict[tuple[int | None, int | None], set[int]] = {}
    for product in (trace.products or ()) if trace is not None else ():
        if product.m is not None:
            rows.setdefault((product.k, product.n), set()).add(product.m)
    return [
        layer if layer.rows else replace(layer, rows=tuple(sorted(rows.get((layer.k, layer.n), ()))) or None)
        for layer in layers
    ]


def weights(layers: Iterable[Layer]) -> int:
    """How many weights they have."""
    return sum((layer.k or 0) * (layer.n or 0) * (layer.count or 0) for layer in layers)


def counted(layers: Iterable[Layer]) -> int:
    """How many layers these are."""
    return sum(layer.count or 0 for layer in layers)


def named(layers: Iterable[Layer]) -> list[Evidence]:
    """The largest groups by name: "blocks.*.attn.to_q, 57 of Linear(3072, 3072)"."""
    largest = sorted(layers, key=lambda layer: -weights([layer]))
    lines = [
        Evidence(f"{_name(layer)}: {_size(layer)}", layer.count, None, "model.layers") for layer in largest[:LISTED]
    ]
    if len(largest) > LISTED:
        lines.append(Evidence(f"and {counted(largest[LISTED:]):,} layers more", fact="model.layers"))
    return lines


def _name(layer: Layer) -> str:
    return (layer.examples or ("?",))[0] if layer.count == 1 else layer.name or "?"


def _size(layer: Layer) -> str:
    size = f"Linear({layer.k}, {layer.n})"
    return f"{layer.count:,} of {size}" if (layer.count or 0) > 1 else size


def share_of(part: Iterable[Layer], whole: Iterable[Layer]) -> float:
    """The part of the weights that is in these layers."""
    return weights(part) / (weights(whole) or 1)


def gains_nothing(gain: LayerGain) -> bool:
    """Whether the FP8 product by itself, its operands quantised before, takes no less than BF16's beyond the noise."""
    if gain.product_us is None or gain.bf16_us is None:
        return False
    return gain.product_us.high >= gain.bf16_us.low


def padded_gain(gain: LayerGain) -> float | None:
    """Milliseconds of a step that FP8 would save in layers of a size that it does not take, were their weights padded.

    None for sizes that it takes, where it was not timed, and where it saves nothing beyond the noise. For a forward.
    """
    if not ((gain.k or 0) % MULTIPLE or (gain.n or 0) % MULTIPLE) or gain.bf16_us is None or gain.layer_us is None:
        return None
    if gain.layer_us.high >= gain.bf16_us.low:
        return None
    return (gain.count or 0) * (gain.bf16_us.median - gain.layer_us.median) / 1e3
