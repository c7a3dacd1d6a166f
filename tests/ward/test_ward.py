"""To each broken box the doctor is called: it comes back in time, names the cause first, and leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.ward.fault import Fault, has_compiler, has_real_torch
from tests.ward.rooms import FAULTS
from tests.ward.visit import OVER_BUDGET_S, examine, secrets_in


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_the_cause_comes_first(fault: Fault, tmp_path: Path) -> None:
    if not has_compiler():
        pytest.skip("there is no C compiler to build faults with")
    if fault.needs_torch and not has_real_torch():
        pytest.skip("needs torch")
    seen, said = examine(fault, tmp_path / "ground")
    assert seen.seconds < fault.budget_s + OVER_BUDGET_S
    assert seen.left_running == ()
    assert secrets_in(seen) == []
    if fault.cannot:
        assert (seen.status, seen.report) == (2, None)
        assert re.fullmatch(f"fp8doctor: .*{fault.cannot}.*\n", seen.errors), seen.errors
        return
    assert said is not None, f"no report: status {seen.status}, {seen.errors[-2000:]}"
    assert seen.status in (0, 1)
    assert said.first == fault.first
    assert said.disturbed == ()
    if fault.first is not None:
        assert any(re.search(fault.fix, action, re.IGNORECASE) for action in said.actions), said.actions


def test_every_fault_has_a_name_of_its_own() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names))
