"""Several calls that do the same task: how long does each take, when all are timed in turn?

Only the standard library is imported here; torch comes with the timer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.timer import SAMPLES_A_BATCH, Call, Pace, Timer
from fp8doctor.model import Estimate


@dataclass
class Contestant:
    """One call under way: how long it takes, roughly, and its samples so far, in microseconds."""

    call: Call
    pace: Pace
    device_samples: list[float] = field(default_factory=list)
    call_samples: list[float] = field(default_factory=list)
    host_samples: list[float] = field(default_factory=list)

    @property
    def device_us(self) -> Estimate | None:
        """Device time, None if launches could not be hidden behind the spinning kernel."""
        return estimate(self.device_samples) if self.device_samples else None

    @property
    def call_us(self) -> Estimate | None:
        """Time of a call in a loop, on the host's clock."""
        return estimate(self.call_samples) if self.call_samples else None

    @property
    def host_us(self) -> Estimate | None:
        """The part of the call time that the host spent asking."""
        return estimate(self.host_samples) if self.host_samples else None


def time_device(timer: Timer, contestants: Sequence[Contestant], rounds: int) -> None:
    """Take a batch of device samples of each contestant in turn, `rounds` times: drift hits all alike."""
    for _ in range(rounds):
        for contestant in contestants:
            contestant.device_samples += timer.device_samples(contestant.call, SAMPLES_A_BATCH, contestant.pace)


def time_calls(timer: Timer, contestants: Sequence[Contestant]) -> None:
    """Take one value of each contestant's call time.

    To be called several times, best with other work between: a host wavers over seconds, not milliseconds. And apart
    from the device's times, since loops without a pause bring a large GPU to its power limit.
    """
    for contestant in contestants:
        total_us, asking_us = timer.call_us(contestant.call)
        contestant.call_samples.append(total_us)
        contestant.host_samples.append(asking_us)
