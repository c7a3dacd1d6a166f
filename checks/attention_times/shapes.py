"""Which attention calls are timed, what are they called, and how much work is in one?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fp8doctor.measuring.workloads import AttentionUse, Workload

# Without a workload: the joint attention of FLUX.1-dev at 1024x1024 (4,096 latent patches and 512 text tokens:
# fp8doctor/measuring/traced/flux.json), and a causal one of a language model's size.
DEFAULT_USES = (
    AttentionUse(1, 24, 24, 4608, 4608, 128, causal=False),
    AttentionUse(1, 32, 32, 4096, 4096, 128, causal=True),
)
LONG_USE = AttentionUse(1, 32, 32, 8192, 8192, 128, causal=True)
# Two matrix products of 2 operations a multiply-add; a causal mask leaves half of them; the backward has five products
# for the forward's two. FlashAttention's own convention: flops() in benchmarks/benchmark_flash_attention.py.
FORWARD_FLOPS, CAUSAL_SHARE, BACKWARD = 4, 0.5, 2.5
# What the unfused route writes: the scores, their softmax and a masked copy in FP32, to which
# _scaled_dot_product_attention_math takes BF16 (aten/src/ATen/native/transformers/attention.cpp).
BYTES_A_SCORE = 12
BF16_BYTES = 2
BOTH_WAYS = ", forward and backward"

Key = tuple[int | bool, ...]


@dataclass(frozen=True)
class Task:
    """One call to time: its shape, and whether a backward follows."""

    use: AttentionUse
    trains: bool = False

    @property
    def size(self) -> tuple[int, int, int, int, int, int]:
        """Batch, heads, heads of keys and values, queries, keys, head dimension."""
        use = self.use
        return (
            use.batch or 0,
            use.heads or 0,
            use.kv_heads or use.heads or 0,
            use.queries or 0,
            use.keys or 0,
            use.head_dim or 0,
        )

    @property
    def key(self) -> Key:
        """What makes two calls the same: shape, mask and backward, however often a step makes them."""
        return (*self.size, bool(self.use.causal), self.trains)

    @property
    def label(self) -> str:
        """ "1x24x4608x128", "16x32/8x1:2048x128", "1x32x4096x128 causal, forward and backward"."""
        batch, heads, kv_heads, queries, keys, head_dim = self.size
        groups = f"/{kv_heads}" if kv_heads != heads else ""
        against = f":{keys}" if keys != queries else ""
        mask = " causal" if self.use.causal else ""
        return f"{batch}x{heads}{groups}x{queries}{against}x{head_dim}{mask}{BOTH_WAYS if self.trains else ''}"

    @property
    def operand_bytes(self) -> int:
        """Of the queries, keys, values and the result in BF16, and of their gradients."""
        batch, heads, kv_heads, queries, keys, head_dim = self.size
        elements = 2 * batch * head_dim * (heads * queries + kv_heads * keys)
        return BF16_BYTES * elements * (2 if self.trains else 1)

    @property
    def score_bytes(self) -> int:
        """What the unfused route needs for its scores."""
        batch, heads, _, queries, keys, _ = self.size
        return BYTES_A_SCORE * batch * heads * queries * keys


def normal(use: AttentionUse) -> AttentionUse:
    """The same call as it is timed: a single query sees every key, masked or not."""
    return replace(use, kv_heads=use.kv_heads or use.heads, causal=bool(use.causal) and use.queries != 1)


def why_not(use: AttentionUse) -> str | None:
    """Why this call is not timed, None if it is."""
    batch, heads, kv_heads, queries, keys, head_dim = Task(use).size
    if not all((batch, heads, kv_heads, queries, keys, head_dim)) or heads % kv_heads:
        return "its shape is not known in full"
    if use.causal and queries not in (1, keys):
        # FlashAttention's docstring: "aligned to the bottom right corner"; SDPA's documentation: tril(diagonal=0).
        return "a causal mask between unlike numbers of queries and keys lies differently in SDPA and FlashAttention"
    return None


def flops(use: AttentionUse, *, trains: bool = False) -> float:
    """Floating-point operations of one call by FlashAttention's convention, 3.5 times as many with the backward."""
    batch, heads, _, queries, keys, head_dim = Task(use).size
    share = CAUSAL_SHARE if normal(use).causal else 1.0
    forward = FORWARD_FLOPS * batch * heads * queries * keys * head_dim * share
    return forward * (1 + BACKWARD) if trains else forward


def planned(workload: Workload | None, *, thorough: bool) -> tuple[Task, ...]:
    """The calls to time, those with the most work in a step first; a backward where the step trains, or in full depth.

    What `why_not` speaks against is among them: the probe says so.
    """
    calls: dict[Key, int] = {}
    tasks: dict[Key, Task] = {}
    for use, trains in _uses(workload, thorough):
        for task in (Task(normal(use)), Task(normal(use), trains=True))[: 2 if trains else 1]:
            calls[task.key] = calls.get(task.key, 0) + (use.calls or 0)
            tasks.setdefault(task.key, task)
    found = [Task(replace(task.use, calls=calls[key] or None), task.trains) for key, task in tasks.items()]
    # Stable: of the same work, the forward stays before its backward.
    return tuple(sorted(found, key=lambda task: -flops(task.use) * (task.use.calls or 0)))


def _uses(workload: Workload | None, thorough: bool) -> Iterator[tuple[AttentionUse, bool]]:
    if workload is None:
        for use in (*DEFAULT_USES, *((LONG_USE,) if thorough else ())):
            yield use, thorough
        return
    for step in workload.steps or ():
        for use in step.attentions or ():
            # A decoded token has no backward.
            yield use, bool(step.trains) or (thorough and use.queries != 1)
