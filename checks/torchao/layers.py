"""How did torchao convert a layer of somebody's model?

Sources: torchao 0.17's quantization/quantize_/workflows/float8/float8_tensor.py (Float8Tensor: `act_quant_kwargs` is
set where activations are quantised too, `block_size` is what shares a scale), dtypes/ (AffineQuantizedTensor and its
`tensor_impl`, LinearActivationQuantizedTensor round it), float8/float8_linear.py (Float8Linear, for training).
"""

from __future__ import annotations

from typing import Any

from fp8doctor.observed import Conversion
from fp8doctor.registry import describes

_KEPT = {"float8_e4m3fn": "fp8", "float8_e5m2": "fp8", "float8_e4m3fnuz": "fp8", "int8": "int8", "uint8": "int8"}


@describes
def by_torchao(module: Any) -> Conversion | None:
    """A weight that is one of torchao's tensors, or a layer that trains in its float8."""
    if type(module).__module__.startswith("torchao.float8") and type(module).__name__ == "Float8Linear":
        return _trained(module)
    weight = getattr(module, "weight", None)
    weight = getattr(weight, "data", weight)
    if weight is None or not type(weight).__module__.startswith("torchao"):
        return None
    activations = type(weight).__name__ == "LinearActivationQuantizedTensor"
    inner = weight.original_weight_tensor if activations else weight
    if type(inner).__name__ == "Float8Tensor":
        activations = inner.act_quant_kwargs is not None
        return Conversion("torchao", "fp8", "fp8" if activations else None, _scaling(inner.block_size, inner.shape))
    return _affine(inner, activations)


def _trained(module: Any) -> Conversion:
    # The granularity's own text: "tensorwise", "axiswise".
    granularity = str(getattr(module.config.cast_config_input.scaling_granularity, "value", ""))
    return Conversion("torchao", None, "fp8", {"axiswise": "rowwise"}.get(granularity, granularity) or None)


def _affine(tensor: Any, activations: bool) -> Conversion:
    """AffineQuantizedTensor and its like, by what lies in them."""
    kept = "int4" if "int4" in type(getattr(tensor, "tensor_impl", tensor)).__name__.lower() else None
    block = getattr(tensor, "block_size", None)
    data = tensor
    while kept is None and hasattr(data, "__tensor_flatten__"):
        names, _ = data.__tensor_flatten__()
        data = getattr(data, names[0])
        kept = _KEPT.get(str(getattr(data, "dtype", "")).removeprefix("torch."))
    return Conversion("torchao", kept, kept if activations else None, _scaling(block, tensor.shape))


def _scaling(block: Any, shape: Any) -> str | None:
    """What shares a scale: a row of the weight, all of it, or a block."""
    if block is None or len(block) != 2:
        return None
    if tuple(block) == tuple(shape):
        return "tensorwise"
    return "rowwise" if block[0] == 1 and block[1] == shape[1] else "block"
