"""One attention call small enough for any GPU: its tensors, what must come out, and how long it may take.

Imported in children by several subjects: nothing but the standard library at module level.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fp8doctor.checks.torch_build.numerics import TOLERANCE, relative_error
from fp8doctor.model import NO_ANSWER
from fp8doctor.raised import in_words

# The head dimension that every FlashAttention build has (a build may leave out others) and cuDNN takes.
BATCH, HEADS, SEQUENCE, HEAD_DIM = 1, 2, 128, 128
# The call takes microseconds; before it, cuDNN or an extension of some hundred MB may come from a cold network disk.
CALL_LIMIT_S = 30.0


@dataclass(frozen=True)
class SmallAttention:
    """BF16 operands on the GPU as (batch, heads, sequence, head_dim), and the right answer on the CPU."""

    query: Any
    key: Any
    value: Any
    reference: Any
    error_limit: float

    @property
    def operands(self) -> tuple[Any, Any, Any]:
        """Query, key and value."""
        return self.query, self.key, self.value


@dataclass(frozen=True)
class Attempt:
    """What came of one call: "ok", "wrong" or "error"."""

    outcome: str
    error: str | None = None
    relative_error: float | None = None


def small_attention(device: str) -> SmallAttention:
    """Make the operands on `device`, and the reference in FP32 on the CPU, where no GPU library has a part in it.

    The limit is twice the error of the same attention with every step in BF16: fused kernels keep more digits.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, HEADS, SEQUENCE, HEAD_DIM)
    query, key, value = (torch.randn(shape, generator=generator).to(torch.bfloat16) for _ in range(3))
    reference = plain_attention(query.float(), key.float(), value.float())
    plain_bf16 = relative_error(plain_attention(query, key, value), reference)
    return SmallAttention(query.to(device), key.to(device), value.to(device), reference, TOLERANCE * plain_bf16)


def plain_attention(query: Any, key: Any, value: Any) -> Any:
    """softmax(Q K^T / sqrt(d)) V, step by step in the dtype of its operands."""
    scores = (query @ key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    return scores.softmax(dim=-1) @ value


def attempt(call: Callable[[], Any], reference: Any, error_limit: float) -> Attempt:
    """Call, wait for the GPU and compare with `reference`; whatever is raised is the outcome."""
    import torch

    try:
        result = call()
        if result.is_cuda:
            torch.cuda.synchronize(result.device)
        error = relative_error(result, reference)
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # packages raise SystemExit, too
        return Attempt("error", describe(raised))
    if not math.isfinite(error):
        return Attempt("wrong", "the result holds values that are not finite")
    return Attempt("ok" if error <= error_limit else "wrong", None, error)


def describe(error: BaseException) -> str:
    """Type and text of an error, short enough for a report."""
    return in_words(error, 600)


def check_context(device: str) -> None:
    """Raise if an earlier failure has left the GPU context unusable, so that a fresh child goes on."""
    import torch

    torch.ones(8, device=device).sum().item()


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End this process by SIGALRM if the block takes longer.

    A signal with its default action also ends a library that hangs while it holds the interpreter lock, which no
    Python thread could. The next child is told how this one ended: see `ended_as`.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def torch_failed(how: str | None) -> str:
    """Words for a torch that did not get as far as the packages or backends."""
    return f"torch, or its first step on the GPU, failed: {how or 'nobody saw how'}"


def ended_as(how: str | None) -> tuple[str, str]:
    """Outcome and words for the step that ended the child before this one."""
    if how == "SIGALRM" or (how or "").startswith(NO_ANSWER):  # by its own limit, or by the engine's
        return "timeout", "it did not come back within its time limit"
    return "crashed", f"it ended the process: {how or 'nobody saw how'}"
