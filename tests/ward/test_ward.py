"""To each broken box the doctor is called: it comes back in time, names the cause first, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ward.fault import CannotPlantError, Fault, has_compiler, has_real_torch
from tests.ward.rooms import FAULTS
from tests.ward.visit import complaints, examine


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_the_cause_comes_first(fault: Fault, tmp_path: Path) -> None:
    if not has_compiler():
        pytest.skip("there is no C compiler to build faults with")
    if fault.needs_torch and not has_real_torch():
        pytest.skip("needs torch")
    try:
        seen, said = examine(fault, tmp_path / "ground")
    except CannotPlantError as error:
        pytest.skip(str(error))
    assert complaints(fault, seen, said) == []


def test_every_fault_has_a_name_of_its_own() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names))
