"""Does the text say that this very GPU lacks what is asked of it, and does what is known of the GPU agree?"""

from __future__ import annotations

from fp8doctor.checks.claims.facts import Claims, Limit
from fp8doctor.checks.gpu import Gpus, capability, capability_of
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity
from fp8doctor.registry import rule

Capability = tuple[int, int]
_GENERATIONS: dict[str, tuple[Capability, Capability]] = {
    # The first and the last capability of each. Source: NVIDIA, CUDA GPU Compute Capability.
    "ampere": ((8, 0), (8, 8)),
    "ada": ((8, 9), (8, 9)),
    "hopper": ((9, 0), (9, 0)),
    "blackwell": ((10, 0), (12, 1)),
}


def is_of(known: Capability, architecture: str) -> bool:
    """Whether a compute capability is of an architecture as people call it: "sm_120", "hopper"."""
    if architecture in _GENERATIONS:
        first, last = _GENERATIONS[architecture]
        return first <= known <= last
    digits = architecture.removeprefix("sm_")
    return digits.isdigit() and known == (int(digits[:-1]), int(digits[-1]))


def has_natively(thing: str, known: Capability) -> bool:
    """Whether the architecture has it beyond doubt, so that a sentence which denies it is about something else.

    Sources: ScaledBlas.cpp in PyTorch (128-blocks and cuBLAS's rowwise products on 9.0); Transformer Engine's
    quantization.py (MXFP8 on 10.x); the FlashAttention repository, hopper/.
    """
    return {
        "rowwise": known == (9, 0),
        "block-scaling": known == (9, 0),
        "flash-attention-3": known == (9, 0),
        "mxfp8": known[0] == 10,
        "nvfp4": known[0] == 10,
    }.get(thing, False)


def _stated(claims: Claims, gpus: Gpus | None, things: tuple[str, ...], what: str, action: str) -> Finding | None:
    """A finding for the first sentence that fits the GPUs; of unknown ones, a hint."""
    pairs = [capability(capability_of(gpu)) for gpu in (gpus.gpus if gpus else None) or ()]
    known = [pair for pair in pairs if pair is not None]
    if len(known) < len(pairs):
        return None  # another maker's
    for limit in claims.limits or ():
        if limit.thing in things and all(_fits(limit, one) for one in known):
            return Finding(
                title=f"The text says that {what}",
                evidence=(Evidence(f"it says: {limit.text}", limit.text, fact="claims.limits"),),
                actions=(Action(action),),
                severity=None if known else Severity.INFO,
            )
    return None


def _fits(limit: Limit, known: Capability) -> bool:
    if has_natively(limit.thing or "", known):
        return False
    if limit.only:
        return not any(is_of(known, name) for name in limit.only)
    return any(is_of(known, name) for name in limit.lacking or ())


def _asked(claims: Claims, things: tuple[str, ...]) -> NotApplicable | None:
    said = any(limit.thing in things for limit in claims.limits or ())
    return None if said else NotApplicable("no sentence says so")


@rule("CLM001", "rowwise-not-on-arch", Severity.WARNING, scope="usage")
def no_rowwise(claims: Claims, gpus: Gpus | None) -> Finding | NotApplicable | None:
    """The text says that rowwise FP8 products do not exist for this architecture.

    What it means: cuBLAS multiplies with one scale a row on Hopper alone, from CUDA 12.9 on. Elsewhere torch has a
    CUTLASS kernel of its own, which came to Ada and to each Blackwell in a release of its own.

    Why it costs time: rowwise recipes fail or fall back; tensorwise ones run.

    What to do: update torch, or use tensorwise scaling; this doctor calls both on the box itself.

    Sources: ScaledBlas.cpp and RowwiseScaledMM.cu in PyTorch; pytorch/pytorch#160693 and #161236.
    """
    things = ("rowwise",)
    what = "rowwise FP8 products are not there for this architecture"
    return _asked(claims, things) or _stated(claims, gpus, things, what, "Update torch, or take tensorwise scaling.")


@rule("CLM002", "recipe-not-on-arch", Severity.WARNING, scope="usage")
def no_recipe(claims: Claims, gpus: Gpus | None) -> Finding | NotApplicable | None:
    """The text says that a scaling recipe is not this architecture's own.

    What it means: 128-blocks with FP32 scales are Hopper's, MXFP8 the data-centre Blackwell's (10.x), NVFP4
    Blackwell's. On other architectures the library refuses the recipe, unpacks it to 16 bits, or emulates it by
    another one.

    Why it costs time: the call raises, or what runs is not the product that was meant.

    What to do: tensorwise scaling runs everywhere; beyond it take the architecture's own recipe.

    Sources: transformer_engine/pytorch/quantization.py; ScaledBlas.cpp in PyTorch; NVIDIA/TransformerEngine#1939,
    #2668, #2863; vllm-project/vllm#38728.
    """
    things = ("mxfp8", "nvfp4", "block-scaling")
    action = "Take tensorwise scaling, or the recipe of this GPU: 128-blocks on Hopper, MXFP8 on 10.x."
    return _asked(claims, things) or _stated(claims, gpus, things, "this scaling is not the architecture's own", action)


@rule("CLM003", "fa3-hopper-only", Severity.WARNING, scope="usage")
def no_flash_attention_3(claims: Claims, gpus: Gpus | None) -> Finding | NotApplicable | None:
    """The text asks FlashAttention 3 of a GPU that is no Hopper.

    What it means: FlashAttention 3 is written for compute capability 9.0.

    Why it costs time: the call fails, or falls back to kernels for older GPUs.

    What to do: take FlashAttention 2, SageAttention or torch's scaled_dot_product_attention on Ada, and
    FlashAttention 4 or cuDNN on Blackwell.

    Sources: hopper/ of Dao-AILab/flash-attention, and its issue #1121.
    """
    things = ("flash-attention-3",)
    action = "Use torch.nn.functional.scaled_dot_product_attention: it picks a kernel of this GPU."
    return _asked(claims, things) or _stated(claims, gpus, things, "FlashAttention 3 is not for this GPU", action)


@rule("CLM004", "kernel-arch-only", Severity.WARNING, scope="usage")
def no_kernel(claims: Claims, gpus: Gpus | None) -> Finding | NotApplicable | None:
    """The text says that an FP8 kernel library does not cover this architecture.

    What it means: DeepGEMM, CUTLASS's grouped products and the kernels of engines for weights scaled in blocks are
    written for one architecture after the other. A GPU with FP8 tensor cores may be waiting for its own.

    Why it costs time: the engine falls back to a slower kernel, or stops.

    What to do: update the engine; until then take another backend, or a checkpoint with scales per tensor or channel.

    Sources: NVIDIA/TensorRT-LLM#3071, vllm-project/vllm#22131.
    """
    things = ("kernel",)
    action = "Update the engine, or take another backend or a checkpoint scaled per tensor or channel."
    return _asked(claims, things) or _stated(claims, gpus, things, "this kernel does not cover the GPU", action)


@rule("CLM005", "gemm-layout-not-tn", Severity.WARNING, scope="usage")
def other_layout(claims: Claims, gpus: Gpus | None) -> Finding | NotApplicable | None:
    """The text says that FP8 products run in one layout of the operands only.

    What it means: "TN", the first operand row-major and the second column-major, runs wherever FP8 does. The other
    layouts, which a backward pass would use, depend on the architecture and on the release of cuBLAS.

    Why it costs time: the call raises, or copies are made for it.

    What to do: quantise transposed copies, so that every product is TN; update cuBLAS.

    Sources: ScaledBlas.cpp in PyTorch; pytorch/pytorch#198126.
    """
    things = ("layout",)
    action = "Pass operands as TN (the weight as `weight.t()` of a contiguous tensor), or update cuBLAS."
    return _asked(claims, things) or _stated(claims, gpus, things, "only TN operands are taken", action)
