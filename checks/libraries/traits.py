"""By which packages and loaded libraries are two reports compared?"""

from __future__ import annotations

import re

from fp8doctor.checks.libraries.facts import Libraries
from fp8doctor.model import Listing, Trait
from fp8doctor.registry import traits

ABSENT = "not installed"
_CUBLAS = "cuBLAS has the matrix products"
_CUDNN = "cuDNN has the attention that torch prefers on newer GPUs, and Transformer Engine's in FP8"
_ATTENTION = ("attention", "step")
# Packages that are known to change times: which, how, and what (see `Trait.affects`).
_MATTER: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"torchao", "torchao's layers and kernels", ("torchao",)),
    (r"transformer-engine(-.*)?", "Transformer Engine's layers and kernels", ("transformer-engine", "te")),
    (r"triton|pytorch-triton.*", "Triton compiles the kernels of torch.compile", ("compile", "compile-whole")),
    (r"nvidia-cublas(-.*)?", _CUBLAS, ()),
    (r"nvidia-cudnn(-cu\d+)?", _CUDNN, (*_ATTENTION, "transformer-engine", "te")),
    (r"flash-attn(-\d)?", "FlashAttention's kernels", ("flash-attn", "transformer-engine", *_ATTENTION)),
    (r"mslk", "with it, eager float8 layers of torchao do not look for it in vain at every call", ("torchao",)),
    (r"diffusers", "diffusers has the model's own code", ("step",)),
    (r"nvidia-cuda-nvrtc(-.*)?", "it compiles kernels while a program runs", ("transformer-engine", "te")),
)


@traits
def of_packages(libraries: Libraries) -> list[Trait | Listing]:
    """Installed packages by version (torch is told by its own subject), and the libraries that were really loaded."""
    listed = {name: version for name, version in (libraries.installed or {}).items() if name != "torch"}
    listed |= dict.fromkeys((name for name in libraries.absent or () if name != "torch"), ABSENT)
    packages = tuple(_package(name, version) for name, version in sorted(listed.items()))
    cudnn = Trait("software", "cuDNN that torch loads", libraries.cudnn_version, None, "libraries.cudnn_version",
                  why=_CUDNN, affects=_ATTENTION)  # fmt: skip
    cublas = Trait("software", "cuBLASLt that torch loads", libraries.cublaslt_version, None,
                   "libraries.cublaslt_version", why=_CUBLAS)  # fmt: skip
    places = [_place(libraries, "libcudnn", _CUDNN, _ATTENTION), _place(libraries, "libcublasLt", _CUBLAS, ())]
    return [Listing(packages, ABSENT if libraries.complete else None), cudnn, cublas, *places]


def _package(name: str, version: str) -> Trait:
    known = next((entry for entry in _MATTER if re.fullmatch(entry[0], name)), None)
    why, affects = known[1:] if known else (None, ())
    return Trait("software", name, version, None, f"libraries.installed.{name}", why=why, affects=affects)


def _place(libraries: Libraries, name: str, why: str, affects: tuple[str, ...]) -> Trait:
    """Where a library is loaded from: a package of Python's, or the system's."""
    places = {library.place for library in libraries.loaded_as(name)} - {None}
    place = places.pop() if len(places) == 1 else None
    return Trait("software", f"{name} is loaded from", place, None, "libraries.loaded", why=why, affects=affects)
