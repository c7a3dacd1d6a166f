"""A kernel that was not built for this GPU, where only a message tells of it: torch's own, or an extension's?"""

from __future__ import annotations

from fp8doctor.model import NotApplicable, Severity
from fp8doctor.registry import rule


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
    return NotApplicable("only an error message shows it, and none was read that does")
