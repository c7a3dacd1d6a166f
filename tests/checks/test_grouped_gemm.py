"""What is said of grouped products: each rule on facts where it speaks and where it has nothing to say; the advice."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from typing import Any

import pytest

import fp8doctor.checks.grouped_gemm
from fp8doctor.checks.grouped_gemm import rules
from fp8doctor.checks.grouped_gemm.advice import how, label
from fp8doctor.checks.grouped_gemm.facts import GroupedCase, GroupedGemm
from fp8doctor.checks.grouped_gemm.timing import FP8, PADDED
from fp8doctor.judging.advice import advise
from fp8doctor.model import Candidate, Estimate, Exhibit, Finding, NotApplicable, RuleResult, Severity, Unknown
from fp8doctor.plain import plain_problem
from fp8doctor.registry import Registry
from tests.grouped_stub import ON_ANOTHER_GPU

REGISTRY = Registry()
REGISTRY.collect(fp8doctor.checks.grouped_gemm)
RULES = sorted(REGISTRY.rules)
MANY, FEW = 16384, 4096
# Microseconds at many and at few rows. Made up: no grouped product has been measured yet.
TIMES: dict[tuple[str, str], tuple[float, float]] = {
    ("torch-bf16", "layer"): (700.0, 200.0),
    (FP8, "layer"): (1500.0, 420.0),
    (f"{FP8}+compile", "layer"): (540.0, 199.0),
    (FP8, "gemm"): (390.0, 130.0),
    (PADDED, "gemm"): (388.0, 130.0),
    ("torch-bf16", "pad"): (110.0, 40.0),
    ("torch-bf16", "unpad"): (40.0, 15.0),
    ("torch-bf16", "pad-by-list"): (300.0, 250.0),
}


def us(median: float) -> Estimate:
    return Estimate(median, 0.99 * median, 1.01 * median, 15, 0.01 * median)


def case(config: str, kind: str, m: int, time: float, **fields: Any) -> GroupedCase:
    computes = kind in ("layer", "gemm")
    in_fp8 = "fp8" in config
    known: dict[str, Any] = {
        "config": config,
        "kind": kind,
        "experts": 8,
        "m": m,
        "k": 7168,
        "n": 2048,
        "outcome": "ok",
        "device_us": None if kind == "pad-by-list" else us(time),
        "call_us": None if kind == "gemm" else us(1.1 * time),
        "host_us": None if kind == "gemm" else us(0.3 * time),
        "relative_error": (0.038 if in_fp8 else 0.0017) if computes else None,
        "relative_error_limit": (0.076 if in_fp8 else 0.0034) if computes else None,
        "gemm_kind": ("fp8-gemm" if in_fp8 else "bf16-gemm") if computes else None,
    }
    return GroupedCase(**{**known, **fields})


MEASURED = GroupedGemm(
    measurable=True,
    compute_capability="9.0",
    cases=tuple(case(*what, m, times[i]) for i, m in enumerate((MANY, FEW)) for what, times in TIMES.items()),
    not_measured=(),
)
AWAY = GroupedGemm(measurable=False, why_not="torch sees no GPU")
REFUSED = replace(
    MEASURED,
    compute_capability="12.0",
    cases=(GroupedCase(FP8, "layer", 8, MANY, 7168, 2048, outcome="refused", error=f"ValueError: {ON_ANOTHER_GPU}"),),
)


def verdict(rule: str, facts: GroupedGemm) -> RuleResult:
    return REGISTRY.rules[rule].function(facts)


def finding(rule: str, facts: GroupedGemm) -> Finding:
    result = verdict(rule, facts)
    assert isinstance(result, Finding), result
    return result


def changed(config: str, kind: str, m: int | None = None, **fields: Any) -> GroupedGemm:
    hits = [c for c in MEASURED.cases or () if (c.config, c.kind) == (config, kind) and m in (None, c.m)]
    assert hits
    return replace(MEASURED, cases=tuple(replace(c, **fields) if c in hits else c for c in MEASURED.cases or ()))


def without(word: str) -> GroupedGemm:
    return replace(MEASURED, cases=tuple(c for c in MEASURED.cases or () if word not in (c.config or "")))


def candidates(facts: GroupedGemm) -> list[Candidate]:
    (maker,) = [m for m in REGISTRY.makers if m.makes == "candidates"]
    made: list[Candidate] = maker.function(facts)
    return made


def test_these_are_the_rules_of_grouped_products() -> None:
    assert set(RULES) == {f"GRP{number:03}" for number in range(1, 9)}
    assert plain_problem(GroupedGemm) is None


@pytest.mark.parametrize("rule", RULES)
def test_where_nothing_can_be_timed_the_question_does_not_arise(rule: str) -> None:
    assert verdict(rule, AWAY) == NotApplicable("torch sees no GPU")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("nothing", [GroupedGemm(), GroupedGemm(measurable=True)])
def test_what_was_not_timed_never_reads_as_passed(rule: str, nothing: GroupedGemm) -> None:
    assert isinstance(verdict(rule, nothing), Unknown)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in ("GRP001", "GRP002")])
def test_a_healthy_box_has_nothing_wrong(rule: str) -> None:
    assert verdict(rule, MEASURED) is None


@pytest.mark.parametrize("rule", ["GRP001", "GRP002", "GRP003"])
def test_what_our_own_benchmark_provokes_is_a_lesson_and_no_alarm(rule: str) -> None:
    assert (REGISTRY.rules[rule].scope, REGISTRY.rules[rule].severity) == ("usage", Severity.INFO)


def test_padding_takes_part_of_what_fp8_gains() -> None:
    found = finding("GRP001", MEASURED)
    assert found.title == "Padding the experts' groups costs 39% of the FP8 product at 16,384 rows over 8 experts"
    assert [e.value for e in found.evidence] == [388.0, 110.0, 40.0, pytest.approx(330.0), 700.0, None]
    assert "leave the padding out" in found.actions[1].text
    assert verdict("GRP001", changed("torch-bf16", "pad", device_us=us(1.0))) is not None
    cheap = replace(
        MEASURED,
        cases=tuple(replace(c, device_us=us(10.0)) if "pad" in (c.kind or "") else c for c in MEASURED.cases or ()),
    )
    assert verdict("GRP001", cheap) is None


@pytest.mark.parametrize("fields", [{"outcome": "error", "device_us": None}, {"relative_error": 0.5}])
def test_padding_is_called_needless_only_where_unpadded_groups_were_right(fields: dict[str, Any]) -> None:
    found = finding("GRP001", changed(FP8, "gemm", **fields))
    assert len(found.actions) == 1
    assert not any("unpadded" in e.text for e in found.evidence)


def test_few_rows_gain_nothing_and_many_do() -> None:
    found = finding("GRP002", MEASURED)
    assert found.title == (
        "Grouped FP8 gains nothing with 4,096 rows over 8 experts; 1.30x with 16,384 rows over 8 experts"
    )
    assert [e.value for e in found.evidence] == [pytest.approx(700 / 540, abs=0.001), pytest.approx(1.005)]
    assert verdict("GRP002", changed(f"{FP8}+compile", "layer", FEW, device_us=us(150.0))) is None
    never = finding("GRP002", changed(f"{FP8}+compile", "layer", MANY, device_us=us(800.0)))
    assert never.title == "Grouped FP8 gains nothing with 8 experts of K=7168 at any size that was timed"
    assert isinstance(verdict("GRP002", without("+compile")), Unknown)


def test_a_gpu_for_which_torch_has_no_product_is_told_once() -> None:
    found = finding("GRP003", REFUSED)
    assert found.title == "torch's grouped FP8 product does not exist for compute capability 12.0"
    assert ON_ANOTHER_GPU in found.evidence[0].text
    for rule in ("GRP001", "GRP002", "GRP004", "GRP005", "GRP006"):
        assert isinstance(verdict(rule, REFUSED), NotApplicable)
    assert verdict("GRP007", REFUSED) is None, "that is no fault of the box"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"relative_error": 0.9}, "relative error 0.9 in one expert"),
        ({"relative_error": None, "error": "the result holds values that are not finite"}, "not finite"),
    ],
)
def test_one_expert_that_computes_wrong_is_an_error(fields: dict[str, Any], words: str) -> None:
    wrong = changed(f"{FP8}+compile", "layer", MANY, **fields)
    found = finding("GRP004", wrong)
    assert words in found.evidence[0].text
    assert REGISTRY.rules["GRP004"].severity is Severity.ERROR
    assert not [use for use in advise(candidates(wrong)) if use.config.endswith("fp8-rowwise+compile")]


def test_a_product_in_another_format_is_found() -> None:
    cast = changed(FP8, "gemm", MANY, gemm_kind="bf16-gemm", gemm_kernel="nvjet_sm90_tst_128x256")
    assert "nvjet_sm90_tst" in finding("GRP005", cast).evidence[0].text
    unseen = replace(MEASURED, cases=tuple(replace(c, gemm_kind=None) for c in MEASURED.cases or ()))
    assert isinstance(verdict("GRP005", unseen), Unknown)


def test_groups_that_must_be_padded_here() -> None:
    wants = changed(FP8, "gemm", outcome="error", error="RuntimeError: cutlass cannot run", device_us=None)
    found = finding("GRP006", wants)
    assert found.severity is Severity.INFO
    assert "cutlass cannot run" in found.evidence[0].text


@pytest.mark.parametrize(
    ("line", "settles"),
    [
        # pytorch/ao#2678, pytorch/ao#4045 and pytorch/torchtitan#1651.
        (
            "GroupMMCommon.cuh:64: prepare_grouped_gemm_data: block: [0,0,0] Assertion `delta % align == 0 && "
            '"expected input tensor dynamic dimension byte size to be non-negative multiple of 16\\n"` failed.',
            True,
        ),
        ("RuntimeError: Expected mat_a stride along 0 dim to be multiple of 16 bytes, got 16392.", True),
        ("RuntimeError: strides should be multiple of 16 bytes", True),
        ("RuntimeError: Expected trailing dimension of mat1 to be divisible by 16", False),
    ],
)
def test_texts_of_groups_of_the_wrong_size(line: str, settles: bool) -> None:
    assert [text.rule for text in rules.ERROR_TEXTS if re.search(text.pattern, line)] == ["GRP006"] * settles


def test_a_product_that_fails_at_legal_sizes_is_found() -> None:
    failed = changed(f"{FP8}+compile", "layer", outcome="error", error="InductorError: x", device_us=None)
    assert finding("GRP007", failed).title == f"The grouped product fails: {FP8}+compile"


def test_what_was_left_out_is_told() -> None:
    told = verdict("GRP008", replace(MEASURED, not_measured=("8x7168x2048: the time budget was spent",)))
    assert told == Unknown("not measured: 8x7168x2048: the time budget was spent")
    assert isinstance(verdict("GRP008", replace(MEASURED, attempting="8x7168x2048")), Unknown)
    full = verdict("GRP008", changed(FP8, "layer", MANY, outcome="out-of-memory", device_us=None))
    assert isinstance(full, Unknown)
    assert "out of GPU memory" in full.reason


# --- advice ----------------------------------------------------------------------------------------------------------


def test_the_compiled_layer_is_advised_where_it_gains() -> None:
    found = candidates(MEASURED)
    assert {c.task for c in found} == {"grouped-gemm"}
    assert {c.config for c in found} == {"torch-bf16", FP8, f"{FP8}+compile"}, "a bare product is no way to run a layer"
    many, few = sorted(advise(found), key=lambda use: -(use.when.m_min or 0))
    assert (many.config, few.config) == (f"{FP8}+compile", "torch-bf16")
    assert many.speedup is not None
    assert many.speedup.high == pytest.approx(700 / 540, abs=0.001)


@pytest.mark.parametrize("config", ["torch-bf16", FP8, f"{FP8}+compile"])
def test_how_to_get_a_configuration_is_python(config: str) -> None:
    ast.parse(how(config))
    assert ("_scaled_grouped_mm" in how(config)) == ("fp8" in config)
    assert ("torch.compile(" in how(config)) == ("compile" in config)
    assert label(config).startswith("grouped ")


def test_the_table_tells_products_from_layers_and_padding() -> None:
    (maker,) = [m for m in REGISTRY.makers if m.makes == "exhibit"]
    shown: Exhibit | None = maker.function(MEASURED)
    assert shown is not None
    names = [row["cells"]["case"] for row in shown.rows[:8]]
    assert names == [
        "torch-bf16",
        FP8,
        f"{FP8}+compile",
        f"{FP8} (product alone)",
        f"{PADDED} (product alone)",
        "pad",
        "unpad",
        "pad-by-list",
    ]
    assert maker.function(AWAY) is None
