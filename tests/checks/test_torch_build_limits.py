"""Which torch is not accused: one that is not there, one for another accelerator, one on a box whose GPU nobody saw."""

from __future__ import annotations

from typing import Any

import pytest

from fp8doctor.checks.gpu import Gpu, Gpus
from fp8doctor.checks.torch_build import TorchBuild, rules
from fp8doctor.model import NotApplicable, Unknown
from tests.checks.test_torch_build import CPU_ONLY, HOPPER, NO_GPU, NO_TORCH, ONE_H200, findings

BLIND = TorchBuild(installed=True, version="2.11.0+cu130", accelerator="cuda", arch_list=("sm_60",))
ROCM = TorchBuild(installed=True, version="2.11.0+rocm7.0", accelerator="hip", arch_list=("gfx942",))
AMD = Gpus(gpus=(Gpu(index=0, name="AMD Instinct MI300X", compute_capability="gfx942", vendor="amd"),))


@pytest.mark.parametrize(("rule", "build"), [(rules.cpu_only, CPU_ONLY), (rules.no_code_for_gpu, BLIND)])
def test_a_torch_for_another_gpu_is_accused_where_there_is_a_gpu(rule: Any, build: TorchBuild) -> None:
    assert findings(rule(build, ONE_H200))
    assert rule(build, NO_GPU) == NotApplicable("no GPU is visible")
    assert isinstance(rule(build, None), Unknown), "nobody looked for GPUs"
    assert isinstance(rule(NO_TORCH, ONE_H200), NotApplicable)
    assert not findings(rule(HOPPER, ONE_H200))


@pytest.mark.parametrize("build", [CPU_ONLY, ROCM])
def test_only_a_torch_for_cuda_can_lack_code_for_an_nvidia_gpu(build: TorchBuild) -> None:
    assert isinstance(rules.no_code_for_gpu(build, ONE_H200), NotApplicable)


def test_a_torch_for_cuda_owes_no_code_to_an_amd_gpu() -> None:
    (verdict,) = rules.no_code_for_gpu(BLIND, AMD)  # type: ignore[misc]
    assert isinstance(verdict, NotApplicable)


@pytest.mark.torch
def test_a_product_in_fewer_bits_never_passes_for_a_finer_one() -> None:
    pytest.importorskip("torch")
    from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS, relative_error
    from tests.checks.test_torch_build_numerics import EXACT, W, X, in_int8, rounded

    in_fp8, in_fp4 = rounded("tensorwise", "tensorwise"), rounded("nvfp4", "nvfp4")
    assert relative_error(in_fp8, EXACT) <= ERROR_LIMITS["e4m3"] < relative_error(in_fp4, EXACT)
    assert relative_error(in_int8(X) @ in_int8(W).t(), EXACT) <= ERROR_LIMITS["int8"] < relative_error(in_fp8, EXACT)
