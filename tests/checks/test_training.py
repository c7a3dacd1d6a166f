"""What is said of timed training: each rule on facts where it speaks and where it has nothing to say; the advice."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

import pytest

import fp8doctor.checks.training
from fp8doctor.checks.training.advice import how, label
from fp8doctor.checks.training.facts import Training, TrainingCase
from fp8doctor.checks.training.recipes import RECIPES, named
from fp8doctor.judging.advice import advise
from fp8doctor.model import Candidate, Estimate, Exhibit, Finding, NotApplicable, RuleResult, Severity, Unknown
from fp8doctor.plain import plain_problem
from fp8doctor.registry import Registry

REGISTRY = Registry()
REGISTRY.collect(fp8doctor.checks.training)
RULES = sorted(REGISTRY.rules)
LESSONS = ("TRN001", "TRN002", "TRN003")
WIDE, NARROW = (8192, 4096, 14336), (8192, 1024, 4096)
# Milliseconds of forward and backward, by configuration, at the wide and the narrow layer. Made up, in the proportions
# that an H200 showed of whole models (1.38x and 1.06x compiled).
TIMES = {
    "torch-bf16": (4.2, 0.33),
    "torch-bf16+compile": (4.14, 0.318),
    "torchao-fp8train-tensorwise": (6.3, 0.9),
    "torchao-fp8train-tensorwise+compile": (3.0, 0.316),
    "torchao-fp8train-rowwise": (7.1, 1.1),
    "torchao-fp8train-rowwise+compile": (3.6, 0.40),
    "torchao-fp8train-rowwise-gw-hp": (6.9, 1.0),
    "torchao-fp8train-rowwise-gw-hp+compile": (3.9, 0.36),
}


def ms(median: float, spread: float = 0.01) -> Estimate:
    us = 1e3 * median
    return Estimate(us, us * (1 - spread), us * (1 + spread), 15, spread * us)


def case(config: str, place: tuple[int, int, int], time_ms: float, **fields: Any) -> TrainingCase:
    recipe = named(config)
    assert recipe is not None
    parts: dict[str, Any] = {}
    for part in ("output", "input_grad", "weight_grad"):
        number_format = getattr(recipe, part)
        parts[f"{part}_error"] = {"bf16-output": 0.0017, "e4m3": 0.038, "e5m2-e4m3": 0.059}[number_format]
        if number_format != "bf16-output":
            parts[f"{part}_limit"] = 2 * parts[f"{part}_error"]
    products = {"fp8-gemm": recipe.in_fp8, "bf16-gemm": 3 - recipe.in_fp8}
    clocks = {"device_us": ms(time_ms), "call_us": ms(1.05 * time_ms), "host_us": ms(0.3 * time_ms)}
    kinds = {kind: count for kind, count in products.items() if count}
    m, k, n = place
    return TrainingCase(
        **{"config": config, "m": m, "k": k, "n": n, "outcome": "ok", "products": kinds, **clocks, **parts, **fields}
    )


MEASURED = Training(
    measurable=True,
    cases=tuple(case(c, place, times[i]) for i, place in enumerate((WIDE, NARROW)) for c, times in TIMES.items()),
    compilations=(),
    not_measured=(),
)
AWAY = Training(measurable=False, why_not="no training workload was named")


def verdict(rule: str, training: Training) -> RuleResult:
    return REGISTRY.rules[rule].function(training)


def finding(rule: str, training: Training) -> Finding:
    result = verdict(rule, training)
    assert isinstance(result, Finding), result
    return result


def changed(config: str, place: tuple[int, int, int] | None = None, **fields: Any) -> Training:
    cases = MEASURED.cases or ()
    hits = [c for c in cases if c.config == config and place in (None, (c.m, c.k, c.n))]
    assert hits, config
    return replace(MEASURED, cases=tuple(replace(c, **fields) if c in hits else c for c in cases))


def without(*words: str) -> Training:
    cases = MEASURED.cases or ()
    return replace(MEASURED, cases=tuple(c for c in cases if not any(word in (c.config or "") for word in words)))


def candidates(training: Training) -> list[Candidate]:
    (maker,) = [m for m in REGISTRY.makers if m.makes == "candidates"]
    made: list[Candidate] = maker.function(training)
    return made


def table(training: Training) -> Exhibit | None:
    (maker,) = [m for m in REGISTRY.makers if m.makes == "exhibit"]
    made: Exhibit | None = maker.function(training)
    return made


def test_these_are_the_rules_of_training() -> None:
    assert set(RULES) == {f"TRN{number:03}" for number in range(1, 9)}
    assert plain_problem(Training) is None


@pytest.mark.parametrize("rule", RULES)
def test_where_nothing_trains_the_question_does_not_arise(rule: str) -> None:
    assert verdict(rule, AWAY) == NotApplicable("no training workload was named")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("nothing", [Training(), Training(measurable=True)])
def test_what_was_not_timed_never_reads_as_passed(rule: str, nothing: Training) -> None:
    assert isinstance(verdict(rule, nothing), Unknown)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in LESSONS])
def test_a_healthy_box_has_nothing_wrong(rule: str) -> None:
    assert verdict(rule, MEASURED) is None


@pytest.mark.parametrize("rule", LESSONS)
def test_what_our_own_benchmark_provokes_is_a_lesson_and_no_alarm(rule: str) -> None:
    spec = REGISTRY.rules[rule]
    assert (spec.scope, spec.severity) == ("usage", Severity.INFO)
    assert isinstance(verdict(rule, without("fp8train")), Unknown)


# --- lessons ---------------------------------------------------------------------------------------------------------


def test_uncompiled_fp8_training_loses_what_compiled_gains() -> None:
    found = finding("TRN001", MEASURED)
    assert found.title == (
        "Uncompiled FP8 training of Linear(4096, 14336) with 8,192 tokens takes 1.5x the time of BF16; "
        "compiled it runs at 1.38x"
    )
    assert found.gain is not None
    assert (found.gain.speedup, found.gain.versus) == (2.1, "torchao-fp8train-tensorwise")
    assert [e.value for e in found.evidence] == [4140.0, 6300.0, 3000.0]


def test_compiling_that_gains_nothing_is_no_lesson() -> None:
    assert verdict("TRN001", changed("torchao-fp8train-tensorwise", WIDE, device_us=ms(3.0))) is None
    assert isinstance(verdict("TRN001", without("fp8train-tensorwise+", "fp8train-rowwise")), Unknown)


def test_narrow_layers_gain_nothing_and_wide_ones_do() -> None:
    found = finding("TRN002", MEASURED)
    assert found.title == (
        "FP8 training gains nothing at Linear(1024, 4096) with 8,192 tokens; Linear(4096, 14336) with 8,192 tokens "
        "gains 1.38x"
    )
    assert [e.value for e in found.evidence] == [1.38, pytest.approx(0.318 / 0.316, abs=0.001)]
    command = found.actions[0].command or ""
    ast.parse(command)
    assert command.endswith("not in [(1024, 4096)])")


def test_where_all_layers_gain_no_size_is_small() -> None:
    assert verdict("TRN002", changed("torchao-fp8train-tensorwise+compile", NARROW, device_us=ms(0.25))) is None


def test_a_layer_whose_results_are_wrong_gains_nothing() -> None:
    wrong = changed("torchao-fp8train-tensorwise+compile", WIDE, weight_grad_error=0.9)
    assert "Linear(4096, 14336) with 8,192 tokens gains 1.15x" in finding("TRN002", wrong).title, "row-wise is right"


def test_rowwise_training_takes_longer() -> None:
    found = finding("TRN003", MEASURED)
    assert found.title == (
        "Training Linear(4096, 14336) with 8,192 tokens row-wise takes 1.20x the time of tensor-wise"
    )
    assert len(found.evidence) == 3
    assert verdict("TRN003", changed("torchao-fp8train-rowwise+compile", WIDE, device_us=ms(3.05))) is None
    assert isinstance(verdict("TRN003", without("rowwise+")), Unknown)


# --- is the box as it should be? -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"weight_grad_error": 0.5}, "gradient of the weight: relative error 0.5"),
        ({"input_grad_error": 0.2}, "gradient of the input"),
        ({"error": "the output holds values that are not finite", "output_error": None}, "not finite"),
    ],
)
def test_a_wrong_step_is_an_error_however_fast(fields: dict[str, Any], words: str) -> None:
    training = changed("torchao-fp8train-rowwise+compile", NARROW, **fields)
    found = finding("TRN004", training)
    assert found.title == "torchao-fp8train-rowwise+compile: it trains, and the result is wrong"
    assert words in found.evidence[0].text
    assert REGISTRY.rules["TRN004"].severity is Severity.ERROR
    configs = {use.config for use in advise(candidates(training)) if use.speedup}
    assert "torchao-fp8train-rowwise+compile" not in configs


def test_a_16_bit_gradient_that_was_added_up_in_parts_is_no_wrong_result() -> None:
    assert verdict("TRN004", changed("torchao-fp8train-rowwise-gw-hp", weight_grad_error=0.006)) is None
    assert verdict("TRN004", changed("torch-bf16", output_error=0.02)) is None


def test_products_in_another_format_than_the_recipe_has() -> None:
    cast = changed("torchao-fp8train-tensorwise+compile", WIDE, products={"fp8-gemm": 1, "bf16-gemm": 2})
    found = finding("TRN005", cast)
    assert found.evidence[0].text.endswith("ran 2 bf16-gemm")
    gw_hp = "torchao-fp8train-rowwise-gw-hp+compile"
    assert verdict("TRN005", changed(gw_hp, products={"fp8-gemm": 2, "bf16-gemm": 1})) is None
    assert isinstance(verdict("TRN005", changed(gw_hp, products={"fp8-gemm": 1, "bf16-gemm": 2})), Finding)
    unseen = replace(MEASURED, cases=tuple(replace(c, products=None) for c in MEASURED.cases or ()))
    assert isinstance(verdict("TRN005", unseen), Unknown)


ODD = "RuntimeError: Expected trailing dimension of mat1 to be divisible by 16 but got mat1 shape: (4096x8190)."


def tried(place: tuple[int, int, int], outcome: str, error: str) -> Training:
    m, k, n = place
    refused = TrainingCase("torchao-fp8train-rowwise", m, k, n, outcome=outcome, error=error)
    return replace(MEASURED, cases=(*(MEASURED.cases or ()), refused))


def test_tokens_that_are_no_multiple_of_16_are_refused_in_training() -> None:
    odd = tried((8190, 4096, 4096), "refused", ODD)
    assert "8190x4096x4096" in finding("TRN006", odd).evidence[0].text
    assert verdict("TRN007", odd) is None, "that is no fault of the box"


def test_a_recipe_that_does_not_run_at_legal_sizes_is_found() -> None:
    failed = tried((8192, 4096, 4096), "error", "InductorError: CompilationError")
    found = finding("TRN007", failed)
    assert found.title == "FP8 training does not run with torchao-fp8train-rowwise"
    assert "torchao-fp8train-tensorwise+compile" in found.actions[0].text
    assert verdict("TRN006", failed) is None


def test_what_was_left_out_is_told() -> None:
    four = tuple(f"K={k} N=64: the time budget was spent" for k in (64, 128, 256, 512))
    told = verdict("TRN008", replace(MEASURED, not_measured=four))
    assert isinstance(told, Unknown)
    assert told.reason.endswith(" and 1 more")
    stopped = verdict("TRN008", replace(MEASURED, attempting="8192x4096x4096"))
    assert isinstance(stopped, Unknown)
    full = verdict("TRN008", changed("torch-bf16", WIDE, outcome="out-of-memory", device_us=None))
    assert isinstance(full, Unknown)
    assert "torch-bf16 at 8192x4096x14336: out of GPU memory" in full.reason


# --- advice ----------------------------------------------------------------------------------------------------------


def test_what_trains_fastest_and_right_is_advised_per_layer() -> None:
    uses = {(use.when.k, use.when.n): use for use in advise(candidates(MEASURED))}
    wide, narrow = uses[4096, 14336], uses[1024, 4096]
    assert wide.config == "torchao-fp8train-tensorwise+compile"
    assert wide.speedup is not None
    assert wide.speedup.high == pytest.approx(4.2 / 3.0)
    assert (narrow.config, narrow.speedup) == ("torch-bf16", None), "compiling it gains nothing beyond the noise"
    assert {c.task for c in candidates(MEASURED)} == {"linear-training"}
    assert {c.sweep for c in candidates(MEASURED)} == {8192}


def test_of_three_results_the_worst_for_its_format_counts() -> None:
    off = changed("torchao-fp8train-tensorwise", WIDE, output_error=0.07)
    found = next(c for c in candidates(off) if c.config == "torchao-fp8train-tensorwise")
    assert (found.error, found.error_limit) == (0.07, 0.076)
    broken = changed("torchao-fp8train-tensorwise", WIDE, error="the output holds values that are not finite")
    assert next(c for c in candidates(broken) if c.config == "torchao-fp8train-tensorwise").error is None


def test_a_step_that_waits_for_the_host_counts_at_the_call_unless_it_is_compiled() -> None:
    waits = {"device_us": ms(0.4), "call_us": ms(1.0), "host_us": ms(0.97)}
    eager = next(c for c in candidates(changed("torch-bf16", NARROW, **waits)) if c.sweep and c.shape["k"] == 1024)
    assert eager.waits_for_host
    compiled = changed("torch-bf16+compile", NARROW, **waits)
    assert not any(c.waits_for_host for c in candidates(compiled))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.config)
def test_how_to_get_a_configuration_is_python_and_its_label_says_training(recipe: Any) -> None:
    code = how(recipe.config)
    ast.parse(code)
    assert (f'from_recipe_name("{recipe.torchao}")' in code) == (recipe.torchao is not None)
    assert ("torch.compile(" in code) == recipe.compiled
    assert "training" in label(recipe.config)
    assert [label(other.config) for other in RECIPES].count(label(recipe.config)) == 1


def test_the_table_shows_factor_errors_and_products() -> None:
    shown = table(MEASURED)
    assert shown is not None
    assert len(shown.rows) == 16
    cells = shown.rows[3]["cells"]
    assert (cells["of best BF16"], cells["products"]) == ("1.38x", "3 fp8-gemm")
    assert cells["errors (output, input, weight)"] == "0.0380, 0.0590, 0.0590"
    assert table(AWAY) is None
