"""Which of the libraries that have no subject of their own converted a layer?

Sources: transformers 5.17, integrations/finegrained_fp8.py (FP8Linear), fbgemm_fp8.py (FbgemmFp8Linear),
compressed_tensors.py (CompressedTensorsFP8Linear); bitsandbytes/nn/modules.py (Linear8bitLt, Linear4bit);
optimum/quanto/nn/qlinear.py (QLinear, `weight_qtype`, `activation_qtype`); peft 0.x, tuners/lora/layer.py; ComfyUI's
comfy/ops.py (manual_cast, fp8_ops).
"""

from __future__ import annotations

from typing import Any

from fp8doctor.observed import Conversion
from fp8doctor.registry import describes


@describes
def by_transformers(module: Any) -> Conversion | None:
    """The FP8 layers of transformers' quantisers: weights and activations in FP8."""
    kind = type(module)
    if not kind.__module__.startswith("transformers.integrations"):
        return None
    if kind.__name__ == "FP8Linear":
        return Conversion("transformers", "fp8", "fp8", "block" if module.block_size else "tensorwise")
    if kind.__name__ == "FbgemmFp8Linear":
        return Conversion("transformers", "fp8", "fp8", "rowwise")
    if kind.__name__ == "CompressedTensorsFP8Linear":
        return Conversion("transformers", "fp8", "fp8")
    return None


@describes
def by_bitsandbytes(module: Any) -> Conversion | None:
    """Weights in 8 or 4 bits."""
    kind = type(module)
    if not kind.__module__.startswith("bitsandbytes"):
        return None
    if kind.__name__ == "Linear8bitLt":
        return Conversion("bitsandbytes", "int8", "int8")
    return Conversion("bitsandbytes", "int4") if kind.__name__ == "Linear4bit" else None


@describes
def by_quanto(module: Any) -> Conversion | None:
    """Weights, and maybe activations, of fewer bits."""
    kind = type(module)
    if not kind.__module__.startswith("optimum.quanto") or kind.__name__ != "QLinear":
        return None
    weights, activations = _bits(module.weight_qtype), _bits(module.activation_qtype)
    return Conversion("quanto", weights, weights if activations else None)


def _bits(qtype: Any) -> str | None:
    name = getattr(qtype, "name", None) or ""
    return "fp8" if "float8" in name else "int8" if name == "qint8" else "int4" if name == "qint4" else None


@describes
def by_comfyui(module: Any) -> Conversion | None:
    """ComfyUI's layers, which cast their weight at each call; with --fast FP8 ones multiply in FP8."""
    kind = type(module)
    if not kind.__module__.startswith("comfy.ops"):
        return None
    float8 = "float8" in str(getattr(getattr(module, "weight", None), "dtype", ""))
    fast = "fp8_ops" in kind.__qualname__
    return Conversion("comfyui", "fp8" if float8 else None, "fp8" if fast and float8 else None)


@describes
def with_adapter(module: Any) -> Conversion | None:
    """A LoRA of peft that runs beside its layer; a merged one is part of the weight and costs nothing."""
    if not type(module).__module__.startswith("peft.tuners.lora") or not hasattr(module, "base_layer"):
        return None
    if getattr(module, "merged", False) or getattr(module, "disable_adapters", False):
        return None
    ranks = [module.r[name] for name in module.active_adapters if name in module.r]
    return Conversion("peft", adapter_rank=sum(ranks)) if ranks else None
