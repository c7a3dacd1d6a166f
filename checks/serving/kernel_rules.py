"""Are the engine's kernels made for this very GPU?"""

from __future__ import annotations

from fp8doctor.checks.gpu import Gpus, capability, capability_of
from fp8doctor.checks.serving.facts import Serving
from fp8doctor.model import Action, ErrorText, Evidence, Finding, NotApplicable, Severity, Unknown
from fp8doctor.registry import rule

# The first with FP4 tensor cores. Source: NVIDIA, Blackwell architecture; TORCH_CHECK of vLLM's nvfp4 kernels.
FIRST_FP4 = (10, 0)
_REBUILD = Action(
    "Take an image of the engine for this GPU, or build it here for the architecture with its suffix.",
    "cuobjdump --list-elf /path/to/vllm/_C.abi3.so | grep -o 'sm_[0-9a-f]*' | sort | uniq -c",
)

# csrc/quantization of vLLM: w8a8/cutlass/scaled_mm_entry.cu and fp4/nvfp4_scaled_mm_entry.cu.
ERROR_TEXTS = (
    ErrorText(
        r"No compiled cutlass_scaled_mm for .{0,60}CUDA device capability: (89|9\d|1\d\d)\b"
        r"|No compiled nvfp4 mm kernel for SM 1\d\d\b",
        "SRV011",
        _REBUILD.text,
        _REBUILD.command,
    ),
    ErrorText(
        r"No compiled nvfp4 mm kernel for SM [6-9]\d\b",
        "SRV012",
        "Serve an FP8 checkpoint on Ada and Hopper: NVFP4 is Blackwell's.",
    ),
)


def _capabilities(gpus: Gpus | None) -> set[tuple[int, int] | None]:
    return {capability(capability_of(gpu)) for gpu in (gpus.gpus if gpus else None) or ()}


@rule("SRV011", "ext-built-without-arch", Severity.ERROR, scope="box", explains=("kernel-arch-only",))
def built_for_a_sibling(serving: Serving, gpus: Gpus | None) -> Finding | NotApplicable | Unknown | None:
    """The engine's FP8 kernels were built for a sibling of this GPU.

    What it means: Blackwell's kernels are compiled for one architecture each (sm_100a, sm_120a). On a sibling (10.3,
    12.1) the engine takes the same kernel for usable, and its launch ends in "Error Internal".

    Why it costs time: the engine stops, or serves in 16 bits.

    What to do: take an image of the engine that was built for this GPU, or build it here; cuobjdump shows what a
    library holds.

    Sources: cutlass/cutlass.h (the words); vllm-project/vllm#39367, #40758 and #43367 (GB300 and GB10; a build for
    sm_121a ran).
    """
    if not serving.cutlass_internal_error:
        return NotApplicable("no CUTLASS kernel was seen to fail")
    known = _capabilities(gpus)
    if not known or None in known:
        return Unknown("a CUTLASS kernel failed, and the text does not say on which GPU")
    siblings = sorted(one for one in known if one and one[0] >= 10 and one[1] > 0)
    if not siblings:
        return Unknown("a CUTLASS kernel failed for a reason that its message does not tell")
    shown = f"{siblings[0][0]}.{siblings[0][1]}"
    return Finding(
        f"A CUTLASS kernel does not run on compute capability {shown}: it was built for a sibling",
        (Evidence('"Error Internal" was printed', True, fact="serving.cutlass_internal_error"),),
        (_REBUILD,),
    )


@rule("SRV012", "recipe-not-on-arch", Severity.WARNING, scope="usage")
def no_fp4_units(serving: Serving, gpus: Gpus | None) -> Finding | NotApplicable | Unknown | None:
    """FP4 weights are served on a GPU without FP4 tensor cores.

    What it means: NVFP4 and MXFP4 products begin with Blackwell. On Hopper and Ada the engine unpacks the weights for a
    16-bit product (Marlin), though the GPU would multiply FP8.

    Why it costs time: prompts and large batches run at the rate of 16 bits: 5,435 against 8,822 tokens a second with
    the same model in FP8 on two H200.

    What to do: serve an FP8 checkpoint on these GPUs; keep FP4 where memory decides.

    Sources: the warning in vLLM's marlin_utils_fp4.py; vllm-project/vllm#38728.
    """
    if not serving.fp4_weight_only:
        return NotApplicable("no FP4 weights were seen to be unpacked")
    known = _capabilities(gpus)
    if not known or None in known:
        return Unknown("FP4 weights are unpacked, and the text does not say on which GPU")
    if max(one for one in known if one) >= FIRST_FP4:
        return NotApplicable("this GPU has FP4 tensor cores: that they are not used is another question")
    return Finding(
        "This GPU has no FP4 tensor cores: the engine unpacks FP4 weights for 16-bit products",
        (Evidence("the engine said so of FP4 weights (Marlin)", True, fact="serving.fp4_weight_only"),),
        (Action("Serve an FP8 checkpoint of the model on this GPU."),),
    )
