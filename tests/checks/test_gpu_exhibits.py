"""The sensors over the run: few points, nothing lost that was extreme, nothing drawn that was not sampled."""

from __future__ import annotations

from fp8doctor.checks.gpu.clocks import Clocks, ClockSample
from fp8doctor.checks.gpu.exhibits import MOST_POINTS, clocks_over_time, power_over_time, temperature_over_time
from fp8doctor.model import EXHIBIT_ROWS, Exhibit


def sampled(count: int) -> Clocks:
    """One dip of the clock and one peak of power, in one sample each."""
    samples = (
        ClockSample(
            t_s=0.1 * at,
            sm_clock_mhz=900 if at == 1234 else 1980,
            power_w=701.5 if at == 777 else 400.0,
            temperature_c=50,
        )
        for at in range(count)
    )
    return Clocks(gpu_index=0, samples=tuple(samples))


def made(exhibit: Exhibit | None) -> Exhibit:
    assert exhibit is not None
    assert all(row.keys() == EXHIBIT_ROWS["lines"].keys() for row in exhibit.rows)
    return exhibit


def test_a_short_run_is_drawn_sample_by_sample() -> None:
    drawn = made(clocks_over_time(sampled(20)))
    assert [(row["x"], row["y"]) for row in drawn.rows][:2] == [(0.0, 1980), (0.1, 1980)]
    assert all(row["low"] is None for row in drawn.rows)
    assert (drawn.unit, drawn.x_title) == ("MHz", "seconds since the run began")


def test_of_a_long_run_no_dip_and_no_peak_is_lost() -> None:
    long = sampled(3000)
    clocks, power = made(clocks_over_time(long)), made(power_over_time(long))
    assert len(clocks.rows) <= MOST_POINTS
    assert min(row["low"] for row in clocks.rows) == 900
    assert max(row["high"] for row in power.rows) == 701.5
    assert {row["y"] for row in power.rows} == {400.0}, "one sample does not move the median of its span"


def test_what_was_not_sampled_is_not_drawn() -> None:
    mute = Clocks(samples=(ClockSample(t_s=0.0, sm_clock_mhz=1980), ClockSample(t_s=None, sm_clock_mhz=1)))
    assert len(made(clocks_over_time(mute)).rows) == 1
    assert power_over_time(mute) is None
    assert temperature_over_time(Clocks(samples=(), error="no NVML")) is None
    assert clocks_over_time(Clocks()) is None
