"""What can this box do at best? A short search for the fastest GEMM, its sustained rate, the copy rate, a launch.

Runs in the child; torch comes in as an argument.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fp8doctor.checks.linear.facts import Ceiling, Ceilings
from fp8doctor.checks.linear.variants import fp8_dtype
from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.timer import Pace, Timer

# Seconds for each format: the search, and holding the best.
SEARCH_S = 1.2
SUSTAIN_S = 1.0
# A burst lasts about this long (at least this many products), after a pause in which the power budget recovers.
BURST_S = 0.002
LEAST_BURST = 3
PAUSE_S = 0.005
# Between two events of the sustained phase.
STEP_S = 0.01
# Only to choose the number of products of a burst.
ASSUMED_FLOPS = {"bf16": 5e14, "fp8": 1e15}
COPY_BYTES = 2 << 30
LAUNCH_CALLS = 1000


def measure(torch: Any, timer: Timer, *, epoch_s: float, with_fp8: bool) -> Ceilings:
    """Measure all ceilings, in about 5 s.

    Args:
        torch: the module.
        timer: for the device.
        epoch_s: time.monotonic() at the start of the run; the sustained phases are told on this clock.
        with_fp8: whether an FP8 product is worth trying.
    """
    began = time.monotonic()
    shapes = search_shapes(torch.cuda.get_device_properties(timer.device))
    bf16 = _ceiling(torch, timer, "bf16", shapes, epoch_s)
    fp8 = _ceiling(torch, timer, "fp8", shapes, epoch_s) if with_fp8 else None
    return Ceilings(
        bf16=bf16,
        fp8=fp8,
        copy_gb_s=copy_gb_s(torch, timer),
        launch_us=estimate(_launch_samples(torch, timer)),
        took_s=round(time.monotonic() - began, 2),
        started_s=round(began - epoch_s, 3),
        ended_s=round(time.monotonic() - epoch_s, 3),
    )


def search_shapes(properties: Any) -> list[tuple[int, int, int]]:
    """Shapes (M, K, N) to try, those that tend to win first.

    Libraries cut the output into tiles of up to 256 x 128; a product whose tiles fill every multiprocessor the same
    number of times leaves none idle at the end (wave quantisation, NVIDIA "Matrix Multiplication Background User's
    Guide", section 4.1). So M and N are chosen as such multiples, beside plain powers of two.
    """
    sms = properties.multi_processor_count
    rows, columns = _near_square(sms)
    memory = properties.total_memory
    aligned = [
        (rows * 128 * a, k, columns * 256 * b)
        for k in (4096, 8192, 3072, 16384)
        for a, b in ((4, 2), (2, 2), (4, 1), (6, 2), (2, 1), (8, 4))
    ]
    transposed = [(columns * 256 * b, k, rows * 128 * a) for k in (4096, 8192) for a, b in ((4, 2), (2, 2), (2, 1))]
    plain = [(size, k, size) for size in (8192, 4096, 16384) for k in (4096, 8192)]
    # The two operands and the result, in BF16, within a quarter of the memory.
    return [s for s in plain[:2] + aligned + transposed + plain[2:] if 2 * _elements(s) < memory / 4]


def _near_square(count: int) -> tuple[int, int]:
    """Factors of `count`, as alike as they come: 132 = 11 x 12."""
    low = next(f for f in range(int(count**0.5), 0, -1) if count % f == 0)
    return low, count // low


def _elements(shape: tuple[int, int, int]) -> int:
    m, k, n = shape
    return m * k + k * n + m * n


def _ceiling(
    torch: Any, timer: Timer, number_format: str, shapes: list[tuple[int, int, int]], epoch_s: float
) -> Ceiling | None:
    rates: dict[tuple[int, int, int], float] = {}
    until = time.monotonic() + SEARCH_S
    for shape in shapes:
        if time.monotonic() > until:
            break
        rate = burst_tflops(torch, timer, number_format, shape)
        if rate is not None:
            rates[shape] = rate
    if not rates:
        return None
    # The three best once more: one burst may have caught the chip at a bad moment.
    for shape in sorted(rates, key=lambda s: -rates[s])[:3]:
        again = max((burst_tflops(torch, timer, number_format, shape) or 0.0) for _ in range(3))
        rates[shape] = max(rates[shape], again)
    best = max(rates, key=lambda s: rates[s])
    started = time.monotonic()
    sustained = sustained_tflops(torch, timer, number_format, best, SUSTAIN_S)
    return Ceiling(
        format=number_format,
        m=best[0],
        k=best[1],
        n=best[2],
        burst_tflops=round(rates[best], 1),
        sustained_tflops=None if sustained is None else round(sustained, 1),
        started_s=round(started - epoch_s, 3),
        ended_s=round(time.monotonic() - epoch_s, 3),
        shapes_tried=len(rates),
    )


def product(torch: Any, device: Any, number_format: str, shape: tuple[int, int, int]) -> Callable[[], Any]:
    """A call that multiplies seeded random operands of `shape` (M, K, N) in BF16, or in FP8 with one scale a tensor."""
    m, k, n = shape
    torch.manual_seed(0)
    a = torch.randn(m, k, device=device, dtype=torch.bfloat16)
    b = torch.randn(n, k, device=device, dtype=torch.bfloat16)
    if number_format == "bf16":
        return lambda: torch.mm(a, b.t())
    a8, b8 = a.to(fp8_dtype(torch)), b.to(fp8_dtype(torch))
    one = torch.ones((), device=device, dtype=torch.float32)
    return lambda: torch._scaled_mm(a8, b8.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)


def burst_tflops(torch: Any, timer: Timer, number_format: str, shape: tuple[int, int, int]) -> float | None:
    """The rate of a few products back to back, in TFLOP/s; None if the shape is refused or does not fit."""
    try:
        call = product(torch, timer.device, number_format, shape)
        call()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        m, k, n = shape
        calls = max(LEAST_BURST, round(BURST_S * ASSUMED_FLOPS[number_format] / (2.0 * m * k * n)))
        torch.cuda.synchronize(timer.device)
        time.sleep(PAUSE_S)
        start.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize(timer.device)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
    except RuntimeError:
        return None
    return float(2.0 * m * k * n * calls / (start.elapsed_time(end) * 1e-3) / 1e12)


def sustained_tflops(
    torch: Any, timer: Timer, number_format: str, shape: tuple[int, int, int], seconds: float
) -> float | None:
    """The rate over the second half of `seconds` of products without a pause, in TFLOP/s; None if too few fit."""
    call = product(torch, timer.device, number_format, shape)
    m, k, n = shape
    calls = max(1, round(STEP_S * ASSUMED_FLOPS[number_format] / (2.0 * m * k * n)))
    events: list[Any] = []
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        for _ in range(calls):
            call()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        events.append(event)
        if len(events) > 4:  # the host stays a few steps ahead, not seconds
            events[-4].synchronize()
    torch.cuda.synchronize(timer.device)
    half = events[len(events) // 2 :]
    steps = len(half) - 1
    if steps < 1:
        return None
    return float(2.0 * m * k * n * calls * steps / (half[0].elapsed_time(half[-1]) * 1e-3) / 1e12)


def copy_gb_s(torch: Any, timer: Timer) -> float | None:
    """Device-to-device copy in GB/s, bytes read plus bytes written; None where memory is short or launches show."""
    try:
        source = torch.empty(COPY_BYTES, dtype=torch.int8, device=timer.device).random_(0, 100)
        target = torch.empty_like(source)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
    samples = timer.device_samples(lambda: target.copy_(source), 7, Pace(device_us=1000.0, host_us=20.0))
    if not samples:  # launches show
        return None
    return round(2 * COPY_BYTES / sorted(samples)[len(samples) // 2] * 1e6 / 1e9, 1)


def _launch_samples(torch: Any, timer: Timer) -> list[float]:
    """Host microseconds of an eager addition that the device finishes faster than the host asks for it."""
    x = torch.ones(16, device=timer.device)
    samples = []
    for _ in range(7):  # the launch is the point: the sum is thrown away
        torch.cuda.synchronize(timer.device)
        began = time.perf_counter()
        for _ in range(LAUNCH_CALLS):
            x + x
        samples.append((time.perf_counter() - began) / LAUNCH_CALLS * 1e6)
        torch.cuda.synchronize(timer.device)
    return samples
