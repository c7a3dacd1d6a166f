"""What did the GPU's sensors show over the run?"""

from __future__ import annotations

from typing import Any

from fp8doctor.checks.gpu.clocks import Clocks, ClockSample
from fp8doctor.model import Exhibit
from fp8doctor.registry import exhibit

# More points than this show no more: the median of each span stands for it, between its least and its most.
MOST_POINTS = 150


@exhibit
def clocks_over_time(clocks: Clocks) -> Exhibit | None:
    """The clock of the GPU's processors over the run, the least and most of each span of time."""
    return _over_time(clocks, "clocks-sm", "sm_clock_mhz", "SM clock", "MHz")


@exhibit
def power_over_time(clocks: Clocks) -> Exhibit | None:
    """Its power over the run; from Ampere on (GA100 apart) the driver averages it over one second."""
    return _over_time(clocks, "clocks-power", "power_w", "power", "W", ", as the driver averages it")


@exhibit
def temperature_over_time(clocks: Clocks) -> Exhibit | None:
    """Its temperature over the run."""
    return _over_time(clocks, "clocks-temperature", "temperature_c", "GPU temperature", "°C")


def _over_time(clocks: Clocks, id: str, field: str, series: str, unit: str, how: str = "") -> Exhibit | None:
    taken = [s for s in clocks.samples or () if s.t_s is not None and getattr(s, field) is not None]
    if not taken:
        return None
    size = -(-len(taken) // MOST_POINTS)
    rows = tuple(_span(taken[at : at + size], field, series) for at in range(0, len(taken), size))
    return Exhibit(id, "lines", f"{series} over the run{how}", unit, rows, x_title="seconds since the run began")


def _span(samples: list[ClockSample], field: str, series: str) -> dict[str, Any]:
    """Neighbouring samples as one point: the median, between the least and the most."""
    values = sorted(getattr(sample, field) for sample in samples)
    middle = samples[len(samples) // 2]
    return {
        "series": series,
        "x": round(middle.t_s or 0.0, 1),
        "y": values[len(values) // 2],
        "low": values[0] if len(values) > 1 else None,
        "high": values[-1] if len(values) > 1 else None,
    }
