"""Listing installed packages, and the CUDA libraries that torch really loads."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import Distribution, PackageNotFoundError, distributions, requires
from importlib.util import find_spec
from pathlib import Path

from fp8doctor.checks.libraries.facts import NAMED, Libraries, LoadedLibrary, Overwritten
from fp8doctor.model import Request
from fp8doctor.plain import from_plain
from fp8doctor.registry import probe

# Packages that hold, call, build or configure FP8 kernels; anything else is the user's own business.
OF_INTEREST = (
    r"torch(-.*|ao|vision|audio|titan|tune|data|codec|ft)?|functorch|(pytorch-)?triton(-.*)?|nvidia-.*|cuda-.*|"
    r"transformer-engine(-.*)?|flash-attn(-.*)?|flashinfer(-.*)?|xformers|sageattention|sageattn.*|spas-sage-attn|"
    r"vllm(-.*)?|sglang|sgl-kernel|tensorrt(-.*)?|lmdeploy|text-generation-server|deep-gemm|deep-ep|gemlite|kernels|"
    r"quack-kernels|tilelang|apache-tvm-ffi|cupy(-.*)?|"
    r"diffusers|transformers|accelerate|peft|deepspeed|bitsandbytes|optimum(-.*)?|compressed-tensors|llmcompressor|"
    r"auto-gptq|gptqmodel|autoawq|axolotl|unsloth(-zoo)?|trl|liger-kernel|msamp|fbgemm-gpu(-.*)?|mslk(-.*)?|"
    r"megatron-(core|bridge|fsdp)|nemo-toolkit|lightning|pytorch-lightning|"
    r"jax|jaxlib|jax-cuda.*|flax|onnx|onnxruntime(-.*)?|apex|amd-aiter|amdsmi|numpy|setuptools"
)
# What other subjects ask for: named as absent where a full listing does not have them.
ASKED_FOR = (
    "torch", "torchao", "triton", "transformer-engine", "transformer-engine-torch", "transformer-engine-cu12",
    "transformer-engine-cu13", "flash-attn", "flash-attn-3", "flash-attn-4", "flashinfer-python", "sageattention",
    "xformers", "vllm", "sglang", "diffusers", "transformers", "accelerate", "deepspeed", "bitsandbytes", "apex",
    "onnxruntime-gpu", "jax", "tensorrt", "nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)  # fmt: skip
CUDA_LIBRARY = r"(lib(?:cudnn|cublas|cublasLt|cudart|nvrtc|nccl|cuda)(?:_\w+)?)\.so(?:\.([\d.]+))?$"


@probe(runs_in="target", timeout_s=90)
def gather(request: Request) -> Iterator[Libraries]:
    """Listing packages and loaded CUDA libraries."""
    facts = from_plain(Libraries, request.so_far) if request.so_far else installed_packages(distributions())
    if facts.left_over is None:
        facts = replace(facts, left_over=left_over(facts.installed or ()))
    tried = facts.attempting
    if tried is None:
        yield facts
    if facts.torch_use is None and tried != "import":
        facts = replace(facts, attempting="import")
        yield facts
        facts = replace(facts, torch_use=_import_torch(), loaded=loaded_libraries(), attempting=None)
        yield facts
    if tried is not None:
        # A fresh child after a crash: the step that crashed is not tried again.
        error = f"the process ended by {request.so_far_ended}" if tried == "use" else None
        facts = replace(facts, attempting=None, torch_use=facts.torch_use or "import-failed", cudnn_error=error)
    elif facts.torch_use == "imported" and _has_gpu():
        facts = replace(facts, attempting="use")
        yield facts
        cudnn_error, cublas_error = _use_cudnn(request.gpu), _use_cublas(request.gpu)
        facts = replace(facts, torch_use="used", cudnn_error=cudnn_error, cublas_error=cublas_error, attempting=None)
    if facts.torch_use in ("imported", "used"):
        facts = replace(facts, cudnn_version=_cudnn_version(), cublaslt_version=_cublaslt_version())
        facts = replace(facts, loaded=with_versions(loaded_libraries(), facts))
    yield facts


def normalized(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_packages(found: Iterable[Distribution]) -> Libraries:
    """What the metadata of installed distributions says."""
    installed: dict[str, str] = {}
    versions: dict[tuple[str, str], set[str]] = {}
    owners: dict[str, set[str]] = {}
    for distribution in found:
        name = normalized(_metadata(distribution, "Name"))
        if not re.fullmatch(OF_INTEREST, name):
            continue
        version = _metadata(distribution, "Version") or "unknown"
        installed.setdefault(name, version)
        folder = str(distribution.locate_file(""))
        versions.setdefault((name, folder), set()).add(version)
        if name.startswith("nvidia-"):
            for file in distribution.files or ():
                if re.fullmatch(CUDA_LIBRARY, file.name):
                    owners.setdefault(str(distribution.locate_file(file)), set()).add(f"{name} {version}")
    return Libraries(
        installed=dict(sorted(installed.items())),
        absent=tuple(name for name in ASKED_FOR if name not in installed),
        complete=True,
        duplicates={name: tuple(sorted(v)) for (name, _), v in sorted(versions.items()) if len(v) > 1},
        overwritten=tuple(Overwritten(file, tuple(sorted(o))) for file, o in sorted(owners.items()) if len(o) > 1),
        torch_requires_cublas=_required_cublas(),
    )


def left_over(installed: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Modules that Python would find as empty folders among the packages, though no distribution brings them."""
    found = {}
    for module, distribution in NAMED.items():
        try:
            spec = find_spec(module)
        except (ImportError, ValueError):
            continue
        if spec is not None and spec.origin is None and not any(name.startswith(distribution) for name in installed):
            empty = [folder for folder in spec.submodule_search_locations or () if _is_left_over(Path(folder))]
            found.update({module: tuple(empty)} if empty else {})
    return found


def _is_left_over(folder: Path) -> bool:
    """Whether a folder lies among installed packages and holds nothing but what a run compiled."""
    try:
        inside = [file for file in folder.rglob("*") if file.is_file()]
    except OSError:
        return False
    return folder.parent.name in ("site-packages", "dist-packages") and all(f.suffix in (".pyc", ".so") for f in inside)


def _metadata(distribution: Distribution, field: str) -> str:
    try:
        return str(distribution.metadata[field] or "")
    except Exception:  # a folder named like metadata and holding none, left by an interrupted installation
        return ""


def _required_cublas() -> str | None:
    """The cuBLAS package that torch's wheel asks for, by itself or through cuda-toolkit (torch 2.11 and later)."""
    try:
        wanted = " ".join(requires("torch") or ())
    except PackageNotFoundError:
        return None
    if found := re.search(r"\bnvidia-cublas(-cu\d+)?\b", wanted):
        return found[0]
    return "nvidia-cublas" if re.search(r"\bcuda-toolkit\[[^]]*cublas", wanted) else None


def _import_torch() -> str:
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        return "absent" if error.name == "torch" else "import-failed"
    except BaseException:  # a broken installation may raise anything; the subject torch_build says what
        return "import-failed"
    return "imported"


def _has_gpu() -> bool:
    import torch

    try:
        return torch.version.cuda is not None and torch.cuda.is_available()
    except Exception:  # half a torch: a folder of that name without its modules
        return False


def _use_cudnn(gpu: int) -> str | None:
    """One convolution: cuDNN loads its sub-libraries only then."""
    import torch

    try:
        images = torch.randn(2, 16, 16, 16, device=f"cuda:{gpu}", dtype=torch.float16)
        filters = torch.randn(16, 16, 3, 3, device=f"cuda:{gpu}", dtype=torch.float16)
        torch.nn.functional.conv2d(images, filters)
        torch.cuda.synchronize(gpu)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:1000]
    return None


def _use_cublas(gpu: int) -> str | None:
    import torch

    try:
        square = torch.randn(64, 64, device=f"cuda:{gpu}", dtype=torch.bfloat16)
        torch.addmm(square[0], square, square)  # with a bias: torch takes cuBLASLt
        torch.cuda.synchronize(gpu)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:1000]
    return None


def _cudnn_version() -> str | None:
    import torch

    try:
        number = torch.backends.cudnn.version() if torch.version.cuda else None
    except Exception:  # raised where cuDNN is older than the one torch was built with; `cudnn_error` says so
        return None
    if not isinstance(number, int):
        return None
    # CUDNN_VERSION in cudnn_version.h: major * 10000 + minor * 100 + patch since 9, major * 1000 + ... before.
    thousands = 10000 if number >= 90000 else 1000
    return f"{number // thousands}.{number % thousands // 100}.{number % 100}"


def _cublaslt_version() -> str | None:
    """What the loaded cuBLASLt says of itself; nothing is loaded for it."""
    path = next((library.path for library in loaded_libraries() if library.name == "libcublasLt"), None)
    if path is None:
        return None
    import ctypes

    try:
        library = ctypes.CDLL(path)
        library.cublasLtGetVersion.restype = ctypes.c_size_t
        number = int(library.cublasLtGetVersion())
    except (OSError, AttributeError):
        return None
    # CUBLAS_VERSION in cublas_api.h: major * 10000 + minor * 100 + patch.
    return f"{number // 10000}.{number % 10000 // 100}.{number % 100}"


def loaded_libraries(maps: str | None = None) -> tuple[LoadedLibrary, ...]:
    """The CUDA libraries in this process, from /proc/self/maps.

    Args:
        maps: the text of that file, if it is at hand.
    """
    if maps is None:
        try:
            maps = Path("/proc/self/maps").read_text(errors="replace")
        except OSError:
            return ()
    # address, permissions, offset, device, inode, path: the path may hold blanks.
    paths = {fields[5].strip() for line in maps.splitlines() if len(fields := line.split(maxsplit=5)) == 6}
    search = [os.path.realpath(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    found = []
    for path in sorted(paths):
        if match := re.search(CUDA_LIBRARY, path.removesuffix(" (deleted)").rpartition("/")[2]):
            version = match[2]
            found.append(
                LoadedLibrary(
                    name=match[1],
                    version=version,
                    version_from="file name" if version else None,
                    path=path,
                    place=place_of(path),
                    in_ld_library_path=path.rpartition("/")[0] in search,
                )
            )
    return tuple(found)


def place_of(path: str) -> str:
    """Whose folder a library lies in: "wheel", "conda", "system" or "other"."""
    if re.search(r"/(site|dist)-packages/", path) or path.startswith(tuple(_wheel_folders())):
        return "wheel"
    prefix = os.path.realpath(sys.prefix)
    if path.startswith(f"{prefix}/lib/") and Path(prefix, "conda-meta").is_dir():
        return "conda"
    return "system" if path.startswith(("/usr/", "/lib/", "/lib64/", "/opt/")) else "other"


def _wheel_folders() -> list[str]:
    # Installers that link instead of copying: the loader shows the file behind the link.
    folders = set()
    for entry in sys.path:
        for file in Path(entry).glob("nvidia/*/lib/*.so*"):
            folders.add(os.path.realpath(file).rpartition("/")[0] + "/")
    return sorted(folders)


def with_versions(loaded: tuple[LoadedLibrary, ...], facts: Libraries) -> tuple[LoadedLibrary, ...]:
    """Put the versions that cuDNN and cuBLASLt were asked for in place of what their file names say."""
    asked = {"libcudnn": facts.cudnn_version, "libcublasLt": facts.cublaslt_version}
    names = [library.name for library in loaded]
    return tuple(
        replace(library, version=asked[library.name], version_from="call")
        # With two of a name loaded it is not known which of them answered.
        if library.name is not None and asked.get(library.name) and names.count(library.name) == 1
        else library
        for library in loaded
    )
