"""The configurations of a linear layer that compete: how each is built, and the code that a user would write.

Runs in the child; torch comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

# A call from a BF16 activation (M x K) to a BF16 output (M x N).
Layer = Callable[[Any], Any]
# Keeps a row of zeros from dividing by zero.
SMALLEST_SCALE = 1e-12


@dataclass(frozen=True)
class Variant:
    """One configuration: `build` makes the layer from a weight (N x K, BF16).

    `numerics` names the entry of the error limits; `library` what must be installed for it.
    """

    config: str
    numerics: str
    build: Callable[[Any, Any], Layer]
    library: str = "torch"
    multiplies_in_fp8: bool = True
    compiled: bool = False
    # Each call copies something to the host and waits for it: its work cannot be queued, so only the call is timed.
    reads_back: bool = False


def variants() -> tuple[Variant, ...]:
    """All configurations, the most telling first. Compiled ones follow their eager twins."""
    eager = (
        Variant("torch-bf16", "bf16-output", _bf16, multiplies_in_fp8=False),
        Variant("torch-fp8-rowwise", "e4m3", _rowwise),
        Variant("torch-fp8-tensorwise", "e4m3", _tensorwise),
        Variant("torchao-fp8-rowwise", "e4m3", _torchao_rowwise, library="torchao"),
        Variant("torchao-fp8-tensorwise", "e4m3", _torchao_tensorwise, library="torchao"),
        # Asks `"FakeTensor" in input.__repr__()` at each eager call, which prints the tensor: torchao/kernel/intmm.py
        # in 0.17 and 0.18, pytorch/ao#4872. Compiled it does not.
        Variant("torchao-int8-dynamic", "int8", _torchao_int8, "torchao", multiplies_in_fp8=False, reads_back=True),
        Variant("torch-fp8-tensorwise-static", "e4m3", _tensorwise_static),
        Variant("torch-fp8-blockwise", "e4m3", _blockwise),
        Variant("torch-fp8-weightonly", "e4m3-one-operand", _weight_only, multiplies_in_fp8=False),
        Variant(
            "torchao-fp8-weightonly",
            "e4m3-one-operand",
            _torchao_weight_only,
            library="torchao",
            multiplies_in_fp8=False,
        ),
    )
    found: list[Variant] = []
    for variant in eager:
        found.append(variant)
        if variant.config != "torch-fp8-blockwise":
            found.append(replace(variant, config=f"{variant.config}+compile", compiled=True, reads_back=False))
    return tuple(found)


def fp8_dtype(torch: Any) -> Any:
    """e4m3 as this GPU's matrix cores know it: AMD's gfx942 has only the fnuz variant, all others OCP's."""
    if torch.version.hip and "gfx942" in torch.cuda.get_device_properties(torch.cuda.current_device()).gcnArchName:
        return torch.float8_e4m3fnuz
    return torch.float8_e4m3fn


def quantise(torch: Any, x: Any, amax: Any) -> tuple[Any, Any]:
    """Scale `x` so that `amax` becomes the format's largest value; returns (FP8 tensor, decode scale in FP32)."""
    dtype = fp8_dtype(torch)
    largest = torch.finfo(dtype).max
    scale = (amax.float() / largest).clamp(min=SMALLEST_SCALE)
    return (x.float() / scale).clamp(-largest, largest).to(dtype), scale


def quantise_tensor(torch: Any, x: Any) -> tuple[Any, Any]:
    """One scale for the whole tensor."""
    return quantise(torch, x, x.abs().amax())


def quantise_rows(torch: Any, x: Any) -> tuple[Any, Any]:
    """One scale for each row, shape (rows, 1)."""
    return quantise(torch, x, x.abs().amax(dim=-1, keepdim=True))


def _bf16(torch: Any, weight: Any) -> Layer:
    linear = _module(torch, weight)
    return lambda x: linear(x)


def _module(torch: Any, weight: Any) -> Any:
    n, k = weight.shape
    linear = torch.nn.Linear(k, n, bias=False, device=weight.device, dtype=weight.dtype)
    linear.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    return linear


def _rowwise(torch: Any, weight: Any) -> Layer:
    w8, w_scale = quantise_rows(torch, weight)
    w_scale = w_scale.t().contiguous()

    def layer(x: Any) -> Any:
        x8, x_scale = quantise_rows(torch, x)
        return torch._scaled_mm(x8, w8.t(), x_scale, w_scale, out_dtype=torch.bfloat16, use_fast_accum=True)

    return layer


def _tensorwise(torch: Any, weight: Any) -> Layer:
    w8, w_scale = quantise_tensor(torch, weight)

    def layer(x: Any) -> Any:
        x8, x_scale = quantise_tensor(torch, x)
        return torch._scaled_mm(x8, w8.t(), x_scale, w_scale, out_dtype=torch.bfloat16, use_fast_accum=True)

    return layer


def _tensorwise_static(torch: Any, weight: Any) -> Layer:
    w8, w_scale = quantise_tensor(torch, weight)
    dtype = fp8_dtype(torch)
    largest = torch.finfo(dtype).max
    # A calibrated scale: five standard deviations of a normal activation stay in range.
    x_scale = torch.tensor(5.0 / largest, device=weight.device, dtype=torch.float32)

    def layer(x: Any) -> Any:
        x8 = (x.float() / x_scale).clamp(-largest, largest).to(dtype)
        return torch._scaled_mm(x8, w8.t(), x_scale, w_scale, out_dtype=torch.bfloat16, use_fast_accum=True)

    return layer


def _blockwise(torch: Any, weight: Any) -> Layer:
    """1x128 blocks for activations, 128x128 for weights, as DeepSeek-V3 was trained (arXiv 2412.19437, 3.3.2)."""
    from torch.nn.functional import ScalingType, scaled_mm

    n, k = weight.shape
    blocks = weight.view(n // 128, 128, k // 128, 128)
    w8, w_scale = quantise(torch, blocks, blocks.abs().amax(dim=(1, 3), keepdim=True))
    w8 = w8.view(n, k)
    w_scale = w_scale.view(n // 128, k // 128)

    def layer(x: Any) -> Any:
        m = x.shape[0]
        x8, x_scale = quantise_rows(torch, x.view(m, k // 128, 128))
        # cuBLASLt wants the scales of one block column beside one another: strides (1, M).
        x_scale = x_scale.view(m, k // 128).t().contiguous().t()
        return scaled_mm(
            x8.view(m, k),
            w8.t(),
            x_scale,
            ScalingType.BlockWise1x128,
            w_scale.t(),
            ScalingType.BlockWise128x128,
            output_dtype=torch.bfloat16,
        )

    return layer


def _weight_only(torch: Any, weight: Any) -> Layer:
    w8, w_scale = quantise_rows(torch, weight)

    def layer(x: Any) -> Any:
        return torch.nn.functional.linear(x, (w8.float() * w_scale).to(torch.bfloat16))

    return layer


def _torchao(torch: Any, weight: Any, config: Any) -> Layer:
    from torchao.quantization import quantize_

    # In a Sequential: quantize_ replaces weights of the linears inside what it is given.
    model = torch.nn.Sequential(_module(torch, weight))
    quantize_(model, config)
    if model[0].weight.dtype == weight.dtype and type(model[0].weight.data) is torch.Tensor:
        raise RuntimeError("torchao left the weight as it was")
    return lambda x: model(x)


def _torchao_rowwise(torch: Any, weight: Any) -> Layer:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow

    return _torchao(torch, weight, _quiet(Float8DynamicActivationFloat8WeightConfig, granularity=PerRow()))


def _torchao_tensorwise(torch: Any, weight: Any) -> Layer:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerTensor

    return _torchao(torch, weight, _quiet(Float8DynamicActivationFloat8WeightConfig, granularity=PerTensor()))


def _quiet(config: Any, **arguments: Any) -> Any:
    """A torchao config without torchao's own Inductor settings, where it has that switch.

    They turn on coordinate descent tuning: on an H200 a layer then took up to 13 s to compile instead of 1 s, and ran
    3 % (row-wise) to 7 % (tensor-wise) faster (benchmarks/RESULTS.md).
    """
    import inspect

    if "set_inductor_config" in inspect.signature(config).parameters:
        arguments["set_inductor_config"] = False
    return config(**arguments)


def _torchao_weight_only(torch: Any, weight: Any) -> Layer:
    from torchao.quantization import Float8WeightOnlyConfig

    return _torchao(torch, weight, _quiet(Float8WeightOnlyConfig))


def _torchao_int8(torch: Any, weight: Any) -> Layer:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig

    return _torchao(torch, weight, _quiet(Int8DynamicActivationInt8WeightConfig))


def gemms(torch: Any, x: Any, weight: Any) -> dict[str, Callable[[], Callable[[], Any]]]:
    """The bare matrix products, from operands that are quantised already: {config: builder of the call}.

    Building quantises; the call multiplies. `x` is (M x K) and `weight` (N x K), both BF16.
    """

    def bf16() -> Callable[[], Any]:
        w = weight.t()
        return lambda: torch.mm(x, w)

    def tensorwise(fast: bool) -> Callable[[], Any]:
        x8, x_scale = quantise_tensor(torch, x)
        w8, w_scale = quantise_tensor(torch, weight)
        return _scaled(torch, x8, w8, x_scale, w_scale, fast)

    def rowwise(fast: bool) -> Callable[[], Any]:
        x8, x_scale = quantise_rows(torch, x)
        w8, w_scale = quantise_rows(torch, weight)
        return _scaled(torch, x8, w8, x_scale, w_scale.t().contiguous(), fast)

    return {
        "torch-bf16": bf16,
        "torch-fp8-tensorwise": lambda: tensorwise(True),
        "torch-fp8-rowwise": lambda: rowwise(True),
        "torch-fp8-tensorwise-slowaccum": lambda: tensorwise(False),
        "torch-fp8-rowwise-slowaccum": lambda: rowwise(False),
    }


def _scaled(torch: Any, x8: Any, w8: Any, x_scale: Any, w_scale: Any, fast: bool) -> Callable[[], Any]:
    return lambda: torch._scaled_mm(x8, w8.t(), x_scale, w_scale, out_dtype=torch.bfloat16, use_fast_accum=fast)
