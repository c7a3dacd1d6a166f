"""Which layers are timed: a person's own first, then those of the workload."""

from __future__ import annotations

import pytest

from fp8doctor.measuring.workloads import (
    DEFAULT_LAYERS,
    DEFAULT_TOKENS,
    LinearUse,
    Step,
    Workload,
    built_in,
    forward_part,
    layers,
    names,
)
from fp8doctor.model import Shape


def test_without_a_workload_it_is_the_default_sweep_largest_sizes_first() -> None:
    found = layers(None)
    assert tuple(found) == DEFAULT_LAYERS
    assert set(found.values()) == {tuple(sorted(DEFAULT_TOKENS, reverse=True))}
    # Multiples of 16 for FP8, of 128 for blocks.
    assert all(size % 128 == 0 for layer in found for size in layer)


def test_a_persons_own_shapes_come_first_and_only_at_their_own_sizes() -> None:
    found = layers(None, (Shape(77, 4096, 11008), Shape(154, 4096, 11008), Shape(8, 64, 32)))
    assert list(found)[:2] == [(4096, 11008), (64, 32)]
    assert found[4096, 11008] == (154, 77)
    assert found[64, 32] == (8,)
    assert list(found)[2:] == list(DEFAULT_LAYERS)


def test_a_size_more_for_a_layer_of_the_sweep_is_timed_with_the_others_and_once() -> None:
    found = layers(None, (Shape(512, 3072, 12288), Shape(256, 3072, 12288)))
    assert list(found) == [(3072, 12288), (3072, 3072), (12288, 3072)]
    assert found[3072, 12288] == (8192, 4096, 2048, 1024, 512, 256, 16)


def test_the_layers_of_a_workload_are_timed_at_its_own_tokens_those_with_the_most_work_first() -> None:
    step = Step(linears=(LinearUse(512, 64, 64, 1), LinearUse(512, 64, 256, 2), LinearUse(77, 64, 64, 3)))
    assert layers(Workload(steps=(step,))) == {(64, 256): (512,), (64, 64): (512, 77)}


@pytest.mark.parametrize("name", names())
def test_a_built_in_workload_knows_its_steps_and_their_layers(name: str) -> None:
    workload = built_in(name)
    assert workload.parameters
    assert workload.steps
    assert all(step.linears and step.attentions and step.tokens for step in workload.steps)


def test_a_workload_that_nobody_knows_is_refused() -> None:
    with pytest.raises(KeyError):
        built_in("weather")


def test_the_layers_of_a_training_step_are_left_to_the_probe_that_trains_them() -> None:
    small, large = LinearUse(512, 64, 64, 1), LinearUse(512, 64, 256, 2)
    train, prefill = Step(trains=True, linears=(small, large)), Step(linears=(small,))
    assert layers(forward_part(Workload(steps=(train, prefill)))) == {(64, 64): (512,)}
    assert layers(forward_part(Workload(steps=(train,)))) == {(64, 256): (512,)}
