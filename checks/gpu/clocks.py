"""What did clocks, power and temperature do while the GPU was timed?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fp8doctor.checks.gpu.neighbours import Neighbour, Neighbourhood
from fp8doctor.checks.gpu.nvml import CLOCK_MEMORY, CLOCK_SM, Nvml, NvmlUnavailableError, milliwatts
from fp8doctor.checks.gpu.one_gpu import identity, temperature
from fp8doctor.checks.gpu.probe import twin
from fp8doctor.checks.torch_build.facts import TorchBuild, TorchDevice
from fp8doctor.measuring.statistics import quantile
from fp8doctor.model import Facts, ProbeRun, Request
from fp8doctor.registry import probe

INTERVAL_S = 0.1
# Five minutes at the first rate; beyond it every second sample is dropped and the rate is halved.
MAX_SAMPLES = 3000


@dataclass(frozen=True)
class ClockSample:
    """The sensors of one GPU at one moment. None = not supported, or the GPU did not answer."""

    # Seconds since the run began; timed cases count from the same moment.
    t_s: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    # From Ampere on (GA100 apart) the driver averages power over one second, so short peaks are flattened.
    power_w: float | None = None
    temperature_c: float | None = None
    event_reasons: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Clocks(Facts, key="clocks"):
    """The sensors of the examined GPU, sampled while it was timed."""

    # NVML's index and UUID of the GPU that was watched.
    gpu_index: int | None = None
    gpu_uuid: str | None = None
    interval_s: float | None = None
    samples: tuple[ClockSample, ...] | None = None
    # Other processes on the GPU meanwhile; None where they cannot be told apart from this run's own.
    neighbours: tuple[Neighbour, ...] | None = None
    # Why nothing could be sampled.
    error: str | None = None


@dataclass(frozen=True)
class ClockSummary:
    """What the sensors said during a span of time; `reasons` maps a clock event reason to its share of the samples."""

    samples: int
    sm_clock_mhz: float | None
    sm_clock_min_mhz: int | None
    power_max_w: float | None
    temperature_max_c: float | None
    reasons: dict[str, float]


def during(clocks: Clocks, start_s: float, end_s: float) -> ClockSummary | None:
    """Summarise the samples between two moments of the run, None if there is none.

    Args:
        clocks: what was sampled.
        start_s: the first moment, in seconds since the run began.
        end_s: the last moment.
    """
    taken = [s for s in clocks.samples or () if s.t_s is not None and start_s <= s.t_s <= end_s]
    if not taken:
        return None
    sm_clocks = sorted(s.sm_clock_mhz for s in taken if s.sm_clock_mhz is not None)
    reasons = [s.event_reasons for s in taken if s.event_reasons is not None]
    names = sorted({name for those in reasons for name in those})
    return ClockSummary(
        samples=len(taken),
        sm_clock_mhz=quantile(sm_clocks, 0.5) if sm_clocks else None,
        sm_clock_min_mhz=min(sm_clocks, default=None),
        power_max_w=max((s.power_w for s in taken if s.power_w is not None), default=None),
        temperature_max_c=max((s.temperature_c for s in taken if s.temperature_c is not None), default=None),
        reasons={name: sum(name in those for those in reasons) / len(reasons) for name in names},
    )


@probe(runs_in="tool", timeout_s=86_400, watches=True, modes=("default", "thorough", "bench"))
def watch(request: Request, torch_build: ProbeRun[TorchBuild]) -> Iterator[Clocks]:
    """Watching clocks and power."""
    try:
        nvml = Nvml()
    except NvmlUnavailableError as error:
        yield Clocks(samples=(), error=str(error))
        return
    index = nvml_index(nvml, request.gpu, (torch_build.facts or TorchBuild()).devices)
    handle = None if index is None else nvml.get("nvmlDeviceGetHandleByIndex", index)
    if handle is None:
        yield Clocks(samples=(), error=f"which of NVML's GPUs is torch's number {request.gpu} is not known")
        return
    uuid = nvml.get("nvmlDeviceGetUUID", handle)
    neighbourhood = Neighbourhood(nvml, handle)
    samples: list[ClockSample] = []
    interval_s, told_s = INTERVAL_S, 0.0
    while True:
        samples.append(_sample(nvml, handle, request.epoch_s))
        if len(samples) > MAX_SAMPLES:
            samples, interval_s = samples[::2], interval_s * 2
        now_s = time.monotonic()
        # Each telling is the whole record, so a long one is told less often.
        if now_s - told_s >= max(1.0, len(samples) / 1000):
            told_s = now_s
            neighbourhood.look(round(now_s - request.epoch_s, 1))
            yield Clocks(index, uuid, interval_s, tuple(samples), neighbourhood.seen)
        time.sleep(interval_s)


def nvml_index(nvml: Nvml, wanted: int, devices: tuple[TorchDevice, ...] | None) -> int | None:
    """NVML's index of torch's device number `wanted`, None rather than a guess.

    The two orders differ: torch follows CUDA_VISIBLE_DEVICES, and CUDA puts the fastest GPU first unless told
    otherwise.
    """
    count = nvml.get("nvmlDeviceGetCount") or 0
    device = next((d for d in devices or () if d.index == wanted), None)
    if device is not None:
        for i in range(count):
            handle = nvml.get("nvmlDeviceGetHandleByIndex", i)
            if handle is not None and twin(identity(nvml, i, handle), (device,)):
                return i
    return 0 if count == 1 and wanted == 0 else None


def _sample(nvml: Nvml, handle: Any, epoch_s: float) -> ClockSample:
    began = time.monotonic()
    sm = nvml.get("nvmlDeviceGetClockInfo", handle, CLOCK_SM)
    memory = nvml.get("nvmlDeviceGetClockInfo", handle, CLOCK_MEMORY)
    power = milliwatts(nvml.get("nvmlDeviceGetPowerUsage", handle))
    degrees = temperature(nvml, handle)
    reasons = nvml.event_reasons(handle)
    middle = (began + time.monotonic()) / 2
    return ClockSample(round(middle - epoch_s, 3), sm, memory, power, degrees, reasons)
