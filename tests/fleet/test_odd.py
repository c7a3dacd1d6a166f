"""Which GPU is the odd one, and which only seems to be."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from benchmarks.fleet import false_alarms, found
from fp8doctor.fleet.odd import find_odd, speed
from fp8doctor.fleet.record import GpuSeen, Node
from fp8doctor.measuring.odd_ones import LEAST_OF_FEW, limit


def nodes(*speeds: float, name: str = "NVIDIA H200", per_node: int = 8) -> list[Node]:
    gpus = [GpuSeen(i % per_node, name, None, 680 * s, 1280 * s, 4200.0) for i, s in enumerate(speeds)]
    return [
        Node(f"node-{start // per_node}", "", "", "ready", "", gpus=tuple(gpus[start : start + per_node]))
        for start in range(0, len(gpus), per_node)
    ]


def healthy(count: int, spread: float = 0.01, seed: int = 3) -> list[float]:
    chance = random.Random(seed)
    return [chance.gauss(1, spread) for _ in range(count)]


def test_a_slow_one_among_many_is_named_with_its_distance() -> None:
    speeds = healthy(64)
    speeds[20] = 0.9
    (spread, *_), (odd, *rest) = find_odd(nodes(*speeds))
    assert (odd.node, odd.index, odd.measure, rest) == ("node-2", 4, "compute", [])
    assert 9 < odd.slower_percent < 11
    assert odd.spreads is not None
    assert odd.spreads > limit(64)
    assert 0.7 < spread.spread_percent < 1.3


def test_slow_ones_do_not_hide_one_another() -> None:
    speeds = healthy(64)
    for slow in range(12):
        speeds[slow] = 0.9
    assert len(find_odd(nodes(*speeds))[1]) == 12


def test_a_fast_one_is_no_odd_one() -> None:
    speeds = healthy(64)
    speeds[20] = 1.1
    assert find_odd(nodes(*speeds))[1] == ()


def test_gpus_that_are_all_alike_give_no_alarm_for_what_one_measurement_is_good_for() -> None:
    assert find_odd(nodes(*([1.0] * 63), 0.985))[1] == ()
    assert len(find_odd(nodes(*([1.0] * 63), 0.97))[1]) == 1


def test_models_are_judged_apart() -> None:
    slower = nodes(*healthy(32, seed=1), name="NVIDIA H100") + nodes(*(0.6 * s for s in healthy(32, seed=2)))
    assert find_odd(slower)[1] == ()


def test_rates_of_other_products_are_not_held_against_each_other() -> None:
    """A single run searches for the best shape; each GPU of a box multiplies one that all can."""
    (one,), (four,) = nodes(0.9), nodes(1.0, 1.0, 1.0, 1.0)
    best = replace(one, gpus=tuple(replace(gpu, shape="best") for gpu in one.gpus))
    alike = replace(four, gpus=tuple(replace(gpu, shape="8192") for gpu in four.gpus))
    assert find_odd([best, alike])[1] == ()
    assert len(find_odd([one, four])[1]) > 0


@pytest.mark.parametrize("count", [2, 4, 7])
def test_few_gpus_are_held_against_one_another(count: int) -> None:
    enough, less = 1 - LEAST_OF_FEW - 0.01, 1 - LEAST_OF_FEW + 0.01
    (odd,) = find_odd(nodes(enough, *([1.0] * (count - 1))))[1]
    assert (odd.index, odd.spreads) == (0, None)
    assert find_odd(nodes(less, *([1.0] * (count - 1))))[1] == ()


def test_one_gpu_has_no_kind_to_be_held_against() -> None:
    assert find_odd(nodes(0.1)) == ((), ())


def test_what_was_not_measured_is_no_slow_one() -> None:
    unmeasured = Node("node-x", "", "", "ready", "", gpus=(GpuSeen(0, "NVIDIA H200"),))
    spreads, odd = find_odd([*nodes(*healthy(32)), unmeasured])
    assert odd == ()
    assert {one.gpus for one in spreads} == {32}
    for rate in (0.0, -1.0, float("nan"), float("inf"), None):
        assert speed(GpuSeen(0, "x", None, rate, 1280.0), "compute") is None


def test_copies_are_a_measure_of_their_own() -> None:
    made = nodes(*healthy(32))
    slow = GpuSeen(0, "NVIDIA H200", None, 680.0, 1280.0, 3000.0)
    made.append(Node("node-x", "", "", "ready", "", gpus=(slow,)))
    (odd,) = find_odd(made)[1]
    assert (odd.node, odd.measure) == ("node-x", "copy")


@pytest.mark.parametrize("spread", [0.005, 0.01, 0.02])
def test_among_a_thousand_the_larger_of_five_percent_and_five_spreads_is_found(spread: float) -> None:
    assert found(spread, max(0.05, 5 * spread), trials=40, seed=11) >= 0.9
    assert false_alarms(spread, trials=40, seed=12) <= 1.0
