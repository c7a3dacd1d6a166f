"""Where the time ends before every layer was measured: what is kept for last, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fp8doctor.checks.linear.cases import cases_of
from fp8doctor.checks.linear.facts import Case, Compilation, Linear
from fp8doctor.checks.linear.probe import COMPILE_S, KERNELS_S, PROFILE_S, RESERVE_S, SHAPE_S, _Run
from fp8doctor.checks.linear.variants import variants
from fp8doctor.judging.advice import advise
from fp8doctor.measuring.timer import Timer
from fp8doctor.model import NotApplicable, Request, Unknown
from fp8doctor.plain import to_plain
from tests.linear_facts import LAYER, LINEAR, candidates, case, finding, only, verdict
from tests.stub_cuda import StubTorch

# --- a layer whose compiled FP8 was not reached ----------------------------------------------------------------------

OTHER = (3072, 12288)
EAGER = {"torch-bf16": 380.0, "torch-bf16+compile": 381.0, "torchao-fp8-rowwise": 560.0}
COMPILED = {**EAGER, "torchao-fp8-rowwise+compile": 230.0}


def at_other(times: dict[str, float], linear: Linear = LINEAR) -> Linear:
    """The facts with a second layer, timed in these configurations."""
    more = [case(config, 4096, time, k=OTHER[0], n=OTHER[1]) for config, time in times.items()]
    return replace(linear, cases=(*(linear.cases or ()), *more))


@pytest.mark.parametrize(
    ("linear", "compared"),
    [
        (at_other(COMPILED), True),
        (at_other(EAGER), False),
        (at_other({"torch-bf16": 380.0}), True),
        (replace(at_other(EAGER, only("torch-bf16", "torchao-fp8-rowwise")), compilations=None), True),
        (replace(at_other(EAGER, only("torch-bf16", "torchao-fp8-rowwise")), compilations=()), False),
        (replace(at_other(EAGER), compilations=(Compilation("torchao-fp8-rowwise+compile", *OTHER),)), True),
    ],
    ids=[
        "compiled",
        "not compiled, and another layer was",
        "BF16 alone",
        "what was compiled is not known",
        "the time ended before anything was compiled",
        "compiling it failed",
    ],
)
def test_fp8_was_compared_where_it_was_compiled_or_could_not_be(linear: Linear, compared: bool) -> None:
    assert cases_of(linear).compared(OTHER) is compared


def test_a_compiled_bf16_or_weight_only_layer_is_no_compiled_fp8() -> None:
    linear = at_other({**EAGER, "torchao-fp8-weightonly+compile": 500.0})
    assert not cases_of(linear).compared(OTHER)


def test_a_compiled_layer_that_failed_was_not_timed() -> None:
    refused = Case("torchao-fp8-rowwise+compile", "layer", 4096, *OTHER, outcome="error", error="out of registers")
    linear = at_other(EAGER)
    assert not cases_of(replace(linear, cases=(*(linear.cases or ()), refused))).compared(OTHER)


def test_bf16_is_not_advised_where_only_eager_fp8_lost_to_it() -> None:
    places = {(u.when.k, u.when.n): u.config for u in advise(candidates(at_other(EAGER)))}
    assert OTHER not in places
    assert places[LAYER]
    places = {(u.when.k, u.when.n): u.config for u in advise(candidates(at_other(COMPILED)))}
    assert places[OTHER] == "torchao-fp8-rowwise+compile"


def test_a_layer_in_bf16_alone_is_advised_on_and_says_that_fp8_was_not_timed() -> None:
    (use,) = (u for u in advise(candidates(at_other({"torch-bf16": 380.0}))) if (u.when.k, u.when.n) == OTHER)
    assert (use.config, use.fp8_timed) == ("torch-bf16", False)


def test_a_layer_whose_compiled_fp8_was_not_timed_is_not_said_to_gain_nothing() -> None:
    found = finding("LIN001", at_other(EAGER))
    assert "12288" not in found.title
    assert ["12288" in e.text for e in found.evidence] == [False]
    slow = finding("LIN001", at_other({**COMPILED, "torchao-fp8-rowwise+compile": 500.0}))
    assert "Linear(3072, 12288) gains nothing at any measured size" in slow.title


def test_where_no_layer_has_both_it_cannot_tell() -> None:
    compiled_alone = only("torchao-fp8-rowwise+compile", "torchao-fp8-rowwise")
    assert isinstance(verdict("LIN001", at_other(EAGER, compiled_alone)), Unknown)
    assert isinstance(verdict("LIN001", Linear(measurable=False)), NotApplicable)


# --- the measurement, on the CPU -------------------------------------------------------------------------------------

K, N = 64, 32
COMPILES = next(variant for variant in variants() if variant.config == "torch-bf16+compile")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Torch on the CPU with a stub for its GPU; what is to be compiled is called as it is."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    stub = StubTorch(torch)
    stub.cuda.mem_get_info = lambda device: (80 << 30, 80 << 30)
    stub.compile = lambda layer: layer  # type: ignore[attr-defined]
    stub._dynamo = SimpleNamespace(mark_dynamic=lambda x, dim: None)  # type: ignore[attr-defined]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield stub
    torch.set_num_threads(threads)


def begun(stub: Any, left_s: float, record: Linear | None = None) -> _Run:
    """A run that has `left_s` for building and timing, and a GPU without FP8."""
    going_on = {} if record is None else {"so_far": to_plain(record), "so_far_ended": "signal 11 (SIGSEGV)"}
    run = _Run(Request(seconds_left=left_s + RESERVE_S + KERNELS_S, **going_on), None)
    run.torch, run.device, run.with_fp8 = stub, stub.device("cpu"), False
    return run


def layer(run: _Run, *tokens: int) -> list[str | None]:
    """What the run tried of one layer."""
    timer = Timer(run.torch, run.device)
    timer.calibrate()
    return [record.attempting for record in run._layer(timer, 1, K, N, tokens, leading=False)]


@pytest.mark.torch
def test_a_further_layer_is_compiled_in_no_more_time_than_an_earlier_one(stub: Any) -> None:
    label = f"torch-bf16+compile K={K} N={N}"
    first = begun(stub, SHAPE_S + COMPILE_S / 2)
    assert label not in layer(first, 16)
    assert f"{label}: no time left to compile it" in first.not_measured
    for seconds, compiled in ((0.8, True), (COMPILE_S, False)):
        earlier = Linear(measurable=True, compilations=(Compilation("torch-bf16+compile", K, K, seconds),))
        further = begun(stub, SHAPE_S + COMPILE_S / 2, earlier)
        assert (label in layer(further, 16)) is compiled
        assert (f"{label}: no time left to compile it" in further.not_measured) is not compiled


@pytest.mark.torch
def test_what_an_earlier_compilation_took_is_its_quickest_and_a_failed_one_took_no_time(stub: Any) -> None:
    def took(*compilations: Compilation) -> float:
        return begun(stub, 60.0, Linear(measurable=True, compilations=compilations))._compile_s(COMPILES)

    own = COMPILES.config
    assert took() == COMPILE_S
    assert took(Compilation(own, 1, 1, 9.0), Compilation(own, 2, 2, 1.5)) == 1.5
    assert took(Compilation("torchao-fp8-rowwise+compile", 1, 1, 1.0)) == COMPILE_S
    assert took(Compilation(own, 1, 1, None, "no compiler")) == COMPILE_S


def finishing(run: _Run) -> list[str | None]:
    """Time the calls, look at the kernels; what was tried."""
    run._time_calls(1)
    return [record.attempting for record in run._profile()]


def spend(run: _Run, left_s: float) -> None:
    """Let the run have this much left for building and timing."""
    run.request = replace(run.request, seconds_left=run.request.seconds_left - run.left_s() + left_s)


@pytest.mark.torch
def test_where_the_time_ended_among_the_calls_the_kernels_are_still_looked_at_the_largest_first(stub: Any) -> None:
    run = begun(stub, 60.0)
    layer(run, 16, 64)
    spend(run, -0.1)
    assert finishing(run) == [f"kernels of 64x{K}x{N}", f"kernels of 16x{K}x{N}"]
    assert not [words for words in run.not_measured if "kernels" in words]
    timed = [c for c in run.cases.values() if c.device_us]
    assert timed
    assert all(c.call_us is None for c in timed), "no time was left for the calls"


@pytest.mark.torch
def test_with_time_left_the_calls_are_timed_too(stub: Any) -> None:
    run = begun(stub, 60.0)
    layer(run, 16)
    assert finishing(run) == [f"kernels of 16x{K}x{N}"]
    assert run.cases["torch-bf16", "layer", 16, K, N].call_us is not None


@pytest.mark.torch
def test_when_that_is_spent_too_the_kernels_are_told_as_missing(stub: Any) -> None:
    run = begun(stub, 60.0)
    layer(run, 16, 64)
    spend(run, PROFILE_S - KERNELS_S - 0.1)
    assert finishing(run) == []
    assert [words for words in run.not_measured if "kernels" in words] == [
        f"kernels of {m}x{K}x{N}: the time budget was spent" for m in (64, 16)
    ]


@pytest.mark.torch
def test_a_layer_is_not_begun_at_the_cost_of_the_kernels(stub: Any) -> None:
    run = begun(stub, SHAPE_S - 0.1)
    assert layer(run, 16) == []
    assert run.not_measured == [f"K={K} N={N}: the time budget was spent"]
