"""Code that an extension lacks, where only a message tells of it: for this GPU, or of this torch. Whose is it?"""

from __future__ import annotations

from fp8doctor.checks.gpu.facts import Gpus, capability
from fp8doctor.checks.libraries.facts import Libraries
from fp8doctor.checks.torch_build.facts import TorchBuild
from fp8doctor.checks.torch_build.hardware import release, seen_gpus
from fp8doctor.checks.torch_build.rules import code_covers
from fp8doctor.checks.torch_build.stated import FIRST_TORCH_FOR_BLACKWELL, wheel_has_code
from fp8doctor.model import Action, ErrorText, Evidence, Finding, Messages, NotApplicable, Severity
from fp8doctor.registry import rule

# Packages whose extensions are compiled against torch's C++ interface. One of them alone in a text is the one that an
# undefined symbol of torch's is about.
EXTENSIONS = (
    *("flash-attn", "transformer-engine", "vllm", "sglang", "sgl-kernel", "xformers", "sageattention", "torchao"),
    *("deep-gemm", "deepspeed", "apex", "mamba-ssm", "causal-conv1d", "bitsandbytes", "torchvision", "torchaudio"),
)
FIRST_BLACKWELL = (10, 0)
_NO_IMAGE, _NO_SYMBOL = "TOR021", "TOR022"
_READ_ONLY = NotApplicable("only an error message shows it, and none was read that does")
# Mangled as the loader prints them, or written out.
_OF_TORCH = r"undefined symbol:? {0,4}(?:_Z\w{0,40}?[NK](?:2at|3c10|5torch|6caffe2)|aoti_torch_|(?:at|c10|torch)::)"

ERROR_TEXTS = (
    # What a line names as its own library is judged where that library is known.
    ErrorText(
        r"^(?!.*(?:flash_attn|transformer_engine)).*" + _OF_TORCH,
        _NO_SYMBOL,
        "Reinstall the extension that the traceback names, built for the torch that is installed.",
        title="An extension was built for another torch: it asks for a function that this one does not have",
    ),
    # cuda_call.cc of ONNX Runtime; sageattention/core.py.
    ErrorText(
        r"CUDA failure 209: no kernel image|\bSM\d{2,3} kernel is not available\. Make sure",
        "TOR023",
        "Reinstall this extension from a build for the GPU's architecture, or build it here.",
    ),
)


@rule("TOR021", "no-kernel-image", Severity.ERROR, scope="box", explains=("fp8-gemm-fails",))
def no_kernel_image() -> NotApplicable:
    """CUDA found no code for this GPU in torch, or in an extension of it.

    What it means: a program for the GPU is built for some architectures, and this GPU is none of them, as a Blackwell
    (sm_100, sm_120) is to a torch built with CUDA 12.6. torch itself may lack the code, or an extension that was
    compiled elsewhere: FlashAttention, vLLM, a kernel of one's own. The message alone does not say which.

    Why it costs time: the call raises, and so does all that goes through it.

    What to do: compare the architectures of torch with the GPU's compute capability. If it is not among them, install
    a build of torch that covers it; if it is, rebuild or reinstall the extension that the traceback names, for this
    GPU. The error may be reported later than where it happened: CUDA_LAUNCH_BLOCKING=1 shows the place.

    Sources: CUDA runtime, cudaErrorNoKernelImageForDevice; c10/cuda/CUDAException.cpp and torch/cuda/__init__.py.
    """
    return _READ_ONLY


@rule("TOR022", "torch-symbol-missing", Severity.ERROR, scope="box")
def torch_symbol_missing() -> NotApplicable:
    """An extension asks for a function of torch that the installed torch does not have.

    What it means: the loader found a C++ symbol in the namespaces at, c10 or torch that nothing defines. The extension
    was compiled against another release of torch, or with the other C++ ABI. Only the traceback says which one it is.

    Why it costs time: the import fails, or the program goes on without the extension.

    What to do: reinstall the extension from a wheel for this torch, or build it here with --no-build-isolation.

    Sources: the message of glibc's loader; Dao-AILab/flash-attention#836, NVIDIA/TransformerEngine#1684.
    """
    return _READ_ONLY


@rule("TOR023", "ext-built-without-arch", Severity.ERROR, scope="box", explains=("no-kernel-image",))
def extension_without_code(
    messages: Messages | None, torch_build: TorchBuild | None, gpus: Gpus | None
) -> Finding | NotApplicable:
    """An extension was built without code for this GPU, while torch has it.

    What it means: CUDA found no kernel for this GPU, and this build of torch has code for its architecture, so that
    the kernel is an extension's: one that was compiled elsewhere, or for a list of architectures without this one.

    Why it costs time: the first of its kernels that is needed raises; some programs go on with a slower path.

    What to do: reinstall the extension from a build for this GPU, or build it here with TORCH_CUDA_ARCH_LIST naming
    it, after every part of the installed copy was removed.

    Sources: CUDA runtime, cudaErrorNoKernelImageForDevice; CUDA C++ Programming Guide, "Application Compatibility";
    microsoft/onnxruntime#26181, thu-ml/SageAttention#173.
    """
    said = next((m for m in (messages.messages if messages else ()) if m.rule == _NO_IMAGE), None)
    devices = [(gpu, capability(gpu.capability)) for gpu in seen_gpus(torch_build, gpus) or ()]
    covered = [gpu for gpu, device in devices if device and torch_build and _has_code(torch_build, device)]
    if said is None or torch_build is None or not covered or len(covered) < len(devices):
        return _READ_ONLY
    return Finding(
        title=f"This torch has code for the {covered[0].name}, and an extension of it has none",
        evidence=(
            Evidence(f"{said.source} printed: {said.text}", fact="messages"),
            Evidence(f"torch {torch_build.version} covers {covered[0].capability}", fact="torch_build"),
        ),
        actions=(
            Action(
                "Build the extension that the traceback names again, for this GPU.",
                f'export TORCH_CUDA_ARCH_LIST="{covered[0].capability}"',
            ),
        ),
    )


@rule("TOR024", "arch-not-in-torch", Severity.ERROR, scope="box", explains=("no-kernel-image",))
def torch_before_the_gpu(
    messages: Messages | None, torch_build: TorchBuild | None, gpus: Gpus | None
) -> Finding | NotApplicable:
    """CUDA found no kernel for a Blackwell GPU, and this torch is older than Blackwell.

    What it means: torch has wheels for compute capability 10.0 and 12.0 from 2.7 on, built with CUDA 12.8. A version
    without its local tag does not say by itself what it was built with; the message settles it.

    Why it costs time: nothing of torch runs on this GPU.

    What to do: install torch 2.7 or newer, built for CUDA 12.8 or newer.

    Sources: .ci/manywheel/build_cuda.sh in PyTorch; CUDA runtime, cudaErrorNoKernelImageForDevice.
    """
    said = next((m for m in (messages.messages if messages else ()) if m.rule == _NO_IMAGE), None)
    version = release(torch_build.version) if torch_build else None
    new = [g for g in seen_gpus(torch_build, gpus) or () if (capability(g.capability) or (0, 0)) >= FIRST_BLACKWELL]
    if said is None or torch_build is None or version is None or not new or version >= FIRST_TORCH_FOR_BLACKWELL:
        return _READ_ONLY
    return Finding(
        title=f"torch {torch_build.version} is older than the {new[0].name}",
        evidence=(
            Evidence(f"{said.source} printed: {said.text}", fact="messages"),
            Evidence(f"torch {torch_build.version}", torch_build.version, fact="torch_build.version"),
        ),
        actions=(
            Action(
                "Install a build for CUDA 12.8 or newer.",
                "python -m pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu128",
            ),
        ),
    )


def _has_code(build: TorchBuild, device: tuple[int, int]) -> bool:
    return code_covers(build.arch_list, device) is True if build.arch_list else wheel_has_code(build, device)


def missing_symbol_of(package: str, messages: Messages | None, libraries: Libraries | None) -> Evidence | None:
    """The message that a symbol of torch is missing, if `package` is the only extension that the text names."""
    said = next((m for m in (messages.messages if messages else ()) if m.rule == _NO_SYMBOL), None)
    named = [name for name in (libraries.installed if libraries else None) or {} if name in EXTENSIONS]
    return Evidence(f"{said.source} printed: {said.text}", fact="messages") if said and named == [package] else None
