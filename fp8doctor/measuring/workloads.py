"""Which layers does a workload call in one step, at which shapes?

Only the standard library is imported here: this module also runs inside the examined environment.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from fp8doctor.model import Shape
from fp8doctor.plain import from_plain

# The traced shapes of the built-in workloads, one file each; `python -m tests.refresh_workloads` writes them.
TRACED = Path(__file__).with_name("traced")


@dataclass(frozen=True)
class LinearUse:
    """A linear layer (M x K activations times K x N weights) and how often one step calls one of this shape."""

    m: int | None = None
    k: int | None = None
    n: int | None = None
    calls: int | None = None
    # The name of one such module ("transformer_blocks.0.attn.to_q").
    example: str | None = None


@dataclass(frozen=True)
class AttentionUse:
    """One call of scaled dot product attention, and how often one step makes one of this shape."""

    batch: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    queries: int | None = None
    keys: int | None = None
    head_dim: int | None = None
    causal: bool | None = None
    calls: int | None = None


@dataclass(frozen=True)
class Step:
    """What a workload repeats: one denoising step, a prefill, one decoded token, one training step."""

    # "denoise" | "prefill" | "decode" | "train" | "forward"
    name: str | None = None
    title: str | None = None
    # Forward, backward and the optimizer; otherwise a forward alone.
    trains: bool | None = None
    # What the step works on, in the unit of its rate (tokens; for images, the latent patches and the text).
    tokens: int | None = None
    linears: tuple[LinearUse, ...] | None = None
    attentions: tuple[AttentionUse, ...] | None = None


@dataclass(frozen=True)
class Workload:
    """A model as people run it, and what its steps call."""

    name: str | None = None
    title: str | None = None
    # The class and the package that it comes from ("diffusers.FluxTransformer2DModel").
    model_class: str | None = None
    parameters: int | None = None
    steps: tuple[Step, ...] | None = None


# The linear layers that are swept where no workload is named, (K, N) pairs, the most telling first, and the token
# counts M. Width 3072 with a factor of 4 is what diffusion transformers of FLUX's size use
# (black-forest-labs/FLUX.1-dev, transformer/config.json: 24 heads of 128), and stands between a 3B and an 8B language
# model.
DEFAULT_LAYERS = ((3072, 3072), (3072, 12288), (12288, 3072))
DEFAULT_TOKENS = (16, 256, 1024, 2048, 4096, 8192)


def names() -> tuple[str, ...]:
    """The built-in workloads."""
    return tuple(sorted(path.stem for path in TRACED.glob("*.json")))


@cache
def built_in(name: str) -> Workload:
    """A built-in workload.

    Raises:
        KeyError: for a name that is none of `names()`.
    """
    if name not in names():
        raise KeyError(name)
    found: Workload = from_plain(Workload, json.loads((TRACED / f"{name}.json").read_text(encoding="utf-8")))
    return found


def layers(workload: Workload | None, own: tuple[Shape, ...] = ()) -> dict[tuple[int, int], tuple[int, ...]]:
    """The linear layers to measure, in order: {(K, N): token counts, largest first}.

    A person's own shapes come first, then the layers of the workload, those with the most work in front; without a
    workload, the default sweep.
    """
    found: dict[tuple[int, int], set[int]] = {}
    for shape in own:
        found.setdefault((shape.k, shape.n), set()).add(shape.m)
    if workload is None:
        for layer in DEFAULT_LAYERS:
            found.setdefault(layer, set()).update(DEFAULT_TOKENS)
    else:
        uses = [use for step in workload.steps or () for use in step.linears or ()]
        for use in sorted(uses, key=work, reverse=True):
            found.setdefault((use.k or 0, use.n or 0), set()).add(use.m or 0)
    return {layer: tuple(sorted(tokens, reverse=True)) for layer, tokens in found.items()}


def forward_part(workload: Workload) -> Workload:
    """The workload without its training steps, whose layers are timed with their backward by another probe.

    Of one that only trains the largest layer stays, to stand for all.
    """
    forward = tuple(step for step in workload.steps or () if not step.trains)
    if not forward:
        uses = [use for step in workload.steps or () for use in step.linears or ()]
        forward = (Step(linears=tuple(sorted(uses, key=work, reverse=True)[:1])),)
    return replace(workload, steps=forward)


def work(use: LinearUse) -> float:
    """Multiply-adds of all calls of this shape in a step."""
    return float(use.m or 0) * (use.k or 0) * (use.n or 0) * (use.calls or 0)
