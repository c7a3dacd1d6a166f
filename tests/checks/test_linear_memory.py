"""The linear layer: a shape for which the GPU's memory is too small."""

from __future__ import annotations

from dataclasses import replace

from fp8doctor.model import Unknown
from tests.linear_facts import LINEAR, case, verdict


def test_a_shape_that_does_not_fit_is_told_as_not_measured() -> None:
    too_large = replace(case("torch-bf16", 300_000, None, k=16384, n=16384), outcome="out-of-memory")
    result = verdict("LIN013", replace(LINEAR, cases=(*(LINEAR.cases or ()), too_large)))
    assert isinstance(result, Unknown)
    assert result.reason == "not measured: 300000x16384x16384: out of GPU memory"
