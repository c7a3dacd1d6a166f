"""Device times are the kernels' own, whatever the host does; what was done stands in the record."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import pytest

from fp8doctor.checks.linear.facts import Linear
from fp8doctor.measuring.kernels import profile_calls
from fp8doctor.measuring.timer import METHOD_VERSION, SAMPLES_A_BATCH, Method, Pace, Timer
from fp8doctor.plain import from_plain, plain_problem, to_plain
from tests.stub_cuda import L2_BYTES, StubTorch

on_gpu = pytest.mark.gpu


def test_the_method_stands_in_the_record_as_plain_data() -> None:
    assert plain_problem(Method) is None
    record = Linear(method=Method(METHOD_VERSION, 126 << 20, 25, "median"))
    assert from_plain(Linear, to_plain(record)) == record
    assert Method() == Method(version=None, flush_bytes=None, samples=None, statistic=None)


@pytest.fixture(scope="module")
def timer() -> Timer:
    import torch

    timer = Timer(torch, torch.device("cuda", 0))
    timer.warm(product(timer, 4096), 2.0)  # the flush is timed on a GPU that is awake, as in a run
    timer.calibrate()
    return timer


def product(timer: Timer, size: int) -> Any:
    """A BF16 product of random square matrices: one kernel."""
    torch = timer.torch
    torch.manual_seed(0)
    a, b = (torch.randn(size, size, device=timer.device, dtype=torch.bfloat16) for _ in range(2))
    return lambda: torch.mm(a, b)


@on_gpu
def test_the_flush_is_twice_the_cache_and_the_method_says_so(timer: Timer) -> None:
    l2 = timer.torch.cuda.get_device_properties(0).L2_cache_size
    assert timer.flush_bytes == 2 * l2
    assert timer.method(25) == Method(METHOD_VERSION, 2 * l2, 25, "median")


@on_gpu
def test_device_time_is_the_kernels_duration_as_the_profiler_has_it(timer: Timer) -> None:
    """At a size that keeps a large GPU below its power limit: there, two ways of timing draw different power."""
    call = product(timer, 4096)
    timer.warm(call, 2.0)

    def rested() -> None:  # as our samples are: a GPU without a pause draws more power and slows down
        time.sleep(0.002)
        timer.flush()

    ours, theirs = [], []
    # In turns, and without the first: after the warming an H200's clock took a round to settle (9 % apart there, 1 to
    # 2 % in the next three).
    for _ in range(4):
        ours.append(median(timer.device_samples(call, 15, timer.pace(call))))
        ran = profile_calls(timer.torch, timer.device, [call] * 15, rested)
        assert ran is not None
        assert all(len(kernels) >= 1 for kernels in ran)
        theirs.append(median(sum(us for _, us in kernels) for kernels in ran))
    assert median(ours[1:]) == pytest.approx(median(theirs[1:]), rel=0.03)


@on_gpu
@pytest.mark.parametrize("told_host_us", [5.0, 4000.0])
def test_a_host_that_dawdles_does_not_show_in_device_time(timer: Timer, told_host_us: float) -> None:
    """Even where the plan takes the host for faster than it is: the queue is held until all of it stands."""
    call = product(timer, 4096)

    def dawdling() -> Any:
        time.sleep(0.003)
        return call()

    prompt = median(timer.device_samples(call, 10, timer.pace(call)))
    slow = median(timer.device_samples(dawdling, 10, Pace(device_us=prompt, host_us=told_host_us)))
    # Idle between the calls, the GPU may even be faster.
    assert slow < prompt * 1.05


@on_gpu
def test_a_queue_tells_whether_it_was_held_while_it_was_filled(timer: Timer) -> None:
    def dawdling() -> None:
        time.sleep(0.002)

    *_, held = timer._queue(dawdling, 2, 1, spin_s=0.0001)
    assert not held
    *_, held = timer._queue(dawdling, 2, 1, spin_s=0.1)
    assert held


@on_gpu
@pytest.mark.parametrize("samples", [1, SAMPLES_A_BATCH, SAMPLES_A_BATCH + 2])
def test_as_many_samples_as_asked_for(timer: Timer, samples: int) -> None:
    call = product(timer, 1024)
    found = timer.device_samples(call, samples, timer.pace(call))
    assert len(found) == samples
    assert all(us > 0 for us in found)


@on_gpu
def test_a_call_in_a_loop_takes_no_less_than_its_work(timer: Timer) -> None:
    call = product(timer, 8192)
    device_us = median(timer.device_samples(call, 5, timer.pace(call)))
    total_us, asking_us = timer.call_us(call)
    assert total_us == pytest.approx(device_us, rel=0.25)
    assert 0 < asking_us < 0.5 * total_us, "the host asks for one kernel, and the device works on it"


# --- with a stub for the device --------------------------------------------------------------------------------------


def stubbed(**device: Any) -> tuple[StubTorch, Timer]:
    torch = pytest.importorskip("torch")
    stub = StubTorch(torch, **device)
    return stub, Timer(stub, torch.device("cpu"))


@pytest.mark.torch
def test_a_timer_runs_nothing_until_it_is_told_to_calibrate() -> None:
    stub, timer = stubbed()
    assert stub.queues == 0
    timer.calibrate()
    assert stub.queues > 0
    assert timer.flush_bytes == 2 * L2_BYTES


@pytest.mark.torch
@pytest.mark.timeout(20)
def test_launches_that_show_give_no_time_at_all_and_end() -> None:
    _, timer = stubbed(launches_show=True)
    assert timer.device_samples(lambda: None, 7, Pace(10.0, 5.0)) == []
    assert timer.pace(lambda: None).device_us > 0


@pytest.mark.torch
@pytest.mark.timeout(20)
def test_a_call_of_which_the_flushes_leave_nothing_has_no_time() -> None:
    stub, timer = stubbed(pair_ms=0.5)
    timer.calibrate()
    stub.pair_ms = 0.3
    assert timer.device_samples(lambda: None, 7, Pace(10.0, 5.0)) == []


@pytest.mark.torch
def test_the_hosts_part_of_a_loop_is_what_it_spends_asking() -> None:
    stub, timer = stubbed()

    def busy_host() -> None:
        time.sleep(0.001)

    total_us, asking_us = timer.call_us(busy_host)
    assert 1000 <= asking_us <= total_us
    assert asking_us >= 0.9 * total_us
    stub.cuda.synchronize = lambda device=None: time.sleep(0.05)
    total_us, asking_us = timer.call_us(lambda: None)
    assert asking_us < 0.1 * total_us
