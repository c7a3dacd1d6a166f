"""Steps are timed on their own device, and the device alone only behind a spin that held it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from fp8doctor.measuring.stepping import HELD_TRIES, SPIN, Meter


class Box:
    """Two GPUs, of which the first is the current one; a spin holds one if it is long enough."""

    def __init__(self, long_enough: float = 0.0) -> None:
        self.current, self.long_enough = 0, long_enough
        self.spins: list[int] = []
        self.used: set[int] = set()
        self.called_on: set[int] = set()
        self.cuda = SimpleNamespace(
            Event=lambda enable_timing=False: _Event(self), device=self._device, _sleep=self._sleep, synchronize=id
        )

    @contextmanager
    def _device(self, device: Any) -> Iterator[None]:
        before, self.current = self.current, device.index
        yield
        self.current = before

    def _sleep(self, cycles: int) -> None:
        self.used.add(self.current)
        self.spins.append(cycles)

    def step(self) -> None:
        self.called_on.add(self.current)


class _Event:
    def __init__(self, box: Box) -> None:
        self.box = box

    def record(self) -> None:
        self.box.used.add(self.box.current)

    def query(self) -> bool:
        return self.box.spins[-1] < self.box.long_enough

    def elapsed_time(self, other: _Event) -> float:
        return float(len(self.box.spins))


def meter(box: Box) -> Meter:
    return Meter(box, SimpleNamespace(type="cuda", index=1))


def test_what_is_timed_is_the_meters_device_and_the_step_runs_as_it_would() -> None:
    box = Box()
    assert len(meter(box).steps_ms(box.step, 4)) == 4
    assert len(meter(box).device_alone_ms(box.step, 2, 1.0)) == 2
    assert box.used == {1}
    assert box.called_on == {0}
    assert box.current == 0


def test_a_spin_that_was_over_too_early_is_doubled_and_stays_so() -> None:
    first = int(SPIN * 1e-3 * 2.6e9)
    box = Box(long_enough=1.5 * first)
    assert meter(box).device_alone_ms(box.step, 3, 1.0) == [2.0, 3.0, 4.0]
    assert box.spins == pytest.approx([first, 2 * first, 2 * first, 2 * first])


def test_where_no_spin_is_long_enough_it_is_not_tried_for_each_sample() -> None:
    box = Box(long_enough=float("inf"))
    assert len(meter(box).device_alone_ms(box.step, 3, 1.0)) == 3
    assert len(box.spins) == HELD_TRIES + 2
