"""Importing each FlashAttention and calling it once: a step of its own for each, since each may end the process."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

from fp8doctor.checks.attention.call import (
    CALL_LIMIT_S,
    HEAD_DIM,
    Attempt,
    SmallAttention,
    attempt,
    check_context,
    describe,
    ended_as,
    plain_attention,
    small_attention,
    time_limit,
    torch_failed,
)
from fp8doctor.checks.flash_attention.facts import FlashAttention, Generation
from fp8doctor.checks.flash_attention.packages import MODULES, find
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS
from fp8doctor.model import Request
from fp8doctor.plain import from_plain
from fp8doctor.registry import probe

# FlashAttention 4 took 6.9 s to import and 1.8 s to compile on an H200 (benchmarks/RESULTS.md); a slow host gets five
# times that.
LIMITS_S = {2: CALL_LIMIT_S, 3: CALL_LIMIT_S, 4: 45.0}
# What a package raises to say "not this", where another error says "broken". Sources: csrc/flash_attn/flash_api.cpp,
# hopper/flash_api.cpp, flash_attn/cute/interface.py.
REFUSAL = re.compile(
    r"only supports Ampere GPUs or newer|only supports? fp16(, bf16)?,? and |on Ampere/Ada cards only supports"
    r"|build does not support|Unsupported compute capability|FP8 is only supported on SM100"
)

Steps = Generator[FlashAttention, None, FlashAttention]


@probe(runs_in="target", timeout_s=150)
def gather(request: Request, torch_build: TorchBuild | None) -> Iterator[FlashAttention]:
    """Calling FlashAttention 2, 3 and 4 once each."""
    if request.so_far is None:
        record = find()
    else:
        record = _blame(from_plain(FlashAttention, request.so_far), request.so_far_ended)
    yield record
    if not any(_is_open(item) for item in record.generations or ()):
        return
    if torch_build is not None and torch_build.installed is False:
        yield _leave(record, "torch is not installed")
        return
    yield replace(record, attempting="torch")
    try:
        import torch
    except ImportError as error:
        yield _leave(record, f"torch cannot be imported: {error}")
        return
    device = f"cuda:{request.gpu}" if torch.cuda.is_available() else None
    if device is not None:
        torch.cuda.set_device(device)
        check_context(device)
        capability = "{}.{}".format(*torch.cuda.get_device_capability(device))
        record = replace(record, compute_capability=None if torch.version.hip else capability)
    for item in record.generations or ():
        if not _is_open(item):
            continue
        if item.generation == 4 and request.mode == "quick":
            record = _put(record, replace(item, not_called="a quick run does not wait for it to compile its kernels"))
        else:
            record = yield from _examine(record, item, device)
    yield replace(record, attempting=None)


def _is_open(item: Generation) -> bool:
    return bool(item.installed) and item.outcome is None and item.not_called is None


def _put(record: FlashAttention, item: Generation) -> FlashAttention:
    others = (item if other.generation == item.generation else other for other in record.generations or ())
    return replace(record, generations=tuple(others), attempting=None)


def _leave(record: FlashAttention, why: str) -> FlashAttention:
    for item in record.generations or ():
        if _is_open(item):
            record = _put(record, replace(item, not_called=why))
    return replace(record, attempting=None)


def _blame(record: FlashAttention, how: str | None) -> FlashAttention:
    """Write down what ended the child before this one, at the step that it was in."""
    name, _, step = (record.attempting or "").partition(": ")
    if name == "torch":
        return _leave(record, torch_failed(how))
    item = record.generation(int(name[-1])) if name else None
    if item is None:
        return record
    outcome, words = ended_as(how)
    if step == "call in FP8":
        return _put(record, replace(item, fp8_outcome=outcome, fp8_error=words))
    return _put(record, replace(item, imported=step != "import", outcome=outcome, error=words))


def _examine(record: FlashAttention, item: Generation, device: str | None) -> Steps:
    """Import one generation and, where there is a GPU, call it in BF16 and in FP8."""
    limit_s = LIMITS_S[item.generation or 2]
    name = f"FlashAttention {item.generation}"
    item = replace(item, module=next(iter(item.modules or MODULES[item.generation or 2])))
    yield replace(_put(record, item), attempting=f"{name}: import")
    try:
        with time_limit(limit_s):
            function = importlib.import_module(item.module or "").flash_attn_func
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # packages raise SystemExit, too
        return _put(record, replace(item, imported=False, outcome="error", error=describe(error)))
    item = replace(item, imported=True)
    if device is None:
        return _put(record, replace(item, not_called="torch sees no GPU"))

    small = small_attention(device)
    yield replace(_put(record, item), attempting=f"{name}: call")
    item = _with_bf16(item, _call(function, small.operands, small.reference, small.error_limit, limit_s), small)
    yield (record := _put(record, item))
    check_context(device)
    if item.outcome != "ok":
        return record

    yield replace(record, attempting=f"{name}: call in FP8")
    record = _put(record, _with_fp8(item, small, function, limit_s))
    yield record
    check_context(device)
    return record


def _call(function: Callable[..., Any], operands: Any, reference: Any, error_limit: float, limit_s: float) -> Attempt:
    def call() -> Any:
        # FlashAttention wants (batch, sequence, heads, head_dim); some releases return the log-sum-exp as well.
        result = function(*(operand.transpose(1, 2).contiguous() for operand in operands))
        return (result[0] if isinstance(result, tuple) else result).transpose(1, 2)

    with time_limit(limit_s):
        return attempt(call, reference, error_limit)


def _outcome(made: Attempt) -> str:
    return "refused" if made.outcome == "error" and REFUSAL.search(made.error or "") else made.outcome


def _with_bf16(item: Generation, made: Attempt, small: SmallAttention) -> Generation:
    return replace(
        item,
        outcome=_outcome(made),
        error=made.error,
        relative_error=made.relative_error,
        relative_error_limit=small.error_limit,
        head_dim=HEAD_DIM,
    )


def _with_fp8(item: Generation, small: SmallAttention, function: Callable[..., Any], limit_s: float) -> Generation:
    import torch

    operands = tuple(operand.to(torch.float8_e4m3fn) for operand in small.operands)
    # The reference starts from the same e4m3 numbers, so what is left is the kernel's own rounding: the softmax's
    # result becomes e4m3 as well before it meets V.
    reference = plain_attention(*(operand.float().cpu() for operand in operands))
    error_limit = ERROR_LIMITS["e4m3-one-operand"]
    made = _call(function, operands, reference, error_limit, limit_s)
    return replace(
        item,
        fp8_outcome=_outcome(made),
        fp8_error=made.error,
        fp8_relative_error=made.relative_error,
        fp8_relative_error_limit=error_limit,
    )
