"""How wrong attention may be: the sample, its exact rows, and the limits of FP8, which are recomputed here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from fp8doctor.checks.attention_times.numerics import (
    E4M3_GRADIENT,
    E4M3_OUTPUT,
    PAIRS,
    ROWS,
    SCORES,
    Reference,
    reference,
    sample,
)
from fp8doctor.checks.attention_times.shapes import Task
from fp8doctor.measuring.workloads import AttentionUse

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def task(
    queries: int = 96, keys: int = 96, heads: int = 4, kv_heads: int = 2, causal: bool = False, trains: bool = False
) -> Task:
    return Task(AttentionUse(2, heads, kv_heads, queries, keys, 32, causal), trains)


def tensors(of: Task) -> tuple[Any, Any, Any, Any]:
    """Queries, keys, values and the output's gradient as (batch, heads, sequence, head_dim), BF16."""
    generator = torch.Generator().manual_seed(3)
    batch, heads, kv_heads, queries, keys, head_dim = of.size
    shapes = [(batch, heads, queries, head_dim), *[(batch, kv_heads, keys, head_dim)] * 2]
    query, key, value = (torch.randn(shape, generator=generator).bfloat16() for shape in shapes)
    return query, key, value, torch.randn(shapes[0], generator=generator).bfloat16()


def expected(of: Task, given: tuple[Any, Any, Any, Any]) -> tuple[Reference, Any, Any]:
    """The reference, and torch's own output and gradient of the queries in FP64."""
    query, key, value, towards = given
    made = reference(torch, of, query, key, value, towards if of.trains else None)
    exact = query.double().requires_grad_()
    output = torch.nn.functional.scaled_dot_product_attention(
        exact, key.double(), value.double(), is_causal=bool(of.use.causal), enable_gqa=True
    )
    (gradient,) = torch.autograd.grad(output, exact, towards.double())
    return made, output.detach(), gradient


# --- the sample ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [task(), task(queries=1), task(queries=4608, keys=4608), task(heads=64, kv_heads=64)])
def test_the_sample_is_even_and_ends_with_the_last_row(of: Task) -> None:
    batch, _, kv_heads, queries, _, _ = of.size
    picked = sample(of)
    assert picked.rows[-1] == queries - 1
    assert len(set(picked.rows)) == len(picked.rows) == min(ROWS, queries)
    assert len(set(picked.pairs)) == len(picked.pairs) == min(PAIRS, batch * kv_heads)
    assert all(0 <= sequence < batch and 0 <= head < kv_heads for sequence, head in picked.pairs)


def test_the_scores_of_a_long_sequence_are_held_in_bounds() -> None:
    of = task(queries=1 << 20, keys=1 << 20)
    assert len(sample(of).rows) * 2 * (1 << 20) <= SCORES
    assert sample(task(queries=64, keys=1 << 24)).rows == (63,)


# --- the exact rows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_the_exact_rows_are_those_of_attention(causal: bool) -> None:
    of = task(causal=causal, trains=True)
    made, output, gradient = expected(of, tensors(of))
    assert made.output_error(output) < 1e-12
    assert made.gradient_error(gradient) < 1e-12
    rounded = torch.nn.functional.scaled_dot_product_attention(*tensors(of)[:3], is_causal=causal, enable_gqa=True)
    assert 0 < made.output_error(rounded) < made.limit(fp8=False) < made.limit(fp8=True)


def test_another_number_of_queries_than_keys() -> None:
    of = task(queries=1, keys=128)
    made, output, _ = expected(of, tensors(of))
    assert made.output_error(output) < 1e-12


@pytest.mark.parametrize(
    "mistake",
    [
        lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(
            q, k.flip(1), v.flip(1), is_causal=True, enable_gqa=True
        ),
        lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True, scale=1.0
        ),
        lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True
        ).index_fill(2, torch.tensor([95]), 0.0),
    ],
    ids=["no mask", "another group's keys", "no scale", "last row missing"],
)
def test_a_mistake_is_beyond_what_even_fp8_explains(mistake: Callable[[Any, Any, Any], Any]) -> None:
    of = task(causal=True)
    given = tensors(of)
    made, _, _ = expected(of, given)
    assert made.output_error(mistake(*given[:3])) > made.limit(fp8=True)


def test_a_value_that_is_not_finite_is_seen_outside_the_sample_too() -> None:
    of = task(queries=200, keys=96)
    made, output, _ = expected(of, tensors(of))
    row = next(row for row in range(200) if row not in made.sample.rows)
    output[0, 0, row, 0] = math.nan
    assert made.output_error(output) == math.inf


def test_without_a_backward_there_is_no_gradient_to_compare() -> None:
    of = task()
    made, _, _ = expected(of, tensors(of))
    assert (made.gradient, made.gradient_limit(fp8=True)) == (None, None)


# --- the limits of FP8 -----------------------------------------------------------------------------------------------


def rounded_to(dtype: Any) -> Callable[[Any], Any]:
    """Round to an FP8 format with one scale a tensor, and back."""

    def rounding(x: Any) -> Any:
        scale = x.abs().amax() / torch.finfo(dtype).max
        return (x / scale).to(dtype).double() * scale

    return rounding


def in_fp8(of: Task, given: tuple[Any, Any, Any, Any], rows: list[int]) -> tuple[Any, Any]:
    """Output and queries' gradient of one head in these rows, each step rounded where FP8 attention rounds."""
    e4m3, e5m2 = rounded_to(torch.float8_e4m3fn), rounded_to(torch.float8_e5m2)
    query, key, value, towards = (x[0, 0].double() for x in given)
    scale = 1 / math.sqrt(query.shape[-1])
    q, k, v, g = e4m3(query)[rows], e4m3(key), e4m3(value), e5m2(towards)[rows]
    scores = q @ k.t() * scale
    if of.use.causal:
        scores = scores.masked_fill(torch.arange(len(key))[None, :] > torch.tensor(rows)[:, None], -math.inf)
    # A flash kernel rounds the exponentials before it divides by their sum.
    raised = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    total = raised.sum(dim=-1, keepdim=True)
    output = e4m3(e4m3(raised) @ v / total)
    weights = e4m3(raised) / total
    of_scores = weights * (g @ v.t() - (output * towards[rows]).sum(dim=-1, keepdim=True))
    return output, e5m2(e5m2(of_scores) @ k * scale)


@pytest.mark.parametrize("length", [1024, 4608])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_what_e4m3_costs_attention(length: int, head_dim: int) -> None:
    of = Task(AttentionUse(1, 1, 1, length, length, head_dim, causal=False), trains=True)
    given = tensors(of)
    query, key, value, towards = given
    made = reference(torch, of, query, key, value, towards)
    output, gradient = torch.zeros_like(query).double(), torch.zeros_like(query).double()
    rows = list(made.sample.rows)
    output[0, 0, rows], gradient[0, 0, rows] = in_fp8(of, given, rows)
    assert made.output_error(output) == pytest.approx(E4M3_OUTPUT, rel=0.1)
    assert made.gradient_error(gradient) == pytest.approx(E4M3_GRADIENT, rel=0.1)
    assert made.limit(fp8=True) == 2 * E4M3_OUTPUT
    assert made.gradient_limit(fp8=True) == 2 * E4M3_GRADIENT
    assert made.limit(fp8=False) < E4M3_OUTPUT / 4, "what BF16 explains lies far below"


def test_a_causal_mask_leaves_the_limits_of_fp8_as_they_are() -> None:
    of = Task(AttentionUse(1, 1, 1, 2048, 2048, 128, causal=True), trains=True)
    given = tensors(of)
    made = reference(torch, of, given[0], given[1], given[2], given[3])
    output, gradient = torch.zeros_like(given[0]).double(), torch.zeros_like(given[0]).double()
    rows = list(made.sample.rows)
    output[0, 0, rows], gradient[0, 0, rows] = in_fp8(of, given, rows)
    assert made.output_error(output) == pytest.approx(E4M3_OUTPUT, rel=0.15)
    assert made.gradient_error(gradient) < 1.5 * E4M3_GRADIENT
