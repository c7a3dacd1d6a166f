"""Which shapes are timed: a person's own first, then those of the workload."""

from __future__ import annotations

import pytest

from fp8doctor.measuring.workloads import DEFAULT, WORKLOADS, Workload, shapes
from fp8doctor.model import Shape


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=list(WORKLOADS))
def test_every_layer_of_a_workload_can_be_multiplied_in_fp8(workload: Workload) -> None:
    assert workload.layers
    assert workload.tokens
    # Multiples of 16 for FP8, of 128 for blocks.
    assert all(size % 128 == 0 for layer in workload.layers for size in layer)
    assert all(m > 0 for m in workload.tokens)


def test_without_a_wish_it_is_the_default_workload_largest_sizes_first() -> None:
    found = shapes(None, ())
    assert tuple(found) == DEFAULT.layers
    assert set(found.values()) == {(8192, 4096, 2048, 1024, 256, 16)}
    assert found == shapes("default", ())


def test_a_persons_own_shapes_come_first_and_only_at_their_own_sizes() -> None:
    found = shapes(None, (Shape(77, 4096, 11008), Shape(154, 4096, 11008), Shape(8, 64, 32)))
    assert list(found)[:2] == [(4096, 11008), (64, 32)]
    assert found[4096, 11008] == (154, 77)
    assert found[64, 32] == (8,)
    assert list(found)[2:] == list(DEFAULT.layers)


def test_a_size_more_for_a_layer_of_the_workload_is_timed_with_the_others_and_once() -> None:
    found = shapes(None, (Shape(512, 3072, 12288), Shape(256, 3072, 12288)))
    assert list(found) == [(3072, 12288), (3072, 3072), (12288, 3072)]
    assert found[3072, 12288] == (8192, 4096, 2048, 1024, 512, 256, 16)


def test_a_workload_that_nobody_knows_is_refused() -> None:
    with pytest.raises(KeyError):
        shapes("weather", ())
