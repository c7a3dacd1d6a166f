"""Which ways of calling te.Linear are timed, how are they called in words, and which code gets them?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fp8doctor.checks.transformer_engine.times import BOTH, FORWARD, TRAINING

BF16, TE_BF16 = "torch-bf16", "te-bf16"
CACHED, STORED, GRAPH = "cachedweight", "fp8weight", "cudagraph"


@dataclass(frozen=True)
class Scaling:
    """One recipe of Transformer Engine: its slug, its class, and how far its formats explain an error.

    `numerics` and `gradient_numerics` name entries of FORMAT_ERRORS: of the forward, and of the backward's products.
    """

    config: str
    recipe: str
    words: str
    numerics: str
    gradient_numerics: str


# In the order of measuring. The per-tensor recipes multiply e5m2 gradients in the backward (their default is
# Format.HYBRID), the others e4m3 throughout (transformer_engine/common/recipe/__init__.py 2.20.2).
SCALINGS = (
    Scaling("te-fp8-current", "Float8CurrentScaling", "FP8, current scaling", "e4m3", "e5m2-e4m3"),
    Scaling("te-mxfp8", "MXFP8BlockScaling", "MXFP8", "mxfp8", "mxfp8"),
    Scaling("te-fp8-delayed", "DelayedScaling", "FP8, delayed scaling", "e4m3", "e5m2-e4m3"),
    Scaling("te-nvfp4", "NVFP4BlockScaling", "NVFP4", "nvfp4", "nvfp4"),
    Scaling("te-fp8-block", "Float8BlockScaling", "FP8, block scaling", "e4m3", "e4m3"),
)
_BY_CONFIG = {scaling.config: scaling for scaling in SCALINGS}
# Recipes whose weight is not kept in their format alone: delayed scaling would cast it before it has any scale for it
# (reset_parameters in transformer_engine/pytorch/module/base.py 2.20.2), so that small weights lose precision; and
# Transformer Engine's own tests leave out NVFP4 as not supported (tests/pytorch/test_cuda_graphs.py in its repository).
NOT_STORED = ("te-fp8-delayed", "te-nvfp4")
# Beyond the first shape, and beyond these first recipes, only what competes is timed.
WELL_LOOKED_AT = 2

_WORDS = {BF16: "BF16", TE_BF16: "Transformer Engine BF16"}
_SUFFIXES = {CACHED: "weight cast once", STORED: "weight stored in FP8", GRAPH: "CUDA graph"}


@dataclass(frozen=True)
class Configuration:
    """One way of calling a linear layer: the slug says how, `passes` what of it runs."""

    config: str
    passes: str

    @property
    def base(self) -> str:
        """The slug without what follows "+": the recipe's, or that of a BF16 layer."""
        return self.config.partition("+")[0]

    @property
    def with_cached_weight(self) -> bool:
        """The weight was cast by an earlier call (`is_first_microbatch=False`)."""
        return CACHED in self.config.split("+")

    @property
    def with_stored_weight(self) -> bool:
        """The weight is kept in FP8 alone (`quantized_model_init`)."""
        return STORED in self.config.split("+")

    @property
    def plain(self) -> bool:
        """Called as it is: no suffix."""
        return self.config == self.base

    @property
    def graphed(self) -> bool:
        """The call is the replay of a CUDA graph."""
        return is_graph(self.config)

    def __str__(self) -> str:
        return f"{self.config} {self.passes}"


def scaling_of(config: str | None) -> Scaling | None:
    """The recipe behind a slug, None for a BF16 layer."""
    return _BY_CONFIG.get((config or "").partition("+")[0])


def is_graph(config: str | None) -> bool:
    """Whether a slug stands for the replay of a CUDA graph."""
    return GRAPH in (config or "").split("+")


def in_order(recipes: Sequence[str], default: str | None) -> list[Scaling]:
    """These recipes (names of classes), the most telling first.

    Delayed scaling, the default on many GPUs, stands behind current scaling: it asks more of the host, and its state
    makes it the harder one to use.
    """
    found = [scaling for scaling in SCALINGS if scaling.recipe in recipes]
    return sorted(found, key=lambda scaling: scaling.recipe != default or default == "DelayedScaling")


def plan(
    scalings: Sequence[Scaling], *, first: bool, everything: bool, passes: Sequence[str] = BOTH
) -> list[Configuration]:
    """What is timed at one shape, the most telling first.

    Args:
        scalings: the recipes to time, the most telling first.
        first: whether this is the first shape, at which every recipe is timed.
        everything: whether every configuration of every recipe is timed at every shape.
        passes: what the workload runs. Where all of it trains, plain forwards stay: with them the host's time is taken
            apart.
    """
    if not scalings:
        return []
    known = scalings if first or everything else scalings[:WELL_LOOKED_AT]
    lead, *others = [scaling.config for scaling in known]
    found = [
        Configuration(BF16, TRAINING),
        Configuration(lead, TRAINING),
        Configuration(TE_BF16, TRAINING),
        Configuration(f"{lead}+{GRAPH}", TRAINING),
        Configuration(f"{BF16}+{GRAPH}", TRAINING),
        Configuration(BF16, FORWARD),
        Configuration(lead, FORWARD),
        Configuration(TE_BF16, FORWARD),
        *(Configuration(config, both) for config in others for both in BOTH),
    ]
    if everything:
        found.append(Configuration(f"{TE_BF16}+{GRAPH}", TRAINING))
    if first or everything:
        looked_at = known if everything else known[:WELL_LOOKED_AT]
        found += [more for scaling in looked_at for more in _in_depth(scaling.config)]
    return [way for way in dict.fromkeys(found) if way.passes in passes or (way.passes == FORWARD and way.plain)]


def _in_depth(config: str) -> Iterator[Configuration]:
    yield Configuration(f"{config}+{CACHED}", TRAINING)
    yield Configuration(f"{config}+{CACHED}", FORWARD)
    yield Configuration(f"{config}+{GRAPH}", TRAINING)
    yield Configuration(f"{config}+{GRAPH}", FORWARD)
    if config not in NOT_STORED:
        yield Configuration(f"{config}+{STORED}", FORWARD)
        yield Configuration(f"{config}+{STORED}+{GRAPH}", FORWARD)


def label(config: str, passes: str = FORWARD) -> str:
    """A slug in words: "Transformer Engine FP8, current scaling + CUDA graph"; what trains says so."""
    base, *suffixes = config.split("+")
    scaling = scaling_of(config)
    words = f"Transformer Engine {scaling.words}" if scaling else _WORDS.get(base, base)
    named = " + ".join([words, *(_SUFFIXES.get(suffix, suffix) for suffix in suffixes)])
    return f"{named} (forward + backward)" if passes == TRAINING else named


def short_label(config: str) -> str:
    """The recipe behind a slug in a few words ("current scaling"); the slug itself for a BF16 layer."""
    scaling = scaling_of(config)
    return scaling.words.removeprefix("FP8, ") if scaling else config


def how(config: str, passes: str = FORWARD) -> str:
    """Code that gets a configuration; `model` is the user's own, made of te.Linear.

    The names are those of 2.9 and newer; before, they were fp8_autocast(fp8_recipe=...), fp8_model_init(...) and
    make_graphed_callables(..., fp8_enabled=True, fp8_recipe=recipe) (transformer_engine/pytorch/fp8.py and graph.py
    of 2.8).
    """
    scaling = scaling_of(config)
    if scaling is None:
        return _bf16(config, passes)
    way = Configuration(config, passes)
    lines = ["import torch", "import transformer_engine.pytorch as te"]
    lines += [f"from transformer_engine.common.recipe import {scaling.recipe}", f"recipe = {scaling.recipe}()"]
    if way.with_stored_weight:
        lines += ["with torch.no_grad(), te.quantized_model_init(recipe=recipe):"]
        lines += ["    model = build_model()  # your own, of te.Linear"]
    if scaling.recipe == "DelayedScaling" and passes != TRAINING:
        lines += ["for _ in range(3):  # it takes its scales from earlier calls, and only from those with gradients"]
        lines += ["    with te.autocast(recipe=recipe):", "        model(x)"]
    call = "model(x, is_first_microbatch=False)" if way.with_cached_weight else "model(x)"
    if passes == TRAINING:
        if way.graphed:
            lines.append("model = te.make_graphed_callables(model, (x,), enabled=True, recipe=recipe)")
        lines += ["with te.autocast(recipe=recipe):", f"    y = {call}"]
        if way.with_cached_weight:
            lines[-1] += "  # True in the first microbatch after a step of the optimizer"
        lines.append("y.backward(grad)")
    elif way.graphed:
        lines += ["graph = torch.cuda.CUDAGraph()"]
        lines += ["with torch.no_grad(), te.autocast(recipe=recipe):", "    for _ in range(3):", f"        {call}"]
        lines += ["    with torch.cuda.graph(graph):", f"        y = {call}"]
        lines += ["x.copy_(next_x)", "graph.replay()  # the result is in y"]
    else:
        lines += ["with torch.no_grad(), te.autocast(recipe=recipe):", f"    y = {call}"]
        if way.with_cached_weight:
            lines[-1] += "  # True in the first call"
    return "\n".join(lines)


def _bf16(config: str, passes: str) -> str:
    lines = ["model.to(torch.bfloat16)"]
    if is_graph(config):
        library = "te" if config.startswith(TE_BF16) else "torch.cuda"
        lines.append(f"model = {library}.make_graphed_callables(model, (x,))")
    return "\n".join([*lines, "y = model(x)", *(["y.backward(grad)"] if passes == TRAINING else [])])
