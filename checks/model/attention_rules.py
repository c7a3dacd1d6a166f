"""Did the attention that a model asks for by name run?"""

from __future__ import annotations

import re

from fp8doctor.checks.model.layers import counted, linears
from fp8doctor.checks.step.sums import LEAST, a_step, chosen, part, span_of, sum_count, sum_us, took, unreadable
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Unknown, Verdict
from fp8doctor.observed import Layer, Model
from fp8doctor.registry import rule
from fp8doctor.traced import KernelTotal, Trace

# What leaves the choice to torch or to a library, or raises where it cannot have its way (diffusers' "_native_flash").
_OWN_CHOICE = re.compile(r"^(sdpa|eager|native|_native_\w+|transformer-engine)$")
# transformers (AttentionInterface, and FlashAttention's builds among Hugging Face's kernels), diffusers
# (AttentionBackendName, where "flash" is FlashAttention 2).
_FLASH = re.compile(
    r"^(?:flash_attention_(\d)|_?flash(?:_varlen)?(?:_(\d))?(?:_varlen)?(?:_hub)?"
    r"|kernels-community/(?:\w+-)?flash-attn(\d)\b.*)$"
)
# SageAttention's kernels: csrc/qattn ("qk_int_sv_f8_attn_kernel", on Hopper "qk_int8_sv_f8_attn_kernel").
_SAGE = re.compile(r"(?i)qk_int8?_sv_|sage_?attn|sageattention")
_WORDS = {
    "flash": "torch's flash attention",
    "cudnn": "cuDNN's attention",
    "efficient": "torch's efficient attention",
    "math": "torch's attention in separate steps",
    "flash-attn-2": "FlashAttention 2",
    "flash-attn-3": "FlashAttention 3",
    "flash-attn-4": "FlashAttention 4",
    "te": "Transformer Engine's attention",
}
_IMPORTS = {
    "sage": "import sageattention",
    "flash-attn-2": "import flash_attn",
    "flash-attn-3": "import flash_attn_interface",
    "flash-attn-4": "import flash_attn.cute",
}


@rule(
    "MOD031",
    "attention-silent-fallback",
    Severity.WARNING,
    scope="usage",
    explains=("attention-backend-slow",),
)
def another_attention_ran(model: Model, trace: Trace) -> Verdict:
    """The model asks for an attention by name, and the kernels of the step are another's.

    What it means: the configuration names FlashAttention 2, 3 or 4, or SageAttention. None of its kernels ran in the
    recorded step; all of the attention was computed by another implementation. A library left it without more than a
    warning: its package did not import, or it does not take this GPU, type, head size or mask.

    Why it costs time: the setting changes nothing, and what is measured with it is measured of something else. Where
    torch fell back to its efficient kernel or to separate steps, attention takes several times as long.

    What to do: import the package in this environment and call it once on such a tensor: the exception says why. Or
    take the setting away: on Hopper torch's own choice is cuDNN's attention, which is no worse.

    Sources: the attentions' own settings (transformers' `_attn_implementation`, diffusers' `_attention_backend`), and
    the names of the attention kernels in the trace. It is said only where each attention of the model asks for that
    name, all attention kernels are of a known implementation, and there is one for each layer at least.
    huggingface/transformers#45399, woct0rdho/SageAttention#50.
    """
    attentions = [layer for layer in model.layers or () if layer.kind == "attention"]
    asking = [a for a in attentions if a.implementation and not _OWN_CHOICE.match(_name(a))]
    if not asking:
        return NotApplicable("no attention asks for an implementation by name")
    if (missing := unreadable(trace)) is not None:
        return missing
    names = {_name(a): _wanted(_name(a)) for a in asking}
    if unknown := [name for name, backend in names.items() if backend is None]:
        return Unknown(f"how the kernels of {', '.join(unknown)} are called is not known")
    if not _were_called(model, asking):
        return NotApplicable("the attentions that ask for one by name were not called")
    kernels = chosen(trace, lambda k: k.kind == "attention")
    unseen = {name: b for name, b in names.items() if not _ran(trace, kernels, str(b))}
    if not unseen:
        return None
    if (reason := _unsettled(trace, attentions, asking, kernels, len(unseen) == len(names))) is not None:
        return Unknown(reason)
    us, span = sum_us(kernels), span_of(trace)
    ran = [_WORDS.get(backend, backend) for backend in dict.fromkeys(str(k.backend) for k in kernels)]
    return Finding(
        title=f"Attention asks for {', '.join(unseen)}, and what ran is {', '.join(ran)}",
        evidence=(
            *(
                Evidence(f"{a.name}: {a.count:,} ask for {a.implementation}", a.count, None, "model.layers")
                for a in asking
            ),
            took(f"attention, {sum_count(kernels):,} launches", us, trace, "kernels"),
            *(Evidence((k.name or "")[:100], k.us, "us", "trace.kernels") for k in kernels[:2]),
        ),
        actions=(
            *(
                Action("Import the package where the model runs: what it raises says why", f'python -c "{_IMPORTS[b]}"')
                for b in dict.fromkeys(unseen.values())
                if b in _IMPORTS
            ),
            Action(f"Or leave the choice to torch: {part(us, span)} of the time is attention"),
        ),
        severity=Severity.WARNING if us >= LEAST * span else Severity.INFO,
    )


def _name(layer: Layer) -> str:
    # "paged|flash_attention_2": transformers' continuous batching.
    return (layer.implementation or "").rpartition("|")[2]


def _wanted(name: str) -> str | None:
    """The backend that its kernels are known as (`KernelTotal.backend`), or "sage"."""
    if name.lstrip("_").startswith("sage"):
        return "sage"
    found = _FLASH.match(name)
    return f"flash-attn-{next((v for v in found.groups() if v), '2')}" if found else None


def _ran(trace: Trace, kernels: list[KernelTotal], wanted: str) -> bool:
    """Whether a kernel of it, or of a later release of the same, is in the trace."""
    if wanted == "sage":
        return any(_SAGE.search(f"{k.name} {k.operator}") for k in trace.kernels or ())
    return any((k.backend or "").startswith("flash-attn-") and (k.backend or "") >= wanted for k in kernels)


def _were_called(model: Model, asking: list[Layer]) -> bool:
    """Whether layers inside of them were; where none was looked at while it was called, that is taken to be so."""
    layers = linears(model)
    inside = [one for one in layers if any((one.name or "").startswith(f"{a.name}.") for a in asking)]
    seen = any(one.rows for one in layers)
    return not seen or not inside or any(one.rows or one.compiled for one in inside)


def _unsettled(
    trace: Trace, attentions: list[Layer], asking: list[Layer], kernels: list[KernelTotal], none_ran: bool
) -> str | None:
    """Why the kernels that ran need not be those of the layers that ask, if so."""
    if trace.accelerator != "cuda":
        return "the kernels of another maker's GPU are not told apart"
    if not kernels:
        return "no attention kernel was recognised"
    if len(asking) < len(attentions) or not none_ran:
        return "other attentions of the model may have run these kernels"
    if any(k.backend is None for k in kernels):
        return "of which implementation some attention kernels are is not told"
    if (trace.kernels_left_out_us or 0.0) > sum_us(kernels):
        return "too many kernels are left out of the trace's totals"
    if sum_count(kernels) < counted(asking) * (trace.steps or 1):
        return f"fewer attention kernels ran {a_step(trace)} than there are attentions"
    return None
