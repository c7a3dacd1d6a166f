"""What is said of a timed linear layer: each rule on facts where it speaks, and where it has nothing to say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.gpu.clocks import Clocks, ClockSample
from fp8doctor.checks.gpu.facts import GpuProcess, Gpus
from fp8doctor.checks.linear.cases import cases_of
from fp8doctor.checks.linear.facts import Case, Ceiling, Linear
from fp8doctor.checks.linear.timing import LAUNCHES_SHOW
from fp8doctor.model import NotApplicable, Severity, Unknown
from tests.linear_facts import (
    BF16_KERNEL,
    BOARD,
    LINEAR,
    NO_GPU,
    REGISTRY,
    STEADY,
    case,
    changed,
    finding,
    only,
    us,
    verdict,
    without,
)

RULES = sorted(REGISTRY.rules)
BOX_RULES = [id for id in RULES if REGISTRY.rules[id].scope == "box"]
LESSONS = ("CMP002", "LIN001", "LIN003", "LIN004", "LIN005", "LIN006", "LIN007")
COMPILED = ("torchao-fp8-rowwise+compile", "torchao-fp8-tensorwise+compile")
BOXES = Path(__file__).parent.parent / "boxes"


def ceiling(bf16: float | None = 836.0, fp8: float | None = 1585.5) -> Linear:
    """The facts with other best rates."""
    assert LINEAR.ceilings
    made = [None if rate is None else Ceiling(burst_tflops=rate, started_s=15.2, ended_s=16.2) for rate in (bf16, fp8)]
    return replace(LINEAR, ceilings=replace(LINEAR.ceilings, bf16=made[0], fp8=made[1]))


def _fp8(case: Case) -> bool:
    return "fp8" in (case.config or "")


def on(**fields: Any) -> Gpus:
    return Gpus(gpus=(replace(BOARD, **fields),))


def test_these_are_the_rules_of_the_linear_layer() -> None:
    assert set(RULES) == {"CMP002"} | {f"LIN{number:03}" for number in range(1, 14)}


@pytest.mark.parametrize("rule", RULES)
def test_without_a_gpu_the_question_does_not_arise(rule: str) -> None:
    assert verdict(rule, NO_GPU) == NotApplicable("torch sees no GPU")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("nothing", [Linear(), Linear(measurable=True)])
def test_what_was_not_timed_never_reads_as_passed(rule: str, nothing: Linear) -> None:
    assert isinstance(verdict(rule, nothing), Unknown)


@pytest.mark.parametrize("rule", BOX_RULES)
def test_a_healthy_box_has_nothing_wrong(rule: str) -> None:
    assert verdict(rule, LINEAR, clocks=STEADY) is None


@pytest.mark.parametrize("rule", LESSONS)
def test_what_our_own_benchmark_provokes_is_a_lesson_and_no_alarm(rule: str) -> None:
    spec = REGISTRY.rules[rule]
    assert (spec.scope, spec.severity) == ("usage", Severity.INFO)


@pytest.mark.parametrize("rule", LESSONS)
def test_where_only_bf16_was_timed_nothing_is_said_of_fp8(rule: str) -> None:
    assert isinstance(verdict(rule, only("torch-bf16", "torch-bf16+compile")), Unknown)


# --- lessons -----------------------------------------------------------------------------------------------------


def test_eager_fp8_is_slower_than_bf16_and_compiled_fp8_is_not() -> None:
    found = finding("CMP002", LINEAR)
    assert found.title == (
        "At 4096x3072x3072 eager FP8 spends 69% of its time quantising and takes 2.1x BF16's time; "
        "compiled it runs at 1.26x"
    )
    assert found.gain is not None
    assert (found.gain.speedup, found.gain.versus) == (2.68, "torchao-fp8-rowwise")
    assert "8 other kernels" in found.evidence[1].text
    assert found.actions[0].command == "model = torch.compile(model)"


def test_without_a_profile_the_lesson_of_compiling_stands_without_shares() -> None:
    unprofiled = changed("torchao-fp8-rowwise", other_us=None, gemm_us=None, other_kernels=None)
    title = finding("CMP002", unprofiled).title
    assert title == "At 4096x3072x3072 eager FP8 takes 2.1x BF16's time; compiled it runs at 1.26x"


def test_where_eager_fp8_gains_already_the_words_say_so() -> None:
    assert "and gains only 1.13x" in finding("CMP002", changed("torchao-fp8-rowwise", device_us=us(90))).title


def test_compiling_that_gains_nothing_is_no_lesson() -> None:
    assert verdict("CMP002", changed("torchao-fp8-rowwise", device_us=us(81))) is None
    assert isinstance(verdict("CMP002", without(*COMPILED)), Unknown)


def test_quantising_takes_part_of_a_compiled_layer() -> None:
    found = finding("LIN003", LINEAR)
    assert found.title == "Quantising takes 31% of an FP8 layer, compiled"
    assert [e.value for e in found.evidence] == [101.7, 55.4, 80.5, 69.9]
    assert found.gain is not None
    assert found.gain.speedup == pytest.approx(80.5 / 69.9, abs=0.001)


def test_a_gain_is_promised_only_where_a_static_scale_was_timed_and_gains() -> None:
    static = "torch-fp8-tensorwise-static+compile"
    assert finding("LIN003", without(static)).gain is None
    assert finding("LIN003", changed(static, device_us=us(80))).gain is None


def test_of_an_eager_layer_it_says_that_it_is_eager() -> None:
    assert finding("LIN003", without(*COMPILED)).title.endswith("of an FP8 layer, eager")


def test_quantising_that_hardly_shows_is_no_lesson() -> None:
    assert verdict("LIN003", changed("torchao-fp8-rowwise+compile", device_us=us(60))) is None
    assert isinstance(verdict("LIN003", without("torch-fp8-rowwise")), Unknown)


def test_small_shapes_gain_only_from_a_number_of_tokens() -> None:
    found = finding("LIN001", LINEAR)
    assert found.title == "Small shapes: Linear(3072, 3072) gains only from about 1,000 tokens"
    (even,) = found.evidence
    assert even.text == "Linear(3072, 3072): break-even at M = 1,000 on the device, M = 7,600 to 8,000 at the call"
    assert even.value == 1024


def test_where_no_size_gains_it_says_so_and_where_all_do_it_is_silent() -> None:
    never = replace(LINEAR, cases=tuple(replace(c, device_us=us(500)) if _fp8(c) else c for c in LINEAR.cases or ()))
    assert finding("LIN001", never).title == "Small shapes: Linear(3072, 3072) gains nothing at any measured size"
    assert verdict("LIN001", changed("torchao-fp8-rowwise+compile", device_us=us(10))) is None


def test_a_small_compiled_layer_waits_for_the_host() -> None:
    found = finding("LIN004", LINEAR)
    assert found.title == "Called alone with 8,192 tokens or fewer, a compiled FP8 layer waits for the host"
    assert found.gain is None, "how much a model gains depends on how much of it becomes one graph"
    assert "6.1 us" in found.evidence[-1].text


def test_a_host_that_keeps_up_is_no_lesson() -> None:
    prompt = replace(LINEAR, cases=tuple(replace(c, call_us=c.device_us) for c in LINEAR.cases or ()))
    assert verdict("LIN004", prompt) is None
    assert isinstance(verdict("LIN004", without(*COMPILED)), Unknown)


def test_a_loop_that_its_power_limit_slows_does_not_wait_for_the_host() -> None:
    limited = replace(
        LINEAR,
        cases=tuple(
            replace(c, call_us=us(1.5 * c.device_us.median), host_us=us(0.3 * c.device_us.median))
            if c.device_us and c.call_us
            else c
            for c in LINEAR.cases or ()
        ),
    )
    assert verdict("LIN004", limited) is None


def test_calls_that_nobody_timed_are_not_said_to_keep_up() -> None:
    for unseen in (changed(COMPILED[0], call_us=None), changed(COMPILED[0], host_us=None)):
        assert isinstance(verdict("LIN004", unseen), Unknown)


def test_rowwise_scaling_is_slower_on_some_gpus_and_not_on_this_one() -> None:
    assert verdict("LIN005", LINEAR) is None
    found = finding("LIN005", changed("torchao-fp8-tensorwise+compile", device_us=us(70)))
    assert found.title == "At 4,096 tokens row-wise FP8 takes 1.15x the time of tensor-wise FP8"
    assert found.gain is not None
    assert found.gain.versus == "torchao-fp8-rowwise+compile"
    assert isinstance(verdict("LIN005", without("torchao-fp8-tensorwise+compile")), Unknown)


def test_accurate_accumulation_makes_the_product_slower() -> None:
    assert finding("LIN006", LINEAR).title == "use_fast_accum=False makes the FP8 product take 1.11x the time"
    assert verdict("LIN006", changed("torch-fp8-rowwise-slowaccum", kind="gemm", device_us=us(55.6))) is None
    assert isinstance(verdict("LIN006", without("torch-fp8-rowwise-slowaccum")), Unknown)


def test_weight_only_saves_memory_and_no_time() -> None:
    found = finding("LIN007", LINEAR)
    assert found.title == (
        "At 4,096 tokens eager weight-only FP8 runs at 0.55x BF16's speed: it saves memory, not time"
    )
    assert found.gain is None, "what to do instead is another configuration"
    assert verdict("LIN007", changed("torchao-fp8-weightonly", device_us=us(101))) is None
    assert isinstance(verdict("LIN007", without("torchao-fp8-weightonly")), Unknown)


@pytest.mark.parametrize("rule", [rule for rule in LESSONS if rule != "LIN007"])
def test_a_gpu_without_fp8_needs_no_lesson_in_it(rule: str) -> None:
    ampere = replace(only("torch-bf16", "torch-bf16+compile", "torchao-fp8-weightonly"), compute_capability="8.0")
    assert verdict(rule, ampere) == NotApplicable("this GPU has no FP8 tensor cores")


def test_weights_may_be_stored_in_fp8_by_a_gpu_without_it_and_that_costs_too() -> None:
    ampere = replace(only("torch-bf16", "torch-bf16+compile", "torchao-fp8-weightonly"), compute_capability="8.0")
    assert "at 0.55x BF16's speed" in finding("LIN007", ampere).title


def first_odd(*more: Case) -> Linear:
    """The facts behind a layer asked for first, of odd size: timed in BF16 and weight-only, refused in FP8."""
    size: dict[str, Any] = {"k": 4097, "n": 50257}
    refused = Case(config="torchao-fp8-rowwise", kind="layer", **size, outcome="refused", error=REFUSED)
    odd = (case("torch-bf16", 77, 300.0, 310.0, **size), case("torch-fp8-weightonly", 77, 900.0, 910.0, **size))
    return replace(LINEAR, cases=(*odd, refused, *(LINEAR.cases or ()), *more))


@pytest.mark.parametrize("rule", LESSONS)
def test_an_odd_layer_that_refuses_fp8_does_not_take_the_lessons_of_the_others(rule: str) -> None:
    assert verdict(rule, first_odd()) == verdict(rule, LINEAR)


def test_a_layer_in_which_fp8_was_not_timed_is_not_said_to_gain_nothing() -> None:
    other = case("torch-bf16", 4096, 101.7, 103.5, k=12288)
    found = finding("LIN001", first_odd(other))
    assert [e.text.partition(":")[0] for e in found.evidence] == ["Linear(3072, 3072)"]
    assert isinstance(verdict("LIN001", without("torch-bf16")), Unknown)


def test_without_any_fp8_the_first_layer_stands_for_all() -> None:
    odd = first_odd()
    bf16 = replace(odd, cases=tuple(c for c in odd.cases or () if not _fp8(c)))
    assert cases_of(bf16).typical() == (77, (4097, 50257))
    assert cases_of(odd).typical() == (4096, (3072, 3072))


# --- is the box as it should be? -----------------------------------------------------------------------------------


def test_far_below_peak_is_said_where_nothing_seen_explains_it() -> None:
    found = finding("LIN008", ceiling(bf16=500.0), clocks=STEADY)
    assert found.title == "This GPU reaches 51% of its dense BF16 peak, and nothing seen explains it"
    assert found.evidence[1].value == 989


@pytest.mark.parametrize(
    ("gpus", "reason"),
    [
        (on(power_limit_w=350.0), "the power limit"),
        (on(mps_active=True), "the GPU being shared"),
        (on(processes=(GpuProcess(pid=4711),)), "other processes on the GPU"),
    ],
)
def test_far_below_peak_is_not_said_twice_where_another_rule_says_why(gpus: Gpus, reason: str) -> None:
    assert verdict("LIN008", ceiling(bf16=500.0), gpus) == NotApplicable(f"it is explained by {reason}")


def test_a_clock_that_was_held_back_while_it_was_timed_explains_it() -> None:
    hot = Clocks(
        samples=tuple(ClockSample(15 + i / 10, 900, event_reasons=("hw_thermal_slowdown",)) for i in range(20))
    )
    assert verdict("LIN008", ceiling(bf16=500.0), clocks=hot) == NotApplicable("it is explained by hw_thermal_slowdown")


def test_no_share_is_said_of_a_peak_that_no_source_tells() -> None:
    for gpus in (on(name="A board"), Gpus(gpus=()), Gpus()):
        assert isinstance(verdict("LIN008", ceiling(bf16=5.0), gpus), NotApplicable)
    assert isinstance(verdict("LIN008", ceiling(bf16=None)), Unknown)


def test_fp8_products_that_are_hardly_faster_than_bf16s() -> None:
    assert finding("LIN009", ceiling(836.0, 900.0)).title.startswith("The best FP8 product runs at 1.08x BF16's rate")
    assert verdict("LIN009", ceiling(1000.0, 1300.0)) is None, "1.3 times BF16's rate is not under 1.3 times"
    assert verdict("LIN009", ceiling(836.0, None)) == NotApplicable("no FP8 product ran")
    assert isinstance(verdict("LIN009", ceiling(None, 900.0)), Unknown)
    assert isinstance(verdict("LIN009", replace(LINEAR, ceilings=None)), Unknown)


@pytest.mark.parametrize(
    ("architecture", "severity"),
    [
        *((covered, None) for covered in ("9.0", "10.0", "10.3")),
        *((other, Severity.INFO) for other in ("8.9", "12.0", "gfx942", None)),
    ],
)
def test_of_boards_that_the_tables_do_not_cover_a_slow_product_is_only_told(
    architecture: str | None, severity: Severity | None
) -> None:
    found = finding("LIN009", replace(ceiling(836.0, 900.0), compute_capability=architecture))
    assert found.severity is severity


def test_an_fp8_layer_that_ran_a_bf16_product() -> None:
    cast = changed("torchao-fp8-rowwise+compile", gemm_kind="bf16-gemm", gemm_kernel=BF16_KERNEL)
    found = finding("LIN010", cast)
    assert found.title == "torchao-fp8-rowwise+compile: FP8 was called and no FP8 kernel ran"
    assert BF16_KERNEL in found.evidence[0].text


def test_weight_only_is_not_expected_to_multiply_in_fp8() -> None:
    assert isinstance(verdict("LIN010", only("torch-bf16", "torchao-fp8-weightonly")), NotApplicable)


def test_kernels_that_nobody_saw_prove_nothing() -> None:
    unseen = replace(LINEAR, cases=tuple(replace(c, gemm_kind=None, gemm_kernel=None) for c in LINEAR.cases or ()))
    assert isinstance(verdict("LIN010", unseen), Unknown)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"relative_error": 0.41}, "relative error 0.41"),
        ({"relative_error": None, "error": "the result holds values that are not finite"}, "not finite"),
    ],
)
def test_a_wrong_result_is_an_error_however_fast(fields: dict[str, Any], words: str) -> None:
    found = finding("LIN011", changed("torchao-fp8-tensorwise", m=1024, **fields))
    assert found.title == "torchao-fp8-tensorwise: it runs, and the result is wrong"
    assert words in found.evidence[0].text
    assert REGISTRY.rules["LIN011"].severity is Severity.ERROR


def test_a_bf16_product_that_was_added_up_in_bf16_is_no_wrong_result() -> None:
    assert verdict("LIN011", changed("torch-bf16", relative_error=0.005)) is None
    assert isinstance(verdict("LIN011", only("torch-bf16", "torch-bf16+compile")), Unknown)


def test_an_error_that_was_not_observed_is_no_wrong_result() -> None:
    assert verdict("LIN011", changed("torchao-fp8-tensorwise", relative_error=None)) is None
    unseen = replace(LINEAR, cases=tuple(replace(c, relative_error=None) for c in LINEAR.cases or ()))
    assert isinstance(verdict("LIN011", unseen), Unknown)


def test_times_that_scatter_are_told_with_what_else_was_there() -> None:
    scattered = replace(LINEAR, cases=tuple(replace(c, device_us=us(100, 0.1)) for c in LINEAR.cases or ()))
    found = finding("LIN012", scattered, on(processes=(GpuProcess(pid=1), GpuProcess(pid=2))))
    assert found.title == "Timings scatter: 52 of 52 cases by more than 10 %"
    assert found.evidence[1].value == 2
    assert len(finding("LIN012", scattered, None).evidence) == 1
    assert verdict("LIN012", changed("torchao-fp8-tensorwise", device_us=us(100, 0.1))) is None


REFUSED = "RuntimeError: Expected trailing dimension of mat1 to be divisible by 16 but got mat1 shape: (8192x4097)."


def odd(*cases: Any) -> Linear:
    return replace(LINEAR, cases=(*(LINEAR.cases or ()), *cases))


def test_a_layer_whose_size_is_no_multiple_of_16() -> None:
    bf16 = case("torch-bf16", 8192, 300.0, k=4097, n=50257)
    refused = case("torch-fp8-rowwise", 8192, None, k=4097, n=50257, outcome="refused", error=REFUSED)
    found = finding("LIN002", odd(bf16, refused))
    assert found.evidence[0].text == f"K=4097 N=50257: {REFUSED}"
    assert REGISTRY.rules["LIN002"].severity is Severity.INFO, "the box is as it should be"
    assert isinstance(verdict("LIN002", odd(bf16)), Unknown), "no FP8 layer was tried at it"


def test_a_gpu_that_takes_such_a_layer_is_believed() -> None:
    assert verdict("LIN002", odd(case("torch-fp8-rowwise", 8192, 200.0, n=50257))) is None


def test_where_no_layer_was_tried_no_size_is_said_to_be_fine() -> None:
    assert isinstance(verdict("LIN002", replace(LINEAR, cases=())), Unknown)


def test_what_was_left_out_is_told() -> None:
    four = tuple(f"{m}x3072x12288: the time budget was spent" for m in (8192, 4096, 2048, 1024))
    result = verdict("LIN013", replace(LINEAR, not_measured=four))
    assert isinstance(result, Unknown)
    assert result.reason.startswith("not measured: 8192x3072x12288: the time budget was spent; ")
    assert result.reason.endswith(" and 1 more")


def test_a_probe_that_was_ended_on_its_way_did_not_measure_all() -> None:
    result = verdict("LIN013", replace(LINEAR, attempting="2048x3072x3072"))
    assert isinstance(result, Unknown)
    assert "2048x3072x3072 and what was to follow it" in result.reason


def test_times_that_launches_spoilt_are_told_as_missing() -> None:
    shown = changed("torch-bf16", device_us=None, outcome="not-measured", error=LAUNCHES_SHOW)
    result = verdict("LIN013", shown)
    assert isinstance(result, Unknown)
    assert result.reason == f"not measured: 4 of 52 cases: {LAUNCHES_SHOW}"
