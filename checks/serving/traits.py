"""By which settings of an inference engine are two start-up logs compared?"""

from __future__ import annotations

from fp8doctor.checks.serving.facts import NAMES, Serving
from fp8doctor.model import Trait, TraitKind
from fp8doctor.registry import traits

# Field, its words, and what it is.
_FIELDS: tuple[tuple[str, str, TraitKind], ...] = (
    ("version", "version", "software"),
    ("quantization", "quantisation", "setting"),
    ("dtype", "dtype", "setting"),
    ("tensor_parallel_size", "tensor parallel size", "setting"),
    ("linear_kernels", "kernels of linear layers", "software"),
    ("moe_backends", "kernels of experts", "software"),
    ("weight_only", "FP8 weights unpacked for 16-bit products", "software"),
    ("enforce_eager", "enforce-eager", "setting"),
    ("cuda_graphs", "CUDA graphs", "setting"),
    ("attention_backend", "attention backend", "software"),
    ("flash_attention", "FlashAttention release", "software"),
    ("kv_cache_dtype", "KV cache dtype", "setting"),
)


@traits
def of_engine(serving: Serving) -> list[Trait]:
    """The engine, what it was told, and the kernels that it took."""
    name = NAMES.get(serving.engine or "", serving.engine) or "the engine"
    found = [Trait("software", "inference engine", name if serving.engine else None, None, "serving.engine")]
    for field, words, kind in _FIELDS:
        value = getattr(serving, field)
        shown = ", ".join(value) if isinstance(value, tuple) else value
        found.append(Trait(kind, f"{words} of {name}", shown, None, f"serving.{field}"))
    return found
