"""How each route computes attention: torch's function, a FlashAttention package, and what their errors mean.

Runs in the child; torch comes in as an argument.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fp8doctor.checks.attention.call import describe
from fp8doctor.checks.attention.probe import BACKENDS, reasons
from fp8doctor.checks.attention_times.plan import Route
from fp8doctor.checks.attention_times.shapes import Task
from fp8doctor.checks.flash_attention.probe import REFUSAL
from fp8doctor.measuring.timer import Call

# What says "not this", where another error says "broken": SDPA's dispatcher (sdp_utils.cpp, attention.cu),
# Transformer Engine's (dot_product_attention.py, common/recipe/__init__.py) and cuDNN's status.
_REFUSALS = re.compile(
    r"No available kernel|No viable backend|No dot product attention backend is available"
    r"|FP8 attention is not supported|CUDNN_STATUS_NOT_SUPPORTED|only supports? head dim|is not supported on SM"
)


@dataclass(frozen=True)
class Operands:
    """One call's tensors in memory as (batch, sequence, heads, head_dim), where projections leave them; BF16."""

    task: Task
    query: Any
    key: Any
    value: Any
    # Of the output, in its layout; None if there is no backward.
    gradient: Any = None

    @property
    def heads_first(self) -> tuple[Any, Any, Any]:
        """Views as (batch, heads, sequence, head_dim), which SDPA takes."""
        return self.query.transpose(1, 2), self.key.transpose(1, 2), self.value.transpose(1, 2)


def operands(torch: Any, task: Task, device: Any) -> Operands:
    """Random normal operands on `device`, the same ones for every route."""
    batch, heads, kv_heads, queries, keys, head_dim = task.size
    torch.manual_seed(0)

    def random(sequence: int, count: int, *, leaf: bool) -> Any:
        made = torch.randn(batch, sequence, count, head_dim, device=device, dtype=torch.bfloat16)
        return made.requires_grad_(leaf)

    return Operands(
        task=task,
        query=random(queries, heads, leaf=task.trains),
        key=random(keys, kv_heads, leaf=task.trains),
        value=random(keys, kv_heads, leaf=task.trains),
        gradient=random(queries, heads, leaf=False) if task.trains else None,
    )


def torch_forward(torch: Any, route: Route, given: Operands) -> Call:
    """SDPA by torch's own choice, or by the backend that the route forces. The result is (batch, heads, ...)."""
    extra: dict[str, Any] = {"is_causal": bool(given.task.use.causal)}
    if given.task.use.kv_heads != given.task.use.heads:
        extra["enable_gqa"] = True  # since torch 2.5
    sdpa = torch.nn.functional.scaled_dot_product_attention
    query, key, value = given.heads_first
    if route.backend is None:
        return lambda: sdpa(query, key, value, **extra)
    from torch.nn import attention

    forced = getattr(attention.SDPBackend, BACKENDS[route.backend][0])

    def call() -> Any:
        with attention.sdpa_kernel(forced):
            return sdpa(query, key, value, **extra)

    return call


def default_backend(torch: Any, given: Operands) -> str | None:
    """What SDPA's dispatcher takes for this call, None where this torch does not say."""
    from torch.nn import attention

    extra = {"enable_gqa": True} if given.task.use.kv_heads != given.task.use.heads else {}
    try:
        number = torch._fused_sdp_choice(*given.heads_first, is_causal=bool(given.task.use.causal), **extra)
    except (AttributeError, RuntimeError, TypeError):
        return None
    found = (name for name, (one, _) in BACKENDS.items() if int(getattr(attention.SDPBackend, one, -1)) == number)
    return next(found, None)


def flash_forward(torch: Any, route: Route, given: Operands) -> Call:
    """flash_attn_func(q, k, v, causal=...) of the route's package, which takes fewer heads of keys as they are.

    In FP8 the call begins with the cast of the BF16 operands to e4m3. Without descale arguments their scale is 1,
    which suits numbers of unit variance; a model's own scales would be multiplied in the same pass.
    """
    function: Callable[..., Any] = importlib.import_module(route.module or "").flash_attn_func
    causal = bool(given.task.use.causal)
    tensors = (given.query, given.key, given.value)

    def call() -> Any:
        taken = [tensor.to(torch.float8_e4m3fn) for tensor in tensors] if route.fp8 else tensors
        result = function(*taken, causal=causal)
        # Some releases return the log-sum-exp as well.
        return (result[0] if isinstance(result, tuple) else result).transpose(1, 2)

    return call


def both_ways(torch: Any, forward: Call, given: Operands) -> Call:
    """Forward and backward: (output, gradients of query, key and value)."""
    towards = given.gradient.transpose(1, 2)
    leaves = (given.query, given.key, given.value)

    def call() -> Any:
        output = forward()
        return output, torch.autograd.grad(output, leaves, towards)

    return call


@contextlib.contextmanager
def switched(name: str | None) -> Iterator[None]:
    """With torch's flash backend replaced by the FlashAttention package `name`, if there is a name."""
    if name is None:
        yield
        return
    from torch.nn import attention

    attention.activate_flash_attention_impl(name)
    try:
        yield
    finally:
        attention.restore_flash_attention_impl()


def can_switch_back() -> bool:
    """Whether torch can restore its own flash backend: else the switch would reach the routes after it."""
    from torch.nn import attention

    return hasattr(attention, "restore_flash_attention_impl")


class Refusals:
    """Warnings that torch gives while it refuses a backend: its reasons."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Collect what is warned of."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield
            finally:
                self.said = [str(item.message) for item in caught]


def outcome_of(torch: Any, route: Route, error: BaseException, said: list[str], chosen: str | None) -> tuple[str, str]:
    """What an exception means: "out-of-memory", "refused" or "error"; and in words.

    Args:
        torch: the module.
        route: the route that raised it.
        error: the exception.
        said: warnings that torch gave meanwhile.
        chosen: why Transformer Engine dropped its backends, if it said so.
    """
    text = describe(error).splitlines()[0]
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out-of-memory", text
    if not (_REFUSALS.search(str(error)) or REFUSAL.search(str(error))):
        return "error", text
    head = BACKENDS[route.backend][1] if route.backend else None
    return "refused", chosen or reasons(said, head) or text
