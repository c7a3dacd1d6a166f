"""Does torch's own attention take a fused kernel here, is it right, and does its switch to other kernels work?"""

from __future__ import annotations

from fp8doctor.checks.attention.facts import Attention, AttentionBackend, AttentionSwitch
from fp8doctor.checks.gpu.facts import capability
from fp8doctor.checks.torch_build.facts import TorchBuild
from fp8doctor.model import (
    Action,
    ErrorText,
    Evidence,
    Finding,
    Kernel,
    NotApplicable,
    RuleResult,
    Severity,
    Unknown,
    Verdict,
    observed,
    per_item,
)
from fp8doctor.registry import rule

_FUSED = ("flash", "efficient", "cudnn")
_FAILED = ("error", "crashed", "timeout")
# SDPA's fused kernels take BF16 from this compute capability on (sdp_utils.cpp in PyTorch).
_FIRST_FUSED_BF16 = (8, 0)


def _needs_gpu(attention: Attention) -> NotApplicable | Unknown | None:
    if attention.device is None and attention.why_none is not None:
        return Unknown(attention.why_none)
    if observed(attention.device, "torch's device") == "none":
        return NotApplicable(attention.why_none or "torch has no GPU to use")
    return None


@rule("ATT001", "attention-switch-fails", Severity.WARNING, scope="usage")
def switch_fails(attention: Attention) -> RuleResult:
    """torch's switch to a FlashAttention package fails when it is called.

    What it means: torch.nn.attention.activate_flash_attention_impl puts FlashAttention 3 or 4 in the place of SDPA's
    flash backend. It checks that the package can be imported and has the functions it wants; what they take and give
    back shows at the first call. Here that call failed.

    Why it costs time: a program that switches stops at its first attention call, or its author catches the error and
    goes on with whatever comes next. The switch changes nothing until somebody turns it, so this is a matter of use
    and no fault that touches other programs; it is a warning because someone did install the package.

    What to do: leave the switch alone. Plain SDPA needs none, and on Hopper and Blackwell it already takes cuDNN's
    kernels where cuDNN is newer than 9.15. If the package itself runs (see the rules FA...), call its
    flash_attn_func, or take a release that fits this torch.

    Sources: torch/nn/attention/_fa4.py in torch 2.13 unpacks two values from _flash_attn_fwd, which gives five in
    flash-attn-4 4.0.0b36 (flash_attn/cute/interface.py); seen with torch 2.11 on an H200 (benchmarks/RESULTS.md);
    lightseekorg/TorchSpec#170 met the same; check_prefer_cudnn_attention in PyTorch's sdp_utils.cpp.
    """
    if (away := _needs_gpu(attention)) is not None:
        return away
    switches = observed(attention.switches, "torch's switch between FlashAttention packages")
    if not switches:
        return NotApplicable("this torch has no switch between FlashAttention packages")
    if not any(observed(switch.installed, "a FlashAttention package") for switch in switches):
        return NotApplicable("neither FlashAttention 3 nor 4 is installed")
    return per_item((switch for switch in switches if switch.installed), lambda item: _judge_switch(item, attention))


def _judge_switch(switch: AttentionSwitch, attention: Attention) -> Verdict:
    name = f"FlashAttention {(switch.implementation or '')[-1]}"
    if switch.not_tried is not None:
        return Unknown(f"torch's switch to {name}: {switch.not_tried}")
    outcome = observed(switch.outcome, f"a call after torch's switch to {name}")
    if outcome == "ok":
        return None
    pair = f"torch {attention.torch_version or '(version unknown)'} with {name} {switch.version or ''}".rstrip()
    if switch.activated:
        taken = Evidence(f"{pair}: activate_flash_attention_impl({switch.implementation!r}) raised nothing")
    else:
        taken = Evidence(f"{pair}: activate_flash_attention_impl({switch.implementation!r}) did not come through")
    if outcome == "wrong":
        failed = _off_by(switch.relative_error, switch.error, attention.relative_error_limit)
    else:
        failed = Evidence(
            f"the SDPA call after it: {switch.error or outcome}" if switch.activated else f"{switch.error}"
        )
    return Finding(
        title=f"torch's switch to {name} does not work with the installed package",
        evidence=(taken, failed),
        actions=(
            Action(
                "Leave torch's attention as it comes; where your code has switched it, switch it back.",
                "torch.nn.attention.restore_flash_attention_impl()",
            ),
        ),
        about=f"package:{'flash-attn-4' if switch.implementation == 'FA4' else 'flash-attn-3'}",
    )


@rule("ATT002", "attention-backend-slow", Severity.WARNING, scope="box")
def only_math(attention: Attention, torch_build: TorchBuild | None = None) -> RuleResult:
    """A plain BF16 attention call gets no fused kernel.

    What it means: SDPA has three fused backends (flash, memory-efficient, cuDNN) and a fallback called math, which
    writes the whole matrix of scores to memory and reads it back. Each fused backend refused an ordinary BF16 call,
    so the fallback does the work. Nothing says so while a program runs.

    Why it costs time: on an H200, math reached 7 to 24 TFLOP/s where torch's flash backend reached 220 to 331 and
    cuDNN 339 to 646 (forward, head dimension 64 and 128, 2,048 to 8,192 tokens).

    What to do: read torch's reasons. A build without flash attention needs another torch; a backend that was switched
    off can be switched on again. GPUs before sm_80 have no fused BF16 kernel by design and are not asked; they take
    the memory-efficient one in FP16.

    Sources: measured on an H200 (benchmarks/RESULTS.md); select_sdp_backend and the conditions it asks for in
    PyTorch's aten/src/ATen/native/transformers/cuda/sdp_utils.cpp; flashinfer-ai/flashinfer#521 for the cause's name.
    """
    if (away := _needs_gpu(attention)) is not None:
        return away
    if (architecture := _examined_capability(torch_build)) is not None and architecture < _FIRST_FUSED_BF16:
        return NotApplicable("a GPU before compute capability 8.0 has no fused BF16 attention, by design")
    default = observed(attention.default_backend, "the backend of a plain SDPA call")
    if default == "unknown":
        return Unknown("torch did not say which backend a plain SDPA call takes")
    if default != "math":
        return None
    backends = observed(attention.backends, "what SDPA's backends do")
    fused = [item for item in backends if item.backend in _FUSED]
    if len(fused) < len(_FUSED) or any(item.outcome not in ("refused", "absent") for item in fused):
        return Unknown("torch takes its math backend, and not every fused one was seen to refuse")
    return Finding(
        title="A plain BF16 attention call gets no fused kernel: torch falls back to math",
        evidence=tuple(
            Evidence(f"{item.backend}: {item.reason or 'this torch does not have it'}", fact="attention.backends")
            for item in fused
        ),
        actions=(Action("See torch's own reasons in your program: force one backend and read the warnings.", _FORCE),),
    )


def _examined_capability(build: TorchBuild | None) -> tuple[int, int] | None:
    """The compute capability of the GPU that was called, None if it is not known or not NVIDIA's."""
    if build is None or build.examined_gpu is None:
        return None
    found = (d.compute_capability for d in build.devices or () if d.index == build.examined_gpu)
    return capability(next(found, None))


_FORCE = "with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION): ..."


@rule("ATT004", "silent-wrong-result", Severity.ERROR, scope="box")
def wrong(attention: Attention) -> RuleResult:
    """A backend of torch's attention computes something else than attention.

    What it means: a small BF16 call came back without an error, and its result differs from the same attention in
    FP32 by more than twice what BF16 costs when every step is rounded to it.

    Why it costs time: nothing fails, so the fault is looked for in the model, the data and the FP8 recipe.

    What to do: keep that backend out with torch.nn.attention.sdpa_kernel until torch, cuDNN or the GPU is sorted out.
    If several backends are wrong, or a matrix product is as well, suspect the GPU and its memory first.

    Sources: huggingface/transformers#47030 (a fast path, numerically wrong, that no error showed); the limit is
    computed beside each call (checks/attention/call.py).
    """
    if (away := _needs_gpu(attention)) is not None:
        return away
    return per_item(
        observed(attention.backends, "what SDPA's backends do"), lambda item: _judge_result(item, attention)
    )


def _judge_result(item: AttentionBackend, attention: Attention) -> Verdict:
    if item.outcome != "wrong":
        ran = item.outcome == "ok"
        return None if ran else NotApplicable(f"the {item.backend} backend did not run")
    default = item.backend == attention.default_backend
    others = [name for name in ("cudnn", "flash", "efficient", "math") if _is_right(attention, name)]
    return Finding(
        title=f"torch's {item.backend} attention is wrong"
        + (", and it is the one that torch picks" if default else ""),
        evidence=(_off_by(item.relative_error, item.reason, attention.relative_error_limit),),
        actions=(
            (Action(f"Take {others[0]} instead, which is right here.", _select(others[0])),)
            if others
            else (Action("No backend is right: test the GPU itself before anything else."),)
        ),
        about=f"backend:{item.backend}",
    )


def _is_right(attention: Attention, name: str) -> bool:
    return any(item.backend == name and item.outcome == "ok" for item in attention.backends or ())


def _select(name: str) -> str:
    constant = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION"}.get(name)
    return f"with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.{constant or 'MATH'}): ..."


def _off_by(error: float | None, words: str | None, limit: float | None) -> Evidence:
    if error is None:
        return Evidence(words or "the result could not be compared")
    allowed = f", and {limit:.2g} is the most that rounding explains" if limit is not None else ""
    return Evidence(f"relative error {error:.2g} against FP32{allowed}", error)


@rule("ATT005", "attention-backend-fails", Severity.ERROR, scope="box")
def backend_fails(attention: Attention) -> RuleResult:
    """A backend that torch's attention accepts fails when it runs.

    What it means: torch checks shapes, types and architecture before it takes a backend. This one passed those
    checks and then raised an error, ended the process or did not come back.

    Why it costs time: if it is the backend that torch picks by itself, attention does not work here until another is
    chosen by hand. If it is another one, only a program that asks for it by name is hit.

    What to do: choose a backend that ran. Errors of the cuDNN backend often come from a second cuDNN on the library
    path: look at what else the report says of libraries.

    Sources: sdp_utils.cpp in PyTorch (what is checked beforehand); pytorch/pytorch#185512 and pytorch/pytorch#188892
    (cuDNN's parts loaded from two places).
    """
    if (away := _needs_gpu(attention)) is not None:
        return away
    return per_item(
        observed(attention.backends, "what SDPA's backends do"), lambda item: _judge_backend(item, attention)
    )


def _judge_backend(item: AttentionBackend, attention: Attention) -> Verdict:
    if item.outcome not in _FAILED:
        return None
    default = item.backend == attention.default_backend
    working = [name for name in ("cudnn", "flash", "efficient", "math") if _is_right(attention, name)]
    return Finding(
        title=f"torch's {item.backend} attention fails" + (", and it is the one that torch picks" if default else ""),
        evidence=(Evidence(item.reason or item.outcome or "", fact="attention.backends"),),
        actions=(Action(f"Choose {working[0]}, which runs here.", _select(working[0])),) if working else (),
        about=f"backend:{item.backend}",
        severity=_gravity(item, default),
        scope="box" if default else "usage",
    )


def _gravity(item: AttentionBackend, default: bool) -> Severity:
    if not default:
        return Severity.INFO
    # A slow disk can look like a hang.
    return Severity.WARNING if item.outcome == "timeout" else Severity.ERROR


# Raised by torch.nn.attention's two implementations (_fa3.py, _fa4.py in torch 2.13).
ERROR_TEXTS = (
    ErrorText(
        r"(FA[34]) (SDPA|flash_attention) (forward|backward) unsupported:",
        "ATT001",
        "Turn the switch back: torch's own kernels take this call.",
        "torch.nn.attention.restore_flash_attention_impl()",
    ),
    ErrorText(
        r"Module '\S+' does not expose FA[34] (forward |backward )?kernels",
        "ATT001",
        "The package that was found is not one that this torch knows how to call; leave the switch alone.",
        "torch.nn.attention.restore_flash_attention_impl()",
    ),
)

# Seen in public traces; the names of the backends are those of the operators.
KERNELS = (
    Kernel(r"pytorch_flash::flash_(fwd|bwd)", "attention", "aten::_scaled_dot_product_flash_attention"),
    Kernel(r"(?i)cudnn_generated_fort_native_sdpa", "attention", "aten::_scaled_dot_product_cudnn_attention"),
    Kernel(r"fmha_cutlass[FB]_(bf16|f16|f32)_", "attention", "aten::_scaled_dot_product_efficient_attention"),
    Kernel(r"pytorch_flash::flash_bwd", "attention", "aten::_scaled_dot_product_flash_attention_backward"),
    Kernel(
        r"(?i)cudnn_generated_fort_native_sdpa.*bprop",
        "attention",
        "aten::_scaled_dot_product_cudnn_attention_backward",
    ),
    Kernel(r"fmha_cutlassB_", "attention", "aten::_scaled_dot_product_efficient_attention_backward"),
)
