"""INT8 beside FP8: it competes, no rule takes it for FP8, and its advice is not called FP8's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fp8doctor.checks.linear.cases import cases_of
from fp8doctor.checks.linear.facts import Linear
from fp8doctor.judging.advice import advise, effective
from fp8doctor.judging.outcomes import Outcome
from fp8doctor.judging.verdict import decide
from fp8doctor.model import Candidate, NotApplicable, Settles, Severity
from fp8doctor.specs import Rule
from tests.linear_facts import LINEAR, candidates, case, finding, only, verdict

COMPILED = "torchao-int8-dynamic+compile"
FIELDS: dict[str, Any] = {"gemm_kind": "int8-gemm", "relative_error": 0.013, "relative_error_limit": 0.024}


def with_int8(device: float = 70.0) -> Linear:
    compiled = [case(COMPILED, m, device, 90.0, **FIELDS) for m in (4096, 2048)]
    eager = case("torchao-int8-dynamic", 4096, None, 1900.0, **FIELDS)
    return replace(LINEAR, cases=(*(LINEAR.cases or ()), *compiled, eager))


def named(config: str) -> Candidate:
    return next(c for c in candidates(with_int8()) if (c.config, c.sweep) == (config, 4096))


def settled() -> list[Outcome]:
    questions: list[Settles] = ["hardware", "software", "runs"]
    return [
        Outcome(Rule("ANY001", "any", Severity.ERROR, "box", q, (), lambda: None, {}, "t", "p"), "pass", None)
        for q in questions
    ]


def test_it_competes_and_is_no_fp8() -> None:
    found = named(COMPILED)
    assert (found.format, found.baseline) == ("int8", False)
    assert "Int8DynamicActivationInt8WeightConfig" in found.how
    assert "16 tokens or fewer" in found.how
    assert cases_of(with_int8()).fp8() == cases_of(LINEAR).fp8()


def test_a_call_that_waits_for_the_device_competes_at_the_call() -> None:
    found = effective(named("torchao-int8-dynamic"))
    assert found is not None
    assert (found[0].median, found[1]) == (1900.0, "call")


def test_where_int8_wins_it_is_advised_and_fp8_keeps_its_own_figures() -> None:
    found, in_fp8 = candidates(with_int8()), candidates(LINEAR)
    uses = advise(found)
    assert COMPILED in {use.config for use in uses}
    assert decide(settled(), (), uses, found) == decide(settled(), (), advise(in_fp8), in_fp8)
    assert "with torchao float8 row-wise" in decide(settled(), (), uses, found).headline


def test_where_only_int8_gains_fp8_is_not_said_to_pay() -> None:
    slow = replace(
        with_int8(),
        cases=tuple(
            replace(c, device_us=replace(c.device_us, median=900.0, low=890.0, high=910.0))
            if c.device_us and c.kind == "layer" and "fp8" in (c.config or "")
            else c
            for c in with_int8().cases or ()
        ),
    )
    uses = advise(candidates(slow))
    assert [use.config for use in uses if use.speedup] == [COMPILED]
    assert decide(settled(), (), uses, candidates(slow)).status == "slow"


def test_no_rule_takes_it_for_an_fp8_layer_that_failed() -> None:
    assert verdict("LIN010", with_int8()) is None
    assert verdict("LIN011", with_int8()) is None
    alone = replace(LINEAR, cases=(*(only("torch-bf16").cases or ()), case(COMPILED, 4096, 70.0, **FIELDS)))
    assert isinstance(verdict("LIN010", alone), NotApplicable)


def test_a_wrong_int8_result_is_a_wrong_result() -> None:
    wrong = case(COMPILED, 4096, 70.0, **{**FIELDS, "relative_error": 0.2})
    found = finding("LIN011", replace(LINEAR, cases=(*(LINEAR.cases or ()), wrong)))
    assert found.title == f"{COMPILED}: it runs, and the result is wrong"
