"""By which torch are two reports compared?"""

from __future__ import annotations

from fp8doctor.checks.torch_build.facts import TorchBuild
from fp8doctor.model import Trait
from fp8doctor.registry import traits

_TORCH = "torch brings the compiler, the choice of kernels, and the cuBLAS and cuDNN that it was built with"
_CUDA = "the CUDA that torch was built for brings its own cuBLAS and its own compiler of kernels"


@traits
def of_torch(build: TorchBuild) -> list[Trait]:
    """Its version, what it was built for, and the Python that runs it."""
    version = "not installed" if build.installed is False else build.version
    cuda = build.cuda or ("none" if build.version and build.accelerator not in (None, "cuda") else None)
    archs = None if build.arch_list is None else " ".join(sorted(build.arch_list))
    return [
        Trait("software", "torch", version, fact="torch_build.version", why=_TORCH),
        Trait("software", "CUDA of torch", cuda, fact="torch_build.cuda", why=_CUDA),
        Trait("software", "ROCm of torch", build.hip, fact="torch_build.hip", why=_CUDA),
        Trait("software", "architectures that torch was built for", archs, fact="torch_build.arch_list"),
        Trait("software", "Python", build.python, fact="torch_build.python", why="it asks for work", affects=("call",)),
        Trait("software", "GPU usable by torch", build.cuda_available, fact="torch_build.cuda_available"),
    ]
