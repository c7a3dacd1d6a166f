"""Do the libraries that are loaded, and the packages that brought them, fit together?"""

from __future__ import annotations

from fp8doctor.checks.claims.facts import Claims
from fp8doctor.checks.gpu import Gpus, capability
from fp8doctor.checks.libraries.facts import NAMED, Libraries, LoadedLibrary, release
from fp8doctor.model import Action, ErrorText, Evidence, Finding, NotApplicable, RuleResult, Severity, Unknown, observed
from fp8doctor.registry import rule

ERROR_TEXTS = (
    ErrorText(
        r"CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH",
        "LIB001",
        "Let one cuDNN be found only: remove the system's copy, or put the wheel's folder first in LD_LIBRARY_PATH.",
    ),
    ErrorText(
        r"cuDNN version incompatibility: PyTorch was compiled\s+against",
        "LIB002",
        "Take the older cuDNN out of LD_LIBRARY_PATH, so that torch finds the one it was installed with.",
        "unset LD_LIBRARY_PATH",
    ),
    # cudnn-frontend's scaled_dot_product_flash_attention.h, of one feature of attention after the other.
    ErrorText(
        r"(?i)not supported .{0,60}with cudnn version below \d+\.\d+",
        "LIB002",
        "Update torch with the cuDNN that it brings, or cuDNN alone; or take another attention backend.",
        "python -m pip install --upgrade torch",
        title="The cuDNN that is loaded is too old for this attention",
    ),
    ErrorText(
        r"undefined symbol: cublasLt\w+|\bcublasLt\w+, version libcublasLt\.so"
        r"|libcublasLt\.so\.\d+: version `\S+' not found",
        "LIB003",
        "The cuBLASLt that is loaded is older than the one this library was built for: upgrade the cuBLAS package.",
        "python -m pip install --upgrade nvidia-cublas",
        title="The cuBLASLt that is loaded is older than the one that a library was built for",
    ),
)

# Who refuses to run below which cuDNN: distribution, from its release, the least cuDNN.
# transformer_engine/common/__init__.py, MIN_CUDNN_VERSION: in the wheel of 2.20.2, not in those of 2.19.0 and before.
CUDNN_MINIMUMS = (("transformer-engine", (2, 20), (9, 12, 0)),)
# Releases with a known fault in MXFP8 attention; NVIDIA/TransformerEngine#3173 keeps away from them (TE 2.18).
CUDNN_BAD_FOR_MXFP8 = ((9, 23, 0), (9, 23, 1))
# Loaded library -> the packages that bring it with torch's wheels.
WHEELS = {"libcudnn": "nvidia-cudnn", "libcublas": "nvidia-cublas", "libnccl": "nvidia-nccl"}


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _seen(library: LoadedLibrary) -> Evidence:
    return Evidence(f"loaded: {library.path}", library.version, fact="libraries.loaded")


def _loaded(libraries: Libraries) -> tuple[LoadedLibrary, ...] | NotApplicable:
    if libraries.torch_use == "absent":
        return NotApplicable("there is no torch that would load them")
    return observed(libraries.loaded, "the loaded libraries")


@rule("LIB001", "cudnn-mixed-libraries", Severity.ERROR, scope="box", explains=("cudnn-too-old",))
def cudnn_mixed_libraries(libraries: Libraries) -> RuleResult:
    """cuDNN's parts are loaded from two places, or in two versions.

    What it means: cuDNN 9 is a thin library and half a dozen parts that it loads by name when they are first needed.
    Here some come from one folder and some from another, usually a Python package's and the system's. A package may
    also lack a part that another version has, and then the loader takes the other version's.

    Why it costs time: parts of unlike versions refuse to work together, at the first convolution or the first fused
    attention. Libraries that catch the error go on with slower kernels.

    What to do: let one copy be found: remove the system's packages, or put the folder of the one you want first in
    LD_LIBRARY_PATH. For Transformer Engine set CUDNN_PATH to the same copy.

    Sources: pytorch/pytorch#185512, pytorch/pytorch#188892, NVIDIA/TransformerEngine#2373.
    """
    found = _loaded(libraries)
    if isinstance(found, NotApplicable):
        return found
    parts = [library for library in found if (library.name or "").startswith("libcudnn")]
    if not parts:
        return NotApplicable("no cuDNN is loaded")
    by_folder = {(part.path or "").rpartition("/")[0]: part for part in parts}
    versions = {number[:3]: part for part in parts if len(number := release(part.version) or ()) >= 3}
    if len(by_folder) < 2 and len(versions) < 2:
        # Its parts are loaded at their first use only.
        unused = libraries.cudnn_error or "there was no GPU to use it on"
        return None if libraries.torch_use == "used" else Unknown(f"cuDNN was not used: {unused}")
    where = f"{len(by_folder)} folders" if len(by_folder) > 1 else f"versions {', '.join(map(_text, sorted(versions)))}"
    shown = by_folder.values() if len(by_folder) > 1 else versions.values()
    failed = [Evidence(f"a convolution: {libraries.cudnn_error}", fact="libraries.cudnn_error")]
    return Finding(
        f"cuDNN is loaded from {where}",
        (*map(_seen, shown), *(failed if libraries.cudnn_error else [])),
        (
            Action("See which cuDNN packages the system has", "ldconfig -p | grep libcudnn"),
            Action("Start without what the environment gives the loader first", "unset LD_PRELOAD LD_LIBRARY_PATH"),
        ),
        severity=Severity.ERROR if libraries.cudnn_error else Severity.WARNING,
    )


@rule("LIB002", "cudnn-too-old", Severity.ERROR, scope="box", explains=("fp8-attention-unavailable",))
def cudnn_too_old(libraries: Libraries, gpus: Gpus | None, claims: Claims | None = None) -> RuleResult:
    """The cuDNN that is loaded is too old, or a release with a known fault.

    What it means: torch refuses a cuDNN with a lower minor version than the one it was built with, and Transformer
    Engine from 2.20 on refuses any before 9.12. Releases 9.23.0 and 9.23.1 compute MXFP8 attention wrongly.

    Why it costs time: what needs cuDNN fails or takes slower kernels: FP8 attention above all.

    What to do: upgrade the cuDNN package (nvidia-cudnn-cu12 or -cu13); a newer minor version works with the same torch.

    Sources: torch/backends/cudnn/__init__.py (2.13); transformer_engine/common/__init__.py (2.20.2);
    NVIDIA/TransformerEngine#3173.
    """
    if libraries.torch_use == "absent":
        return NotApplicable("there is no torch that would load it")
    if "cuDNN version incompatibility" in (libraries.cudnn_error or ""):
        said = Evidence(str(libraries.cudnn_error), fact="libraries.cudnn_error")
        unset = Action("Let torch find the cuDNN it was installed with", "unset LD_LIBRARY_PATH")
        return Finding("torch refuses the cuDNN that it finds", (said,), (unset,))
    if libraries.loaded is not None and not any(part.name == "libcudnn" for part in libraries.loaded):
        return NotApplicable("no cuDNN is loaded")
    version = observed(release(libraries.cudnn_version), "the version of the loaded cuDNN")[:3]
    seen = Evidence(f"torch loads cuDNN {_text(version)}", _text(version), fact="libraries.cudnn_version")
    package = next(
        (name for name in libraries.installed or {} if name.startswith("nvidia-cudnn-cu")), "nvidia-cudnn-cu13"
    )
    upgrade = Action("Upgrade cuDNN", f"python -m pip install --upgrade {package}")
    for name, since, least in CUDNN_MINIMUMS:
        installed = release(libraries.version(name))
        if installed is not None and installed >= since and version < least:
            asks = Evidence(
                f"{name} {libraries.version(name)} asks for cuDNN {_text(least)}", fact="libraries.installed"
            )
            # A warning: Transformer Engine looks for cuDNN by itself and may find another copy than torch does.
            title = f"cuDNN {_text(version)} is too old for {name}"
            return Finding(title, (seen, asks), (upgrade,), severity=Severity.WARNING)
    blackwell = any((capability(gpu.compute_capability) or (0, 0))[0] == 10 for gpu in (gpus and gpus.gpus) or ())
    asked = libraries.version("transformer-engine") or (claims is not None and claims.on("mxfp8-attention"))
    if version in CUDNN_BAD_FOR_MXFP8 and blackwell and asked:
        title = f"cuDNN {_text(version)} has a known fault in MXFP8 attention"
        return Finding(title, (seen,), (upgrade,), severity=Severity.WARNING)
    return None


@rule("LIB003", "cublas-version", Severity.ERROR, scope="box", explains=("rowwise-not-on-arch",))
def cublas_version(libraries: Libraries) -> RuleResult:
    """The cuBLASLt that is loaded is older than the one that torch was installed with.

    What it means: torch's wheel names a cuBLAS package and is built against it. Another, older cuBLASLt was loaded
    instead: its own version says so.

    Why it costs time: FP8 scaling modes came with later releases of cuBLASLt; an older one refuses them or takes
    slower kernels.

    What to do: take the folder of the older copy out of LD_LIBRARY_PATH, or remove that copy.

    Sources: cublasLtGetVersion() of the loaded library against the version of the installed package;
    NVIDIA/TransformerEngine#2504, pytorch/pytorch#177038.
    """
    if libraries.torch_use == "absent":
        return NotApplicable("there is no torch that would load it")
    if libraries.loaded is not None and not libraries.loaded_as("libcublasLt"):
        return NotApplicable("no cuBLASLt is loaded")
    if libraries.loaded is not None and libraries.torch_requires_cublas is None:
        return NotApplicable("this torch names no cuBLAS package")
    package = observed(libraries.torch_requires_cublas, "the cuBLAS package of torch")
    wanted = observed(release(libraries.version(package)), f"the version of {package}")[:3]
    loaded = observed(release(libraries.cublaslt_version), "the version of the loaded cuBLASLt")[:3]
    if loaded >= wanted:
        return None
    return Finding(
        f"cuBLASLt {_text(loaded)} is loaded where torch was installed with {_text(wanted)}",
        (
            *map(_seen, libraries.loaded_as("libcublasLt")),
            Evidence(f"{package} {libraries.version(package)} is installed", fact="libraries.installed"),
        ),
        (Action("Start without the folders that LD_LIBRARY_PATH adds", "unset LD_LIBRARY_PATH"),),
        severity=Severity.WARNING,
    )


@rule(
    "LIB004",
    "loader-path-shadows-wheel",
    Severity.INFO,
    scope="box",
    explains=("cudnn-mixed-libraries", "cudnn-too-old", "cublas-version"),
)
def loader_path_shadows_wheel(libraries: Libraries) -> RuleResult:
    """LD_LIBRARY_PATH brings CUDA libraries in place of those that torch was installed with.

    What it means: a folder in LD_LIBRARY_PATH holds cuDNN, cuBLAS or NCCL, and the loader took it from there although
    the Python packages that torch asks for are installed.

    Why it costs time: it need not. But torch's own tests ran with its packages' versions, and where another finding
    says that a library is too old or mixed, this is where it comes from.

    What to do: unset LD_LIBRARY_PATH for torch unless the other copy is meant.

    Sources: /proc/self/maps after one convolution and one matrix product.
    """
    found = _loaded(libraries)
    if isinstance(found, NotApplicable):
        return found
    shadowing = [
        library
        for library in found
        if library.in_ld_library_path and library.place != "wheel" and _wheel_is_installed(library, libraries)
    ]
    if not shadowing:
        return None
    return Finding(
        f"LD_LIBRARY_PATH brings {', '.join(sorted({str(library.name) for library in shadowing}))}",
        tuple(map(_seen, shadowing)),
        (Action("Start without it", "unset LD_LIBRARY_PATH"),),
    )


def _wheel_is_installed(library: LoadedLibrary, libraries: Libraries) -> bool:
    package = next((wheel for name, wheel in WHEELS.items() if (library.name or "").startswith(name)), None)
    return package is not None and any(
        name == package or name.startswith(f"{package}-cu") for name in libraries.installed or {}
    )


@rule("LIB005", "distribution-twice", Severity.WARNING, scope="box")
def distribution_twice(libraries: Libraries) -> RuleResult:
    """One package is recorded in two versions in the same folder.

    What it means: the folder of installed packages holds the metadata of two versions of one package, as an
    interrupted upgrade leaves it. Its files are a mixture, or belong to a version that the metadata does not tell.

    Why it costs time: imports fail on missing symbols, and every tool that reads versions (this one too) may read the
    wrong one.

    What to do: uninstall the package until none is left, and install it once.

    Sources: importlib.metadata of the examined environment.
    """
    duplicates = observed(libraries.duplicates, "packages installed twice")
    return [
        Finding(
            f"{name} is recorded as {' and as '.join(versions)} in the same folder",
            (Evidence(f"{name}: metadata of {', '.join(versions)}", fact=f"libraries.duplicates.{name}"),),
            (
                Action("Remove all of it", f"python -m pip uninstall -y {name}  # until none is left"),
                Action("Install it once", f"python -m pip install {name}"),
            ),
            about=f"package:{name}",
        )
        for name, versions in duplicates.items()
    ] or None


@rule("LIB006", "packages-overwrite-each-other", Severity.WARNING, scope="box", explains=("cudnn-mixed-libraries",))
def packages_overwrite_each_other(libraries: Libraries) -> RuleResult:
    """Two installed packages bring the same CUDA library file.

    What it means: two packages record the same file as theirs, such as the cuDNN packages for CUDA 12 and for CUDA 13,
    which share a folder. The file is the one of whichever was installed last.

    Why it costs time: torch may get a library that was built for another CUDA than its own, and which one it is
    changes with the order of installation.

    What to do: remove the one that this torch does not ask for, and reinstall the other.

    Sources: the RECORD files of the installed packages.
    """
    pairs: dict[tuple[str, ...], list[str]] = {}
    for item in observed(libraries.overwritten, "files that two packages claim"):
        pairs.setdefault(item.owners or (), []).append(item.file or "")
    return [
        Finding(
            f"{' and '.join(owners)} bring the same files",
            (Evidence(f"{len(files)} files, such as {files[0]}", len(files), "files", "libraries.overwritten"),),
            (Action("See which one torch asks for", "python -m pip show torch | grep Requires"),),
            about=f"package:{owners[0].split()[0]}",
        )
        for owners, files in pairs.items()
    ] or None


@rule("LIB007", "left-over-folder", Severity.WARNING, scope="box")
def left_over_folder(libraries: Libraries) -> RuleResult:
    """A folder has the name of a package that is not installed.

    What it means: Python takes any folder of that name for a package, also the empty one that an uninstallation leaves
    behind (compiled files of an older run, files of one's own). `importlib.util.find_spec` then finds the package, and
    `import` succeeds; nothing is in it.

    Why it costs time: programs that ask only whether the name is there choose the package and fail at the next line.

    What to do: delete the folder, after a look at what is in it.

    Sources: Python's rules for namespace packages (PEP 420); importlib.metadata of the examined environment.
    """
    found = observed(libraries.left_over, "folders without a package")
    return [
        Finding(
            f"A folder named {module} is there, and no package of that name is installed",
            tuple(Evidence(f"found: {folder}", fact=f"libraries.left_over.{module}") for folder in folders),
            (
                Action(
                    "Delete the folder, after a look at what is in it.",
                    f"python -c \"import {module}; print(*{module}.__path__, sep='\\n')\"",
                ),
            ),
            about=f"package:{NAMED[module]}",
        )
        for module, folders in found.items()
        if module in NAMED  # a stranger's facts may hold any words, and these stand in a command
    ] or None
