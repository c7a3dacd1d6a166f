"""What was seen of installed packages and of loaded shared libraries."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fp8doctor.model import Facts

# Modules that programs look for by name, and the beginning of the names of their distributions. FlashAttention's and
# torch's own subjects look after theirs.
NAMED = {"transformer_engine": "transformer-engine", "torchao": "torchao", "triton": "triton", "xformers": "xformers"}


@dataclass(frozen=True)
class LoadedLibrary:
    """A shared library of CUDA in a process that used torch for one convolution and one matrix product."""

    # Up to ".so": "libcudnn_graph".
    name: str | None = None
    # What the library itself says where it was asked ("9.19.0"), else what its file name says ("9" or "9.19.0").
    version: str | None = None
    # Who said so: "call" or "file name".
    version_from: str | None = None
    path: str | None = None
    # "wheel" (a Python package's folder), "conda", "system" (the distribution's or a toolkit's), "other"
    place: str | None = None
    # Its folder stands in LD_LIBRARY_PATH.
    in_ld_library_path: bool | None = None


@dataclass(frozen=True)
class Overwritten:
    """One file that two installed packages both claim: the one that was installed last has written it."""

    file: str | None = None
    # "nvidia-cudnn-cu12 9.10.2.21"
    owners: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Libraries(Facts, key="libraries"):
    """Packages round FP8 and CUDA by their metadata, and the CUDA libraries that are really loaded."""

    # Normalised distribution name -> version; of two of one name, the one that Python finds first.
    installed: dict[str, str] | None = None
    # Names that this source proves not to be installed.
    absent: tuple[str, ...] | None = None
    # Every package of interest is listed; False for a text that names only some.
    complete: bool | None = None
    # Names with several versions in one and the same folder -> the versions.
    duplicates: dict[str, tuple[str, ...]] | None = None
    # Modules of which there are folders without code of their own and no distribution -> the folders.
    left_over: dict[str, tuple[str, ...]] | None = None
    overwritten: tuple[Overwritten, ...] | None = None
    # Loaded after importing torch and, with a GPU, using cuDNN and cuBLASLt once.
    loaded: tuple[LoadedLibrary, ...] | None = None
    # How far torch came: "absent", "import-failed", "imported" (no GPU), "used"
    torch_use: str | None = None
    # What the convolution or the matrix product raised.
    cudnn_error: str | None = None
    cublas_error: str | None = None
    cudnn_version: str | None = None
    cublaslt_version: str | None = None
    # The cuBLAS package that torch was installed with, as "nvidia-cublas-cu12"; None: torch does not name one.
    torch_requires_cublas: str | None = None
    attempting: str | None = None

    def version(self, name: str) -> str | None:
        """The installed version of a distribution, None if it is not known to be installed."""
        return (self.installed or {}).get(name)

    def loaded_as(self, name: str) -> tuple[LoadedLibrary, ...]:
        """The loaded libraries of this name ("libcudnn_graph")."""
        return tuple(library for library in self.loaded or () if library.name == name)


def release(version: str | None) -> tuple[int, ...] | None:
    """The numbers of a version, to compare, without local label and suffix: "9.10.2.21+x" is (9, 10, 2, 21)."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version or "")
    return tuple(int(part) for part in found[1].split(".")) if found else None
