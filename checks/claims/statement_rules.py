"""Does a sentence of the text name what is wrong? A hint where nothing else is known, and held against what is."""

from __future__ import annotations

from fp8doctor.checks.claims.facts import Claims
from fp8doctor.checks.gpu import Gpus, capability_of
from fp8doctor.checks.libraries.facts import Libraries, release
from fp8doctor.model import Action, ErrorText, Evidence, Finding, NotApplicable, Severity
from fp8doctor.registry import rule

# AMD's GPUs with FP8: gfx942 has the fnuz types, the others OCP's. Source: ROCm, Data types and precision support.
_AMD_FP8 = ("gfx942", "gfx950", "gfx1200", "gfx1201")
# Megatron-LM's arguments.py, of sequence and tensor parallelism ("to 1") and of FSDP ("larger than one"); scripts quote
# it in comments.
ERROR_TEXTS = (
    ErrorText(
        r"^(?!\s{0,20}#).{0,200}\brequires?\b.{0,60}\bCUDA_DEVICE_MAX_CONNECTIONS\b",
        "CLM014",
        "Export CUDA_DEVICE_MAX_CONNECTIONS in the launcher as the message asks: 1 for tensor and sequence parallelism"
        " before Blackwell, more for FSDP.",
        title="CUDA_DEVICE_MAX_CONNECTIONS does not fit the kind of parallelism",
    ),
)
_NOT_SAID = NotApplicable("no sentence says so")


def _hint(said: str, title: str, *actions: Action) -> Finding:
    return Finding(title, (Evidence(f"it says: {said}", said, fact="claims.said"),), actions)


def _amd_with_fp8(gpus: Gpus | None) -> bool:
    seen = (gpus.gpus if gpus else None) or ()
    return bool(seen) and all(capability_of(gpu) in _AMD_FP8 for gpu in seen)


@rule("CLM010", "cudnn-mixed-libraries", Severity.INFO, scope="usage")
def other_cudnn(claims: Claims) -> Finding | NotApplicable:
    """The text says that another copy of cuDNN is loaded than the one that was meant.

    What it means: cuDNN is found by several ways (the wheel beside torch, CUDNN_PATH, LD_LIBRARY_PATH, ldconfig), and
    programs ask them in orders of their own.

    Why it costs time: parts of unlike versions refuse to work together, or an older one lacks FP8 attention.

    What to do: let one copy be found: remove the system's, and set CUDNN_PATH for Transformer Engine.

    Sources: transformer_engine/common/__init__.py; NVIDIA/TransformerEngine#2373.
    """
    said = claims.on("cudnn-elsewhere")
    one = Action("See which copies there are; let one be found.", "ldconfig -p | grep libcudnn; echo $CUDNN_PATH")
    return _NOT_SAID if said is None else _hint(said, "The text says that another cuDNN is loaded than was meant", one)


@rule("CLM011", "amd-fnuz-vs-ocp", Severity.INFO, scope="usage")
def other_fp8(claims: Claims, gpus: Gpus | None) -> Finding | NotApplicable:
    """The text speaks of an FP8 type that this AMD GPU does not multiply.

    What it means: gfx942 multiplies e4m3fnuz and e5m2fnuz, the GPUs after it the OCP types e4m3fn and e5m2. A program
    that holds one kind against the GPU of the other is refused, or takes the GPU for one without FP8.

    Why it costs time: the call raises, or FP8 is switched off where the GPU has it.

    What to do: choose the type by architecture, and convert weights with the factor of two in their scales.

    Sources: ROCm, Data types and precision support; pytorch/ao#1066. Not exercised on AMD hardware.
    """
    said = claims.on("fnuz")
    if said is None:
        return _NOT_SAID
    if not _amd_with_fp8(gpus):
        return NotApplicable("no AMD GPU with FP8 is named")
    action = Action("Choose the FP8 type by architecture: fnuz on gfx942, OCP's after it.")
    return _hint(said, "The FP8 type is another generation's of AMD GPUs", action)


@rule("CLM012", "rocm-hipblaslt-not-used-or-untuned", Severity.INFO, scope="usage")
def slow_on_rocm(claims: Claims, gpus: Gpus | None) -> Finding | NotApplicable:
    """FP8 products are said to be slow on an AMD GPU that has them.

    What it means: on ROCm the same product runs by hipBLASLt or rocBLAS, with a solution that was tuned for its size
    or one that was not; flat rates of some 110 TFLOP/s at every size on an MI300X were of that kind.

    Why it costs time: an untuned solution runs at a tenth of the peak.

    What to do: see that hipBLASLt is used, and let TunableOp choose; newer ROCm brings more tuned sizes.

    Sources: pytorch/pytorch#123987 (TunableOp for FP8) and #143465. Not exercised on AMD hardware.
    """
    said = claims.on("fp8-slow")
    if said is None:
        return _NOT_SAID
    if not _amd_with_fp8(gpus):
        return NotApplicable("no AMD GPU with FP8 is named")
    tune = Action("Let TunableOp choose the solution for each size.", "export PYTORCH_TUNABLEOP_ENABLED=1")
    return _hint(said, "On ROCm, slow FP8 products are first a question of hipBLASLt and its tuning", tune)


@rule("CLM013", "gpu-shared-or-mig", Severity.INFO, scope="usage")
def said_to_be_shared(claims: Claims) -> Finding | NotApplicable:
    """The text says that the GPU is shared, or a slice.

    What it means: several processes compute on one GPU, or it is cut into slices by MIG.

    Why it costs time: each gets a part of the GPU; on MIG, utilisation reads 0 whatever runs.

    What to do: time when the GPU is alone, and hold a slice against its share of the board.

    Sources: pytorch/pytorch#14531, Syllo/nvtop#256.
    """
    said = claims.on("gpu-shared")
    alone = Action("Measure when the GPU is alone.", "nvidia-smi")
    return _NOT_SAID if said is None else _hint(said, "The text says that the GPU is shared", alone)


@rule("CLM014", "env-var-wrong", Severity.INFO, scope="usage")
def variable_too_late(claims: Claims) -> Finding | NotApplicable:
    """The text says that an environment variable has a wrong value, or is set where it has no effect.

    What it means: CUDA_DEVICE_MAX_CONNECTIONS orders the streams of a GPU: 1 lets communication start before the
    product it overlaps with (tensor and sequence parallelism before Blackwell), and is too few for FSDP. CUDA reads
    its variables when it is initialised, and libraries when they are loaded; what a program sets in its own environment
    afterwards is not seen.

    Why it costs time: the setting that was meant to help is not there.

    What to do: export the variable in the shell or the launcher, before Python starts.

    Sources: CUDA programming guide, CUDA environment variables; Megatron-LM, arguments.py;
    NVIDIA-NeMo/Megatron-Bridge#925.
    """
    said = claims.on("variable-too-late")
    export = Action("Export the variable where the program is launched.")
    return _NOT_SAID if said is None else _hint(said, "A variable is set too late to have an effect", export)


@rule("CLM015", "cudnn-too-old", Severity.WARNING, scope="usage")
def needs_newer_cudnn(claims: Claims, libraries: Libraries | None) -> Finding | NotApplicable | None:
    """The text says that what is asked for needs a newer cuDNN.

    What it means: FP8 attention, its recipes and its backward pass came to cuDNN release by release, and libraries
    ask for the release that has them.

    Why it costs time: with an older one the call fails, or a slower attention is taken.

    What to do: upgrade the cuDNN package; a newer minor version works with the same torch.

    Sources: Transformer Engine's dot_product_attention/utils.py (its cuDNN versions); NVIDIA/TransformerEngine#3441.
    """
    wanted = release(claims.cudnn_needed)
    if wanted is None:
        return _NOT_SAID
    has = release(libraries.cudnn_version) if libraries else None
    if has is not None and has[: len(wanted)] >= wanted:
        return None
    known = f"; cuDNN {libraries.cudnn_version} is here" if has and libraries else ""
    return Finding(
        f"The text says that cuDNN {claims.cudnn_needed} is needed{known}",
        (Evidence(f"cuDNN {claims.cudnn_needed}", claims.cudnn_needed, fact="claims.cudnn_needed"),),
        (Action("Upgrade cuDNN, in the package for the CUDA of your torch (`python -m pip list | grep cudnn`)."),),
        severity=None if has else Severity.INFO,
    )
