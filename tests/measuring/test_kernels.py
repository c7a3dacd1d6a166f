"""A profiled timeline is split into calls at the kernels that stand between them."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8doctor.measuring.kernels import split_calls

SPIN = "void at::cuda::(anonymous namespace)::spin_kernel(long)"
FLUSH = "void at::native::vectorized_elementwise_kernel<16, at::native::FillFunctor<signed char>>"
GEMM = "nvjet_sm90_qqtst_128x128_128x6_1x2_h_bz_ovscale_TNT"
CAST = "triton_red_fused__to_copy_abs_amax_0"

Events = list[tuple[float, str, float]]


def timeline(*calls: list[tuple[str, float]]) -> Events:
    """What the profiler sees of these calls, each flushed before and fenced by two spinning kernels."""
    kernels = [k for call in calls for k in ((FLUSH, 55.0), (SPIN, 0.8), *call, (SPIN, 0.8))]
    starts = accumulate((us for _, us in kernels), initial=100.0)
    return [(start, name, us) for start, (name, us) in zip(starts, kernels, strict=False)]


def test_each_call_gets_its_own_kernels_in_order_and_no_flush() -> None:
    layer, product = [(CAST, 45.3), (GEMM, 52.03)], [(GEMM, 53.76)]
    assert split_calls(timeline(layer, product), 2) == [layer, product]


def test_the_order_in_which_the_profiler_tells_them_does_not_matter() -> None:
    layer = [(CAST, 45.3), (GEMM, 52.03)]
    assert split_calls(timeline(layer, layer)[::-1], 2) == [layer, layer]


def test_a_call_that_ran_no_kernel_has_none() -> None:
    assert split_calls(timeline([], [(GEMM, 50.0)]), 2) == [[], [(GEMM, 50.0)]]


@pytest.mark.parametrize("lost", range(4))
def test_a_timeline_that_lost_a_separator_says_nothing(lost: int) -> None:
    events = timeline([(GEMM, 50.0)], [(GEMM, 50.0)])
    events.remove([event for event in events if event[1] == SPIN][lost])
    assert split_calls(events, 2) is None


def test_a_profiler_that_saw_nothing_says_nothing() -> None:
    assert split_calls([], 3) is None
    assert split_calls([], 0) == []


@given(st.lists(st.lists(st.tuples(st.sampled_from([GEMM, CAST, "Memset (Device)"]), st.integers(1, 900)))))
def test_any_calls_come_back_as_they_were(calls: list[list[tuple[str, int]]]) -> None:
    ran = [[(name, float(us)) for name, us in call] for call in calls]
    assert split_calls(timeline(*ran), len(ran)) == ran
