"""Which shapes stand for which workload?"""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Shape


@dataclass(frozen=True)
class Workload:
    """The linear layers of a kind of model, (K, N) pairs, the most telling first, and the token counts M to sweep."""

    name: str
    title: str
    layers: tuple[tuple[int, int], ...]
    tokens: tuple[int, ...]


# Width 3072 with a factor of 4 is what diffusion transformers of FLUX's size use (black-forest-labs/FLUX.1-dev,
# transformer/config.json: 24 heads of 128), and stands between a 3B and an 8B language model.
DEFAULT = Workload(
    name="default",
    title="a transformer of width 3072",
    layers=((3072, 3072), (3072, 12288), (12288, 3072)),
    tokens=(16, 256, 1024, 2048, 4096, 8192),
)

WORKLOADS = {workload.name: workload for workload in (DEFAULT,)}


def shapes(workload: str | None, own: tuple[Shape, ...]) -> dict[tuple[int, int], tuple[int, ...]]:
    """The layers to measure, in order: {(K, N): token counts, largest first}; a person's own shapes come first.

    Raises:
        KeyError: for a workload that is not known.
    """
    chosen = WORKLOADS[workload or DEFAULT.name]
    layers: dict[tuple[int, int], set[int]] = {}
    for shape in own:
        layers.setdefault((shape.k, shape.n), set()).add(shape.m)
    for layer in chosen.layers:
        layers.setdefault(layer, set()).update(chosen.tokens)
    return {layer: tuple(sorted(tokens, reverse=True)) for layer, tokens in layers.items()}
