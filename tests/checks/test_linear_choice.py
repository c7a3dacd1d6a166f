"""Which configurations are measured where: everything at one layer, what competes at the others."""

from __future__ import annotations

from typing import Any

import pytest

from fp8doctor.checks.linear.choice import COMPILED_TWINS, FOR_A_WORKLOAD, MAIN, NOT_BY_DEFAULT, chosen, read_back_at
from fp8doctor.checks.linear.variants import variants

EVERYTHING = {v.config for v in variants()}
COMPILED_IN_FP8 = {v.config for v in variants() if v.compiled and v.multiplies_in_fp8}


def configs(k: int = 3072, n: int = 3072, **circumstances: Any) -> list[str]:
    usual: dict[str, Any] = {
        "leading": False,
        "thorough": False,
        "for_workload": False,
        "with_torchao": True,
        "with_fp8": True,
    }
    return [v.config for v in chosen(k, n, **{**usual, **circumstances})]


def bases(found: list[str]) -> set[str]:
    return {config.partition("+")[0] for config in found}


def test_the_leading_layer_is_measured_in_every_way_but_what_torchao_does_and_compiled_weight_only() -> None:
    assert set(configs(leading=True)) == EVERYTHING - {*NOT_BY_DEFAULT, *COMPILED_TWINS}
    assert set(COMPILED_TWINS) <= set(configs(leading=True, with_torchao=False))


def test_the_others_in_what_competes_torchaos_forms_once() -> None:
    found = configs()
    assert bases(found) == {"torch-bf16", "torchao-fp8-rowwise", "torchao-fp8-tensorwise"}
    assert {f"{base}+compile" for base in bases(found)} <= set(found)
    assert bases(configs(with_torchao=False)) == {config for config in MAIN if config.startswith("torch-")}


def test_a_workload_is_measured_everywhere_in_what_it_could_be_run_with() -> None:
    for leading in (True, False):
        found = configs(for_workload=True, leading=leading)
        assert bases(found) == set(FOR_A_WORKLOAD) - {c for c in FOR_A_WORKLOAD if c.startswith("torch-fp8")}
        assert [config for config in found if "int8" in config] == ["torchao-int8-dynamic+compile"]
        assert "torchao-fp8-weightonly+compile" in found
    assert not [config for config in configs(for_workload=True, thorough=True) if "static" in config]


def test_a_thorough_run_leaves_out_only_calls_of_milliseconds_beyond_the_first_layer() -> None:
    assert set(configs(thorough=True, leading=True)) == EVERYTHING
    assert set(configs(thorough=True)) == EVERYTHING - {"torchao-int8-dynamic"}


@pytest.mark.parametrize(
    "circumstances", [{"leading": True}, {}, {"thorough": True}, {"for_workload": True}], ids=lambda c: str(list(c))
)
def test_nothing_is_compiled_for_fp8_where_it_is_refused(circumstances: dict[str, bool]) -> None:
    assert not COMPILED_IN_FP8 & set(configs(with_fp8=False, **circumstances))
    assert any("int8" in c for c in configs(with_fp8=False, **circumstances)) == bool(circumstances)
    for k, n in ((4097, 3072), (3072, 50257)):
        found = configs(k, n, **circumstances)
        assert not COMPILED_IN_FP8 & set(found)
        assert not [config for config in found if "int8" in config], "torchao would multiply on the CPU"
        assert any("fp8" in config for config in found), "its refusal is worth seeing"


def test_a_call_that_waits_for_the_device_is_timed_at_one_everyday_size() -> None:
    assert read_back_at((8192, 4096, 1024, 16)) == 4096
    assert read_back_at((3000, 77)) == 3000
    assert read_back_at((16384, 8192)) == 8192
