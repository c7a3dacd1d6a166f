"""Calling each of SDPA's backends once, and torch's switch to FlashAttention 3 and 4."""

from __future__ import annotations

import re
import warnings
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

from fp8doctor.checks.attention.call import (
    CALL_LIMIT_S,
    HEAD_DIM,
    SmallAttention,
    attempt,
    check_context,
    describe,
    ended_as,
    small_attention,
    time_limit,
    torch_failed,
)
from fp8doctor.checks.attention.facts import Attention, AttentionBackend, AttentionSwitch
from fp8doctor.checks.flash_attention.packages import find
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torch_build.early import import_torch
from fp8doctor.model import Request
from fp8doctor.plain import from_plain
from fp8doctor.registry import probe

# Our names, torch.nn.attention.SDPBackend's, and the head of the reasons that torch prints when it takes none
# (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp; the capitals vary between releases).
BACKENDS = {
    "flash": ("FLASH_ATTENTION", "flash attention kernel not used because"),
    "efficient": ("EFFICIENT_ATTENTION", "memory efficient kernel not used because"),
    "cudnn": ("CUDNN_ATTENTION", "cudnn attention kernel not used because"),
    "math": ("MATH", None),
}
# What select_sdp_backend raises when every backend that is left says no.
_REFUSED = "No available kernel"
# Implementations that torch.nn.attention lists, the generation of the package behind each, and the time one may take:
# FlashAttention 4 imports for seconds and compiles on its first call.
SWITCHES = {"FA3": (3, CALL_LIMIT_S), "FA4": (4, 45.0)}

Steps = Generator[Attention, None, Attention]


@probe(runs_in="target", timeout_s=150, prepare=import_torch)
def gather(request: Request, torch_build: TorchBuild | None) -> Iterator[Attention]:
    """Calling each of torch's attention backends once."""
    record = Attention()
    if request.so_far is not None:
        record = _blame(from_plain(Attention, request.so_far), request.so_far_ended)
        yield record
    if record.why_none is not None:
        return
    if torch_build is not None and torch_build.installed is False:
        yield Attention(device="none", why_none="torch is not installed")
        return
    yield replace(record, attempting="torch")
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        yield Attention(device="none", why_none="torch is not installed")
        return
    record = replace(record, torch_version=str(torch.__version__))
    if not torch.cuda.is_available():
        yield replace(record, device="none", why_none="torch sees no GPU")
        return
    device = f"cuda:{request.gpu}"
    torch.cuda.set_device(device)
    check_context(device)
    small = small_attention(device)
    record = replace(record, device="cuda", head_dim=HEAD_DIM, relative_error_limit=small.error_limit)
    record = yield from _default(record, small, profiled=request.mode == "thorough")
    record = yield from _backends(record, small, device)
    record = yield from _switches(record, small, device, quick=request.mode == "quick")
    yield record


def _blame(record: Attention, how: str | None) -> Attention:
    """Write down what ended the child before this one, at the step that it was in."""
    what, _, name = (record.attempting or "").partition(": ")
    outcome, words = ended_as(how)
    record = replace(record, attempting=None)
    if what == "torch":
        return replace(record, why_none=torch_failed(how))
    if what == "default" and name == "kernels":
        return replace(record, default_kernels=())
    if what == "default":
        return replace(record, default_backend="unknown")
    if what == "backend":
        return _add_backend(record, AttentionBackend(name, outcome, words))
    if what == "switch":
        switch = next(item for item in record.switches or () if item.implementation == name)
        return _put_switch(record, replace(switch, outcome=outcome, error=words))
    return record


def _default(record: Attention, small: SmallAttention, *, profiled: bool) -> Steps:
    """Ask torch's dispatcher which backend a plain call takes, and see which kernels that call runs."""
    import torch

    if record.default_backend is None:
        yield replace(record, attempting="default: backend")
        record = replace(record, default_backend=_chosen(small))
        yield record
    if record.default_kernels is None and profiled:
        yield replace(record, attempting="default: kernels")
        with time_limit(CALL_LIMIT_S):
            record = replace(record, default_kernels=_kernels_of_a_call(small))
        torch.cuda.synchronize()
        yield record
    return record


def _chosen(small: SmallAttention) -> str:
    """The answer of the function that SDPA itself dispatches on, or "unknown" where this torch does not show it."""
    import torch
    from torch.nn import attention

    try:
        number = torch._fused_sdp_choice(*small.operands)
    except (AttributeError, RuntimeError):
        return "unknown"
    for name, (constant, _) in BACKENDS.items():
        if int(getattr(attention.SDPBackend, constant, -1)) == number:
            return name
    return "unknown"


def _kernels_of_a_call(small: SmallAttention) -> tuple[str, ...]:
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.nn.functional.scaled_dot_product_attention(*small.operands)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        torch.nn.functional.scaled_dot_product_attention(*small.operands)
        torch.cuda.synchronize()
    kernels = (event.name for event in profiler.events() if event.device_type.name == "CUDA")
    return tuple(dict.fromkeys(kernels))[:12]


def _backends(record: Attention, small: SmallAttention, device: str) -> Steps:
    """Force each backend once."""
    for name in BACKENDS:
        if any(item.backend == name for item in record.backends or ()):
            continue
        yield replace(record, attempting=f"backend: {name}")
        record = _add_backend(record, _forced(name, small))
        yield record
        check_context(device)
    return record


def _forced(name: str, small: SmallAttention) -> AttentionBackend:
    from torch.nn import attention

    constant, head = BACKENDS[name]
    if not hasattr(attention.SDPBackend, constant):
        return AttentionBackend(name, "absent")
    with warnings.catch_warnings(record=True) as caught, time_limit(CALL_LIMIT_S):
        warnings.simplefilter("always")
        made = attempt(lambda: _forced_call(constant, small), small.reference, small.error_limit)
    if made.outcome == "error" and _REFUSED in (made.error or ""):
        return AttentionBackend(name, "refused", reasons([str(item.message) for item in caught], head) or made.error)
    return AttentionBackend(name, made.outcome, made.error, made.relative_error)


def _forced_call(constant: str, small: SmallAttention) -> Any:
    import torch
    from torch.nn import attention

    with attention.sdpa_kernel(getattr(attention.SDPBackend, constant)):
        return torch.nn.functional.scaled_dot_product_attention(*small.operands)


def reasons(messages: list[str], head: str | None) -> str | None:
    """What torch said under one backend's head; the other backends were switched off by us and say only that."""
    heads = [known for _, known in BACKENDS.values() if known]
    said: list[str] = []
    under = False
    for message in messages:
        text = re.sub(r"\s*\(Triggered internally at .*\)\s*$", "", message.strip(), flags=re.DOTALL)
        if any(text.lower().startswith(known) for known in heads):
            under = head is not None and text.lower().startswith(head)
        elif under:
            said.append(text)
    return " ".join(said)[:600] or None


def _switches(record: Attention, small: SmallAttention, device: str, *, quick: bool) -> Steps:
    """Put each FlashAttention package that is here in the place of the flash backend, and call it."""
    from torch.nn import attention

    if record.switches is None:
        listed: list[str] = getattr(attention, "list_flash_attention_impls", list)()
        record = replace(record, switches=tuple(_found(name, quick) for name in listed if name in SWITCHES))
        yield record
    for switch in record.switches or ():
        if not switch.installed or switch.outcome is not None or switch.not_tried is not None:
            continue
        name = switch.implementation or ""
        yield replace(record, attempting=f"switch: {name}")
        with time_limit(SWITCHES[name][1]):
            switch = _switched(switch, small)
        record = _put_switch(record, switch)
        yield record
        check_context(device)
    return record


def _found(name: str, quick: bool) -> AttentionSwitch:
    package = find().generation(SWITCHES[name][0])
    not_tried = "a quick run does not wait for it to compile its kernels" if quick and name == "FA4" else None
    return AttentionSwitch(
        implementation=name,
        installed=package is not None and package.installed,
        version=package.version if package else None,
        not_tried=not_tried,
    )


def _switched(switch: AttentionSwitch, small: SmallAttention) -> AttentionSwitch:
    from torch.nn import attention

    try:
        attention.activate_flash_attention_impl(switch.implementation)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the package is imported here, and packages raise SystemExit, too
        return replace(switch, activated=False, outcome="error", error=describe(error))
    made = attempt(lambda: _forced_call("FLASH_ATTENTION", small), small.reference, small.error_limit)
    getattr(attention, "restore_flash_attention_impl", lambda: None)()  # younger than the switch
    return replace(switch, activated=True, outcome=made.outcome, error=made.error, relative_error=made.relative_error)


def _add_backend(record: Attention, backend: AttentionBackend) -> Attention:
    return replace(record, backends=(*(record.backends or ()), backend), attempting=None)


def _put_switch(record: Attention, switch: AttentionSwitch) -> Attention:
    others = (switch if item.implementation == switch.implementation else item for item in record.switches or ())
    return replace(record, switches=tuple(others), attempting=None)
