"""What was measured of each GPU of a box that has several."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fp8doctor.model import Facts


@dataclass(frozen=True)
class Rates:
    """What one GPU reached; None was not measured, or the format is not there."""

    # Products of 8,192 x 8,192 matrices (smaller where memory is short), held for the second half of a second.
    bf16_tflops: float | None = None
    fp8_tflops: float | None = None
    # Device-to-device copy in its own memory, bytes read plus bytes written.
    copy_gb_s: float | None = None
    # Relative Frobenius error of an FP8 product against FP32, and the most that the format explains.
    fp8_error: float | None = None
    fp8_error_limit: float | None = None
    # Sensors while products were held: the median of the clock, the most of the others.
    sm_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    # On the sensors' clock: seconds since the run began.
    started_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True)
class OneGpu:
    """One GPU, as torch numbers it."""

    index: int | None = None
    name: str | None = None
    compute_capability: str | None = None
    # The first digits of a hash of its UUID: the same in every report of this GPU, and nothing can be read from it.
    fingerprint: str | None = None
    # While the others of the box did the same at the same time, and while they did nothing.
    together: Rates | None = None
    alone: Rates | None = None
    # What ended its process, or was raised in it.
    error: str | None = None


@dataclass(frozen=True)
class Link:
    """A copy from one GPU's memory into another's."""

    source: int | None = None
    target: int | None = None
    # Whether the one reaches the other's memory directly (NVLink or PCIe peer access).
    direct: bool | None = None
    gb_s: float | None = None


@dataclass(frozen=True)
class EachGpu(Facts, key="each_gpu"):
    """Each GPU by itself and all of them at once. `measurable=False`: there are not two GPUs that torch can use."""

    measurable: bool | None = None
    why_not: str | None = None
    gpus: tuple[OneGpu, ...] | None = None
    links: tuple[Link, ...] | None = None
    # What did not fit into the time, or could not be tried, in words.
    not_measured: tuple[str, ...] | None = None
    took_s: float | None = None

    def compared(self) -> tuple[tuple[OneGpu, Rates], ...]:
        """Each GPU with the rates by which it may be held against the others.

        The better of alone and together, so that a moment's dip makes no slow GPU; where not all were measured both
        ways, one way for all: what one does alone and another beside others says nothing of either.
        """
        sound = [gpu for gpu in self.gpus or () if gpu.error is None]
        if all(gpu.alone and gpu.together for gpu in sound):
            return tuple((gpu, _better(gpu.alone or Rates(), gpu.together or Rates())) for gpu in sound)
        for how in ("together", "alone"):
            measured = [(gpu, rates) for gpu in sound if (rates := getattr(gpu, how)) is not None]
            if len(measured) == len(sound):
                return tuple(measured)
        return ()


def _better(alone: Rates, together: Rates) -> Rates:
    """The higher rates; all else as alone."""

    def most(name: str) -> float | None:
        known = [value for rates in (alone, together) if (value := getattr(rates, name)) is not None]
        return max(known, default=None)

    rates = {name: most(name) for name in ("bf16_tflops", "fp8_tflops", "copy_gb_s")}
    return replace(alone, **rates)
