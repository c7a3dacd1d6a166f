"""Each configuration is what its name says: really FP8, and as right as the format allows. Seen on the CPU."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from typing import Any

import pytest

from fp8doctor.checks.linear.timing import outcome_of
from fp8doctor.checks.linear.variants import Variant, gemms, quantise_rows, quantise_tensor, variants
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS, FORMAT_ERRORS, relative_error

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch
M, K, N = 96, 512, 256
GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(M, K, generator=GENERATOR).bfloat16()
W = (torch.randn(N, K, generator=GENERATOR) / K**0.5).bfloat16()
EXACT = X.float() @ W.float().t()
EAGER = [v for v in variants() if not v.compiled]
PRODUCTS = gemms(torch, X, W)


def name(variant: Variant) -> str:
    return variant.config


def called(variant: Variant) -> Any:
    """The layer's result; the test is skipped where the library is not here or the CPU has no such product."""
    if importlib.util.find_spec(variant.library) is None:
        pytest.skip(f"{variant.library} is not here")
    try:
        return variant.build(torch, W)(X)
    except (RuntimeError, ValueError, NotImplementedError, AssertionError) as error:
        outcome, text = outcome_of(torch, error)
        if outcome != "refused":
            raise
        pytest.skip(f"not on the CPU: {text}")


@pytest.mark.parametrize("variant", EAGER, ids=name)
def test_a_layer_is_as_right_as_its_format_and_no_better(variant: Variant) -> None:
    result = called(variant)
    assert (result.shape, result.dtype) == ((M, N), torch.bfloat16)
    error = relative_error(result, EXACT)
    assert 0.5 * FORMAT_ERRORS[variant.numerics] < error < ERROR_LIMITS[variant.numerics]


@pytest.mark.parametrize("config", PRODUCTS)
def test_a_bare_product_is_that_of_the_same_numbers(config: str) -> None:
    error = relative_error(PRODUCTS[config]()(), EXACT)
    own = FORMAT_ERRORS["e4m3" if "fp8" in config else "bf16-output"]
    assert 0.5 * own < error < 2 * own


def test_a_compiled_configuration_follows_its_eager_twin_and_is_built_the_same_way() -> None:
    listed = variants()
    twins = [(before, after) for before, after in pairwise(listed) if after.compiled]
    assert len(twins) == sum(v.compiled for v in listed) == len(EAGER) - 1, "blocks of 128 are not compiled"
    for eager, compiled in twins:
        assert compiled.config == f"{eager.config}+compile"
        assert (compiled.build, compiled.numerics, compiled.library) == (eager.build, eager.numerics, eager.library)
        assert not compiled.reads_back


def test_slugs_say_library_format_and_scaling() -> None:
    configs = [v.config for v in variants()]
    assert len(set(configs)) == len(configs)
    for variant in variants():
        library, number_format, *_ = variant.config.partition("+")[0].split("-")
        assert library == variant.library
        assert number_format in ("bf16", "fp8", "int8")
        assert not (variant.multiplies_in_fp8 and number_format != "fp8")


def test_a_layer_is_captured_whole_so_that_compiling_it_can_fuse_the_quantisation() -> None:
    """Captured by Dynamo, not compiled by Inductor: that takes 12 s on a CPU."""
    layer = next(v for v in EAGER if v.config == "torch-fp8-rowwise").build(torch, W)
    with torch.no_grad():
        whole = torch.compile(layer, backend="eager", fullgraph=True)
        assert torch.equal(whole(X), layer(X))


def test_the_largest_value_becomes_the_formats_largest() -> None:
    x8, scale = quantise_rows(torch, X)
    assert scale.shape == (M, 1)
    assert (x8.float().abs().amax(dim=1) == 448).all()
    assert relative_error(x8.float() * scale, X) < 0.03
    x8, scale = quantise_tensor(torch, X)
    assert scale.shape == ()
    assert x8.float().abs().max() == 448


def test_a_row_of_zeros_stays_zero() -> None:
    zeros = torch.zeros(2, 16, dtype=torch.bfloat16)
    x8, scale = quantise_rows(torch, zeros)
    assert torch.equal(x8.float() * scale, zeros.float())
