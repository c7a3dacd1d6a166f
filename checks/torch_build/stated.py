"""What do versions alone settle of FP8 products? For texts, in which nothing was called."""

from __future__ import annotations

import re

from fp8doctor.checks.gpu.facts import capability
from fp8doctor.checks.torch_build.facts import TorchBuild
from fp8doctor.checks.torch_build.hardware import SeenGpu, release

# The first CUDA whose compiler makes code for 10.0 and 12.0. Source: CUDA Toolkit 12.8, release notes.
FIRST_CUDA_FOR_BLACKWELL = (12, 8)
# The first torch with wheels for it; their lists hold 10.0 and 12.0 since (.ci/manywheel/build_cuda.sh).
FIRST_TORCH_FOR_BLACKWELL = (2, 7)
# float8_e4m3fn and torch._scaled_mm came with 2.1; `_scaled_mm` takes Ada (8.9) from 2.3 on (pytorch/pytorch#118881,
# of February 2024). Wheels for Windows have it from 2.4 on (Comfy-Org/ComfyUI#4528, #4539).
FIRST_TORCH = (2, 1)
FIRST_TORCH_FOR_ADA = (2, 3)
FIRST_TORCH_ON_WINDOWS = (2, 4)
# cuBLASLt multiplies FP8 on Ada from CUDA 12.1 on (NVIDIA/TransformerEngine#15).
FIRST_CUDA_FOR_ADA = (12, 1)
# A wheel of PyTorch's own: it carries machine code alone, no PTX that a newer driver could compile for a newer GPU
# (.ci/manywheel/build_cuda.sh; from CUDA 11.8 on). Conda's, NVIDIA's and one's own builds may carry PTX.
_OFFICIAL = re.compile(r"\d+\.\d+\.\d+(\.dev\d+)?\+cu(\d{3})$")


def wheel_lacks_code(build: TorchBuild, device: tuple[int, int]) -> str | None:
    """Why a wheel has no code for a GPU, in words; None if its version does not settle it."""
    tag = _OFFICIAL.match(build.version or "")
    cuda = release(build.cuda)
    if tag is None or cuda is None or device[0] < 10 or not (11, 8) <= cuda < FIRST_CUDA_FOR_BLACKWELL:
        return None
    return f"torch {build.version} was built with CUDA {build.cuda}, which has no code for sm_{device[0]}{device[1]}"


def wheel_has_code(build: TorchBuild, device: tuple[int, int]) -> bool:
    """Whether the version alone settles that a wheel of PyTorch's own has code for a GPU: Blackwell's, from 12.8 on."""
    version, cuda = release(build.version), release(build.cuda)
    plain = re.match(r"\d+(\.\d+){1,2}(\+cu\d{3})?$", build.version or "")
    blackwell = device in ((10, 0), (10, 3), (12, 0), (12, 1))
    return (
        bool(plain and version and version >= FIRST_TORCH_FOR_BLACKWELL and cuda and cuda >= FIRST_CUDA_FOR_BLACKWELL)
        and blackwell
    )


def too_old(build: TorchBuild, gpu: SeenGpu, windows: bool = False) -> str | None:
    """Why this torch is too old for FP8 products on a GPU that has them, in words; None if it is not."""
    version = release(build.version)
    if version is None or not gpu.has_fp8:
        return None
    if version < FIRST_TORCH:
        return "before 2.1 torch has no FP8 types"
    if version < FIRST_TORCH_FOR_ADA and gpu.capability == "8.9":
        return "before 2.3 it refuses FP8 products on Ada (8.9)"
    if version < FIRST_TORCH_ON_WINDOWS and windows:
        return "before 2.4 its builds for Windows have no FP8 products"
    return None


def no_product(build: TorchBuild, gpu: SeenGpu, windows: bool = False) -> str | None:
    """Why this build cannot multiply FP8 on a GPU that has it, in words; None if its versions do not settle that."""
    cuda = release(build.cuda)
    if (device := capability(gpu.capability)) is not None and (why := wheel_lacks_code(build, device)):
        return why
    if why := too_old(build, gpu, windows):
        return f"torch {build.version}: {why}"
    if gpu.capability == "8.9" and cuda is not None and cuda < FIRST_CUDA_FOR_ADA:
        return f"CUDA {build.cuda} has no FP8 products for Ada (8.9)"
    return None
