"""What does FP8 give each linear layer of a block, by itself?

torch is imported inside: this runs where the model is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from fp8doctor.checks.gpu.facts import FIRST_FP8
from fp8doctor.checks.linear.timing import outcome_of
from fp8doctor.checks.linear.variants import quantise_rows, quantise_tensor
from fp8doctor.checks.model.layers import MULTIPLE
from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.timer import Timer
from fp8doctor.model import Estimate
from fp8doctor.observed import LayerGain

# Fewer rows than a tile of FP8's products has: torch._scaled_mm pads them, torchao's inference kernels refuse them.
FEWEST_ROWS = 16
SAMPLES = 15
# Of sizes: a block of a transformer has four to eight.
MOST_SIZES = 24


def sizes(layers: list[tuple[str, int, int, int, int]]) -> list[LayerGain]:
    """Layers of one size together, the largest first.

    Args:
        layers: (name, how many of the model, rows, K, N) of each linear layer that was called.
    """
    found: dict[tuple[int, int, int], LayerGain] = {}
    for name, count, rows, k, n in layers:
        before = found.setdefault((rows, k, n), LayerGain(names=(), count=0, rows=rows, k=k, n=n))
        found[rows, k, n] = replace(before, names=(*(before.names or ()), name), count=(before.count or 0) + count)
    return sorted(found.values(), key=lambda one: -(one.rows or 0) * (one.k or 0) * (one.n or 0))[:MOST_SIZES]


def timed(groups: list[LayerGain], device: Any, scaling: str, left_s: Callable[[], float]) -> list[LayerGain]:
    """The same with their times, as far as there is a GPU with FP8, and seconds left."""
    import torch

    if device.type != "cuda" or torch.version.hip or torch.cuda.get_device_capability(device) < FIRST_FP8:
        return groups
    timer = Timer(torch, device)
    found: list[LayerGain] = []
    with torch.cuda.device(device), torch.no_grad(), _compiled_each():
        timer.calibrate()
        for group in groups:
            group = replace(group, scaling=scaling)
            if left_s() <= 0:
                found.append(replace(group, detail="no time was left"))
                continue
            try:
                found.append(_timed(timer, group))
            except Exception as error:
                found.append(replace(group, detail=outcome_of(torch, error)[1]))
                torch.cuda.empty_cache()
    return found


@contextlib.contextmanager
def _compiled_each() -> Iterator[None]:
    """Each size is compiled for itself, however many there are; the caller's own settings come back."""
    import torch._dynamo

    config: Any = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    with config.patch({limit: 4 * MOST_SIZES, "automatic_dynamic_shapes": False}):
        yield


def _timed(timer: Timer, group: LayerGain) -> LayerGain:
    """Three calls in turn; sizes that FP8 does not take are rounded up for it, as if the weight were padded."""
    torch, device = timer.torch, timer.device
    rows, k, n = group.rows or 0, group.k or 0, group.n or 0
    wide_k, wide_n = (-(-size // MULTIPLE) * MULTIPLE for size in (k, n))
    make = torch.randn
    x = make(rows, k, device=device, dtype=torch.bfloat16)
    weight = make(n, k, device=device, dtype=torch.bfloat16) / k**0.5
    wide_x, wide = x, weight
    if (wide_k, wide_n) != (k, n):
        wide_x = make(rows, wide_k, device=device, dtype=torch.bfloat16)
        wide = make(wide_n, wide_k, device=device, dtype=torch.bfloat16) / wide_k**0.5
    by_row = group.scaling == "rowwise"
    quantise = quantise_rows if by_row else quantise_tensor
    w8, w_scale = quantise(torch, wide)
    w_scale = w_scale.t().contiguous() if by_row else w_scale
    x8, x_scale = quantise(torch, wide_x)

    def product() -> Any:
        return torch._scaled_mm(x8, w8.t(), x_scale, w_scale, out_dtype=torch.bfloat16, use_fast_accum=True)

    def layer(x: Any) -> Any:
        q, scale = quantise(torch, x)
        return torch._scaled_mm(q, w8.t(), scale, w_scale, out_dtype=torch.bfloat16, use_fast_accum=True)

    compiled = torch.compile(layer, dynamic=False)
    calls: list[Callable[[], Any]] = [
        lambda: torch.nn.functional.linear(x, weight),
        product,
        lambda: compiled(wide_x),
    ]
    samples: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    paces = [timer.pace(call) for call in calls]
    for _ in range(SAMPLES // 5):
        for taken, call, pace in zip(samples, calls, paces, strict=True):
            taken += timer.device_samples(call, 5, pace)
    bf16, alone, whole = (_estimate(taken) for taken in samples)
    return replace(group, bf16_us=bf16, product_us=alone, layer_us=whole)


def _estimate(samples: list[float]) -> Estimate | None:
    return estimate(samples) if samples else None
