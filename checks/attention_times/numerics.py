"""How wrong may attention be, and how wrong is it? Compared on a sample of rows, against FP64.

The whole result of a long sequence would need the matrix of scores in FP64, which fits no GPU; a row of it fits.
Runs in the child; torch comes in as an argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fp8doctor.checks.attention_times.shapes import Task
from fp8doctor.checks.torch_build.numerics import TOLERANCE, relative_error

# What e4m3 costs attention by itself: queries, keys, values, the softmax's result and the output are rounded to it, one
# scale a tensor. Of the backward: the gradients of the output, of the scores and of the queries in e5m2 besides, as the
# default format of Transformer Engine's per-tensor recipes has it (HYBRID). On random normal numbers it hardly depends
# on the shape; tests/checks/test_attention_times_numerics.py emulates both and fails if one is off by 10 %.
E4M3_OUTPUT, E4M3_GRADIENT = 0.060, 0.110
# Query rows and pairs of (sequence, head of keys) that are compared, spread evenly; and the most scores at a time.
ROWS, PAIRS, SCORES = 64, 32, 1 << 22


@dataclass(frozen=True)
class Sample:
    """Which rows are compared: `pairs` of (sequence, head of keys and values), and query rows of each."""

    pairs: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]


def sample(task: Task) -> Sample:
    """An even sample that ends with the last row: there, a causal mask leaves every key."""
    batch, heads, kv_heads, queries, keys, _ = task.size
    most = max(1, min(ROWS, queries, SCORES // (heads // kv_heads * keys)))
    chosen = [index * batch * kv_heads // min(PAIRS, batch * kv_heads) for index in range(min(PAIRS, batch * kv_heads))]
    return Sample(
        pairs=tuple(divmod(place, kv_heads) for place in chosen),
        rows=tuple((index + 1) * queries // most - 1 for index in range(most)),
    )


@dataclass(frozen=True)
class Reference:
    """The sampled rows in FP64, and the most that a format explains; gradients where there is a backward."""

    sample: Sample
    group: int
    output: Any
    output_norm: Any
    gradient: Any
    bf16_limit: float
    bf16_gradient_limit: float | None

    def limit(self, *, fp8: bool) -> float:
        """The most that rounding explains of the output."""
        return max(TOLERANCE * E4M3_OUTPUT, self.bf16_limit) if fp8 else self.bf16_limit

    def gradient_limit(self, *, fp8: bool) -> float | None:
        """The most that rounding explains of the queries' gradient."""
        if self.bf16_gradient_limit is None:
            return None
        return max(TOLERANCE * E4M3_GRADIENT, self.bf16_gradient_limit) if fp8 else self.bf16_gradient_limit

    def output_error(self, result: Any) -> float:
        """Relative error of `result` (batch, heads, queries, head_dim), each sampled row weighing the same.

        By itself the norm of a causal result is that of its first rows, which see few keys. Infinite if anything in
        the whole result is not finite.
        """
        if not bool(result.isfinite().all()):
            return math.inf
        found = self._rows(result)
        return relative_error(found / self.output_norm, self.output / self.output_norm)

    def gradient_error(self, gradient: Any) -> float:
        """Relative error of the queries' `gradient` (batch, heads, queries, head_dim) in the sampled rows together."""
        if not bool(gradient.isfinite().all()):
            return math.inf
        return relative_error(self._rows(gradient), self.gradient)

    def _rows(self, whole: Any) -> Any:
        return _rows(whole, self.sample, self.group)


def reference(torch: Any, task: Task, query: Any, key: Any, value: Any, gradient: Any = None) -> Reference:
    """Compute the sampled rows exactly, and step by step in BF16 to know what BF16 may cost.

    Args:
        torch: the module.
        task: the call.
        query: (batch, heads, queries, head_dim), BF16.
        key: (batch, kv_heads, keys, head_dim), BF16.
        value: the same.
        gradient: of the output, in its shape and dtype; None if there is no backward.

    The limit is twice the error of the same attention with every step in BF16: fused kernels keep more digits.
    """
    picked = sample(task)
    _, heads, kv_heads, _, keys, _ = task.size
    group = heads // kv_heads
    hidden = None
    if task.use.causal:
        rows = torch.tensor(picked.rows, device=query.device)
        hidden = torch.arange(keys, device=query.device)[None, :] > rows[:, None]
    exact: list[Any] = []
    plain: list[Any] = []
    with torch.no_grad():
        for pair in picked.pairs:
            one = Sample((pair,), picked.rows)
            operands = [_rows(query, one, group)[0], key[pair], value[pair]]
            if gradient is not None:
                operands.append(_rows(gradient, one, group)[0])
            exact.append(_attend(torch, hidden, *(operand.double() for operand in operands)))
            plain.append(_attend(torch, hidden, *operands))
    output, gradients = (_together(torch, exact, place) for place in (0, 1))
    plain_output, plain_gradients = (_together(torch, plain, place) for place in (0, 1))
    norm = output.norm(dim=-1, keepdim=True)
    return Reference(
        sample=picked,
        group=group,
        output=output,
        output_norm=norm,
        gradient=gradients,
        bf16_limit=TOLERANCE * relative_error(plain_output / norm, output / norm),
        bf16_gradient_limit=None if gradients is None else TOLERANCE * relative_error(plain_gradients, gradients),
    )


def _together(torch: Any, pairs: list[Any], place: int) -> Any:
    return None if pairs[0][place] is None else torch.stack([pair[place] for pair in pairs]).double()


def _rows(whole: Any, picked: Sample, group: int) -> Any:
    """The sampled rows of (batch, heads, queries, head_dim), as (pairs, heads of a group, rows, head_dim)."""
    import torch

    found = [whole[b, kv * group : (kv + 1) * group][:, list(picked.rows)] for b, kv in picked.pairs]
    return torch.stack(found).detach()


def _attend(torch: Any, hidden: Any, query: Any, key: Any, value: Any, gradient: Any = None) -> tuple[Any, Any]:
    """softmax(Q K^T / sqrt(d)) V of (heads, rows, d) against (keys, d), in the operands' dtype; and Q's gradient."""
    scale = 1 / math.sqrt(query.shape[-1])
    scores = (query @ key.t()) * scale
    if hidden is not None:
        scores = scores.masked_fill(hidden, -math.inf)
    weights = scores.softmax(dim=-1)
    output = weights @ value
    if gradient is None:
        return output, None
    inner = gradient @ value.t()
    of_scores = weights * (inner - (inner * weights).sum(dim=-1, keepdim=True))
    return output, (of_scores @ key) * scale
