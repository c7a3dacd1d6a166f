"""How long do the collectives that training calls take among these GPUs?

Runs in the worker; torch is imported inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fp8doctor.checks.parallel.plan import Case, Sizes
from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.stepping import Meter

# What algorithm bandwidth is multiplied by: what each link carries. Source: nccl-tests, doc/PERFORMANCE.md, "Summary".
_ON_THE_BUS: dict[str, Callable[[int], float]] = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
}


def bandwidths(name: str, gpus: int, size_bytes: int, us: float) -> tuple[float, float]:
    """Algorithm and bus bandwidth in GB/s; `size_bytes` is that of a rank's larger array."""
    algorithm = size_bytes / us / 1e3
    return round(algorithm, 2), round(algorithm * _ON_THE_BUS[name](gpus), 2)


def measure(meter: Meter, case: Case, sizes: Sizes) -> dict[str, Any]:
    """Time one collective, call after call; its time and bandwidths."""
    call, elements, size_bytes = _call(meter, case)
    times_ms = meter.steps_ms(call, sizes.collective_samples)
    time_us = estimate([1e3 * ms for ms in times_ms])
    algorithm, bus = bandwidths(case.collective, case.gpus, size_bytes, time_us.median)
    return {
        "time_us": time_us,
        "elements": elements,
        "size_bytes": size_bytes,
        "algorithm_gb_s": algorithm,
        "bus_gb_s": bus,
    }


def _call(meter: Meter, case: Case) -> tuple[Callable[[], Any], int, int]:
    """The call, the elements of its larger array, and their bytes."""
    torch, n = meter.torch, case.gpus
    from torch import distributed

    dtype = torch.uint8 if case.dtype == "uint8" else torch.bfloat16
    each = max(1, case.size_bytes // dtype.itemsize // n)
    whole = torch.randint(0, 100, (each * n,), dtype=torch.uint8, device=meter.device).to(dtype)
    part = whole[:each].clone()
    calls: dict[str, Callable[[], Any]] = {
        "all-reduce": lambda: distributed.all_reduce(whole),
        "all-gather": lambda: distributed.all_gather_into_tensor(whole, part),
        "reduce-scatter": lambda: distributed.reduce_scatter_tensor(part, whole),
    }
    return calls[case.collective], each * n, each * n * dtype.itemsize
