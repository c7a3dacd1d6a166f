"""Does a model attend by hand, and how is it told to use torch's attention?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from fp8doctor.checks.ladder.conversions import OWN_SWITCH, RefusedError
from fp8doctor.observed import Model

# The modifier of a configuration (checks/ladder/slugs.py).
SDPA = OWN_SWITCH
# What each library calls attention by two products and a softmax, each a kernel of its own, where it has a switch.
BY_HAND = {"transformers": "eager", "diffusers": "_native_math"}

_KEPT_IN = "_attn_implementation"


def by_hand(found: Model) -> bool:
    """Whether an attention of the model is told to multiply, take a softmax and multiply again."""
    return any(
        layer.kind == "attention"
        and layer.implementation == BY_HAND.get((layer.class_name or "").partition(".")[0], "")
        for layer in found.layers or ()
    )


@contextlib.contextmanager
def with_sdpa(model: Any) -> Iterator[None]:
    """The model attending by torch's scaled_dot_product_attention; afterwards as it did before.

    transformers keeps the name in its configurations (PreTrainedModel.set_attn_implementation), diffusers in each
    attention's processor (ModelMixin.set_attention_backend).

    Raises:
        RefusedError: if neither is there.
    """
    switched = [m for m in model.modules() if hasattr(m, "set_attn_implementation")]
    if switched:  # the outermost one tells those inside of it
        before = switched[0].config._attn_implementation
        # Parts of one model may differ: a picture's tower, a language model.
        configs = {id(m.config): m.config for m in model.modules() if hasattr(getattr(m, "config", None), _KEPT_IN)}
        each = [(config, getattr(config, _KEPT_IN)) for config in configs.values()]
        try:
            switched[0].set_attn_implementation("sdpa")
            yield
        finally:
            switched[0].set_attn_implementation(before)
            for config, own in each:
                setattr(config, _KEPT_IN, own)
        return
    processors = [p for m in model.modules() if (p := getattr(m, "processor", None)) is not None]
    chosen = [(p, p._attention_backend) for p in processors if hasattr(p, "_attention_backend")]
    if not chosen:
        raise RefusedError("this model has no switch for its attention; models of transformers and diffusers have")
    for processor, _ in chosen:
        processor._attention_backend = None
    try:
        yield
    finally:
        for processor, backend in chosen:
            processor._attention_backend = backend


def code(class_name: str | None) -> str:
    """The call that chooses torch's attention."""
    diffusers = (class_name or "").startswith("diffusers")
    return 'model.set_attention_backend("native")' if diffusers else 'model.set_attn_implementation("sdpa")'
