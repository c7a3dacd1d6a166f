"""Which configurations stand on the ladder? Each is its slug: a base and its modifiers."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.checks.ladder.conversions import BASES, LORA, OWN_SWITCH, PACKAGES, RECIPES, SDPA

BASELINE = "torch-bf16"
CACHES = (
    "cache-first-block",
    "cache-mag",
    "cache-taylorseer",
    "cache-taylorseer-lite",
    "cache-faster",
    "cache-pyramid",
)
COMPILE = ("compile", "compile-whole")
MODIFIERS = (*LORA, *SDPA, *PACKAGES, OWN_SWITCH, *COMPILE, "tuned", "cudagraph", *CACHES)
# Of each group a configuration has one at most.
_GROUPS = (tuple(LORA), (*SDPA, *PACKAGES, OWN_SWITCH), COMPILE, ("tuned",), ("cudagraph",), CACHES)
# What "tuned" is a variant of: torchao's own Inductor settings come with its row-wise layers.
TUNED_BASE = "torchao-fp8-rowwise"

# For one forward of a model, the most telling first.
FORWARD = (
    "torch-bf16",
    "torch-bf16+compile",
    "torchao-fp8-rowwise+compile",
    "torchao-fp8-tensorwise+compile",
    "torchao-fp8-rowwise",
    "torchao-fp8-tensorwise",
    "torchao-fp8-weightonly",
    "torchao-fp8-weightonly+compile",
    "diffusers-fp8-storage",
    "torch-bf16+cudagraph",
    "torch-bf16+compile+cudagraph",
    "torchao-fp8-rowwise+compile+cudagraph",
    "torchao-fp8-tensorwise+compile+cudagraph",
    "torchao-fp8-weightonly+compile+cudagraph",
    "te-bf16",
    "te-fp8-current",
    "te-fp8-delayed",
    "te-fp8-block",
    "te-mxfp8",
    "te-nvfp4",
    "te-fp8-current+cudagraph",
    "te-fp8-delayed+cudagraph",
    "te-fp8-current+compile",
    "torch-bf16+cache-first-block",
    "torchao-fp8-rowwise+compile+cache-first-block",
    "torch-bf16+attention-cudnn",
    "torch-bf16+attention-flash",
    "torch-bf16+attention-efficient",
    "torch-bf16+attention-fa2",
    "torch-bf16+attention-fa3",
    "torch-bf16+lora",
    "torch-bf16+lora-fused",
    "torchao-fp8-rowwise+lora-fused+compile",
    "torch-fp16",
    "torch-bf16+cache-mag",
    "torch-bf16+cache-taylorseer",
    "torch-bf16+cache-taylorseer-lite",
    "torch-bf16+cache-faster",
    "torch-bf16+cache-pyramid",
    "torchao-int8-dynamic+compile",
    "torchao-int8-dynamic",
    "torch-bf16+compile-whole",
    "torch-bf16+attention-math",
    "torchao-fp8-rowwise+compile+tuned",
)
# For forward, backward and optimizer. FP16 is not among them: it needs its loss scaled.
TRAINING = (
    "torch-bf16",
    "torch-bf16+compile",
    "torchao-fp8train-tensorwise+compile",
    "torchao-fp8train-rowwise+compile",
    "torchao-fp8train-rowwise-gw-hp+compile",
    "torchao-fp8train-tensorwise",
    "torchao-fp8train-rowwise",
    "torch-bf16+cudagraph",
    "torch-bf16+compile+cudagraph",
    "torchao-fp8train-tensorwise+compile+cudagraph",
    "te-bf16",
    "te-fp8-current",
    "te-fp8-delayed",
    "te-fp8-block",
    "te-mxfp8",
    "te-fp8-current+cudagraph",
    "te-fp8-delayed+cudagraph",
    "torch-bf16+attention-cudnn",
    "torch-bf16+attention-flash",
    "torch-bf16+attention-efficient",
    "torch-bf16+compile-whole",
    "torchao-fp8train-tensorwise+compile-whole",
)

# What a run of a minute measures of each kind of step, the most telling first; the rest is estimated from its parts.
_SHORT_FORWARD = (
    "torch-bf16",
    "torch-bf16+compile",
    "torchao-fp8-rowwise+compile",
    "torchao-fp8-tensorwise+compile",
)
SHORT = {
    "denoise": _SHORT_FORWARD,
    "prefill": _SHORT_FORWARD,
    "decode": (
        "torch-bf16",
        "torch-bf16+compile+cudagraph",
        "torchao-fp8-tensorwise+compile+cudagraph",
        "torchao-fp8-rowwise+compile+cudagraph",
        "torch-bf16+compile",
    ),
    "train": (
        "torch-bf16",
        "torch-bf16+compile",
        "torchao-fp8train-tensorwise+compile",
        "torchao-fp8train-rowwise+compile",
    ),
}


class NoSuchConfigError(ValueError):
    """A slug that names no configuration, and what there is."""


@dataclass(frozen=True)
class Config:
    """A slug taken apart."""

    slug: str
    base: str
    modifiers: tuple[str, ...]

    @property
    def compiled(self) -> str | None:
        """ "compile" (each block), "compile-whole" or None."""
        return next((m for m in self.modifiers if m in COMPILE), None)

    @property
    def graphed(self) -> bool:
        """Whether the step is captured as a CUDA graph."""
        return "cudagraph" in self.modifiers

    @property
    def cache(self) -> str | None:
        """The step cache, None if every step is computed."""
        return next((m for m in self.modifiers if m in CACHES), None)

    @property
    def library(self) -> str | None:
        """What must be installed beside torch."""
        if any(m in LORA for m in self.modifiers):
            return "peft"
        if self.cache or any(m in PACKAGES for m in self.modifiers):
            return "diffusers"
        first = self.base.partition("-")[0]
        return {"te": "transformer_engine", "torch": None}.get(first, first)

    @property
    def numerics(self) -> str:
        """Its entry in the error limits."""
        return BASES[self.base][1]

    @property
    def recipe(self) -> str | None:
        """Transformer Engine's recipe, by class name."""
        return RECIPES.get(self.base)


def config_of(slug: str) -> Config:
    """Take a slug apart.

    Raises:
        NoSuchConfigError: if a part of it is not known, or if its parts do not go together.
    """
    base, *modifiers = slug.split("+")
    if base not in BASES:
        raise NoSuchConfigError(f"no configuration {base!r}; there is {', '.join(BASES)}")
    for modifier in modifiers:
        if modifier not in MODIFIERS:
            raise NoSuchConfigError(f"no modifier {modifier!r}; there is {', '.join(MODIFIERS)}")
    for group in _GROUPS:
        here = [modifier for modifier in modifiers if modifier in group]
        if len(set(here)) > 1:
            raise NoSuchConfigError(f"{here[0]} and {here[1]} exclude one another")
        if len(here) > 1:
            raise NoSuchConfigError(f"{here[0]} stands there twice")
    if "tuned" in modifiers and base != TUNED_BASE:
        raise NoSuchConfigError(f"tuned goes with {TUNED_BASE} alone")
    return Config(slug, base, tuple(modifiers))
