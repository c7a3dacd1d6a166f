"""A whole step is made of its blocks' times, and layers stay in 16 bits for reasons: pure facts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8doctor.checks.model.trying.block_times import HOST_IS_AHEAD, BlockTime
from fp8doctor.checks.model.trying.choosing import REASONS, is_inexact, kept_back
from fp8doctor.checks.model.trying.estimating import SYSTEMATIC, Counted, whole_step
from fp8doctor.model import Estimate
from fp8doctor.observed import LayerError, LayerGain, StepRun


def about(median: float, below: float, above: float | None = None) -> Estimate:
    return Estimate(median, median - below, median + (below if above is None else above), 12)


def block(device: Estimate, host_ms: float = 0.1, loop: Estimate | None = None) -> BlockTime:
    return BlockTime(device, host_ms, loop or device)


def outside_of(device: float, within: float, host_ms: float) -> BlockTime:
    return block(about(device, within), host_ms)


GPU_BOUND = StepRun(step_ms=about(100, 3), host_ms=20.0)
HOST_BOUND = StepRun(step_ms=about(100, 30), host_ms=95.0)
TEN = {"blocks": Counted(10, block(about(8, 0.1), 2.0))}


def test_where_the_device_sets_the_pace_only_the_blocks_change() -> None:
    step = whole_step(GPU_BOUND, TEN, {"blocks": block(about(5, 0.1))}, None)
    assert step is not None
    assert step.median == 100 - 10 * 8 + 10 * 5


def test_the_interval_is_that_of_a_sum_of_independent_times() -> None:
    step = whole_step(GPU_BOUND, TEN, {"blocks": block(about(5, 0.2, 0.4))}, None)
    assert step is not None
    # The step's own +-3; the blocks now +-10 * 0.1; then -10 * 0.2 and +10 * 0.4; and what the method may be off.
    assert step.low == pytest.approx(70 - math.hypot(3, 1, 2, 70 * SYSTEMATIC), abs=1e-4)
    assert step.high == pytest.approx(70 + math.hypot(3, 1, 4, 70 * SYSTEMATIC), abs=1e-4)


def test_what_is_subtracted_widens_the_other_way() -> None:
    now = {"blocks": Counted(10, block(about(8, 0.5, 0.1)))}
    step = whole_step(StepRun(step_ms=about(100, 0)), now, {"blocks": block(about(5, 0))}, None)
    assert step is not None
    method = 70 * SYSTEMATIC
    assert [step.low, step.high] == pytest.approx([70 - math.hypot(1, method), 70 + math.hypot(5, method)], abs=1e-4)


def test_where_the_host_sets_the_pace_the_step_is_its_parts() -> None:
    outside = outside_of(12, 1, 15.0)
    step = whole_step(HOST_BOUND, TEN, {"blocks": block(about(5, 0.1), 0.5)}, outside)
    assert step is not None
    assert step.median == 12 + 10 * 5
    # The noise of a step that waits for the host is not in it.
    assert step.high == pytest.approx(62 + math.hypot(1, 1, 62 * SYSTEMATIC), abs=1e-4)


def test_where_nothing_is_known_of_the_outside_blocks_count_from_one_end_to_the_next() -> None:
    # The host holds the blocks as they are: 9.5 ms from end to end, of which the device works 8.
    now = {"blocks": Counted(10, block(about(8, 0.1), 9.4, about(9.5, 0.1)))}
    step = whole_step(HOST_BOUND, now, {"blocks": block(about(5, 0.1), 4.0, about(5.5, 0.1))}, None)
    assert step is not None
    assert step.median == 100 - 10 * 9.5 + 10 * 5.5


def test_a_host_that_is_ahead_is_none_that_sets_the_pace() -> None:
    run = replace(GPU_BOUND, host_ms=HOST_IS_AHEAD * 100)
    step = whole_step(run, TEN, {"blocks": block(about(5, 0.1), 0.5)}, outside_of(12, 1, 15.0))
    assert step is not None
    assert step.median == 70


def test_a_step_is_never_shorter_than_the_host_needs() -> None:
    step = whole_step(GPU_BOUND, TEN, {"blocks": block(about(1, 0.1), 9.0)}, outside_of(12, 1, 15.0))
    assert step is not None
    assert step.median == 105
    assert step.low > 100


def test_a_step_is_never_shorter_than_its_blocks() -> None:
    # Blocks that take longer by themselves than the step: their difference would be less than nothing.
    now = {"blocks": Counted(10, block(about(15, 0.1)))}
    step = whole_step(GPU_BOUND, now, {"blocks": block(about(4, 0.5))}, None)
    assert step is not None
    assert step.median == 35


def test_without_a_timed_step_or_times_of_the_blocks_nothing_is_said() -> None:
    new = {"blocks": block(about(5, 0.1))}
    assert whole_step(None, TEN, new, None) is None
    assert whole_step(StepRun(error="no"), TEN, new, None) is None
    assert whole_step(GPU_BOUND, {}, new, None) is None


TIMES = st.floats(0.01, 50.0)


@given(TIMES, TIMES, TIMES, TIMES, TIMES, TIMES, st.integers(1, 60), st.booleans())
def test_an_estimate_is_in_order_and_no_less_than_its_parts(
    step_ms: float, host_ms: float, now: float, new: float, rest: float, host: float, count: int, known: bool
) -> None:
    run = StepRun(step_ms=about(step_ms, step_ms / 10), host_ms=host_ms)
    outside = outside_of(rest, rest / 10, rest) if known else None
    made = whole_step(
        run, {"b": Counted(count, block(about(now, now / 10)))}, {"b": block(about(new, new / 10), host)}, outside
    )
    assert made is not None
    assert 0 <= made.low <= made.median <= made.high
    assert made.median >= count * new * 0.9 - 1e-3
    assert outside is None or made.median >= rest + count * host - 1e-3


# --- Which layers stay in 16 bits ---

FASTER = LayerGain(bf16_us=about(100, 1), product_us=about(60, 1), layer_us=about(80, 1))
SLOWER = replace(FASTER, product_us=about(101, 1))


def test_each_layer_that_stays_in_16_bits_has_its_reason() -> None:
    layers = {"up": (64, 128), "norm": (64, 384), "odd": (64, 130), "late": (64, 64), "narrow": (128, 16)}
    rows = {"up": 4096, "norm": 1, "odd": 4096, "narrow": 4096}
    gains = {(4096, 64, 128): FASTER, (4096, 128, 16): SLOWER}
    kept = kept_back(layers, rows, gains)
    assert kept == {"norm": "rows", "odd": "sizes", "late": "uncalled", "narrow": "slower"}
    assert set(kept.values()) < set(REASONS)


def test_a_product_within_the_noise_of_bf16s_is_not_faster() -> None:
    layers, rows = {"up": (64, 128)}, {"up": 4096}
    noisy = replace(FASTER, product_us=about(98, 5))
    assert kept_back(layers, rows, {(4096, 64, 128): noisy}) == {"up": "slower"}
    # A layer that is slower by its quantising alone may gain where that is fused with what is before it.
    quantising = replace(FASTER, layer_us=about(150, 1))
    assert kept_back(layers, rows, {(4096, 64, 128): quantising}) == {}


def test_what_was_not_timed_is_not_held_back() -> None:
    layers, rows = {"up": (64, 128)}, {"up": 4096}
    assert kept_back(layers, rows, {}) == {}
    assert kept_back(layers, rows, {(4096, 64, 128): LayerGain(detail="no time was left")}) == {}
    assert kept_back(layers, rows, {(16, 64, 128): SLOWER}) == {}  # of other rows


def test_a_layer_is_inexact_from_twice_the_formats_own_error_on() -> None:
    # e4m3 is off by 0.038 on random operands, 28.4 dB; twice that is 22.4 dB.
    assert [is_inexact(LayerError("up", decibels)) for decibels in (28.4, 22.5, 22.3, 0.0)] == [
        False, False, True, True,
    ]  # fmt: skip
    assert not is_inexact(LayerError("up", None))  # no error at all
