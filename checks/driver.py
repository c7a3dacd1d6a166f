"""The NVIDIA driver: does it fit itself, and the CUDA that torch was built for?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fp8doctor.checks.gpu.absence import is_wsl
from fp8doctor.checks.gpu.facts import Gpus
from fp8doctor.checks.gpu.nvml import (
    CRASHED,
    Nvml,
    NvmlUnavailableError,
    plausible,
)
from fp8doctor.checks.torch_build.facts import TorchBuild
from fp8doctor.model import (
    Action,
    Caption,
    ErrorText,
    Evidence,
    Facts,
    Finding,
    NotApplicable,
    Request,
    Severity,
    Trait,
    Unknown,
    observed,
)
from fp8doctor.registry import probe, rule, traits

# The least driver branch that runs any CUDA of a major release (NVIDIA, CUDA Compatibility, "Minor Version
# Compatibility").
LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
# CUDA 99.9 as NVML writes it.
MOST_CUDA = 99_090
MISMATCH = "LIB_RM_VERSION_MISMATCH"


@dataclass(frozen=True)
class Driver(Facts, key="driver"):
    """The NVIDIA driver. `installed=False`: neither its library nor its kernel module is there."""

    installed: bool | None = None
    version: str | None = None
    # The newest CUDA that this driver (or the libcuda found first) serves, "13.0".
    cuda_version: str | None = None
    kernel_module_version: str | None = None
    # The version in the file name of the NVML library that was loaded.
    library_version: str | None = None
    # NVML's error by name and text, if it could not be used.
    nvml_error: str | None = None
    # Folders of LD_LIBRARY_PATH that hold a libcuda of their own (forward compatibility); empty if none does.
    libcuda_overrides: tuple[str, ...] | None = None
    wsl: bool | None = None

    def caption(self) -> Caption | None:
        """The driver's version."""
        return Caption(20, f"driver {self.version}") if self.version else None


@probe(runs_in="tool", timeout_s=30)
def gather(request: Request) -> Iterator[Driver]:
    """Looking at the driver."""
    module = kernel_module_version()
    seen = Driver(
        installed=True if module else None,
        version=module,
        kernel_module_version=module,
        libcuda_overrides=libcuda_overrides(os.environ.get("LD_LIBRARY_PATH", "")),
        wsl=is_wsl(),
    )
    if request.so_far_ended:  # inside NVML an earlier child died
        yield replace(seen, nvml_error=f"{CRASHED}: {request.so_far_ended}")
        return
    yield seen
    version = cuda = None
    try:
        nvml = Nvml(request.seconds_left / 2)
        version = nvml.get("nvmlSystemGetDriverVersion")
        cuda = plausible(nvml.get("nvmlSystemGetCudaDriverVersion_v2"), MOST_CUDA)
        error = nvml.take_gone()
    except NvmlUnavailableError as unavailable:
        error = str(unavailable)
    library = loaded_library_version()
    absent = module is None and error is not None and error.startswith("LIBRARY_NOT_FOUND")
    yield replace(
        seen,
        installed=False if absent else True if version or module or library else None,
        version=version or module,
        cuda_version=None if not cuda else f"{cuda // 1000}.{cuda % 1000 // 10}",
        library_version=library,
        nvml_error=error,
    )


@traits
def of_driver(driver: Driver) -> list[Trait]:
    """The driver, and a libcuda that stands before its own."""
    version = "not installed" if driver.installed is False else driver.version
    over = None if driver.libcuda_overrides is None else ", ".join(driver.libcuda_overrides) or "none"
    why = "the driver launches kernels, sets clocks and compiles what has no machine code for this GPU"
    return [
        Trait("software", "driver", version, None, "driver.version", why=why),
        Trait("software", "newest CUDA of the driver", driver.cuda_version, None, "driver.cuda_version"),
        Trait("setting", "libcuda in LD_LIBRARY_PATH", over, None, "driver.libcuda_overrides"),
    ]


def kernel_module_version(root: Path = Path("/")) -> str | None:
    """The version of the loaded kernel module, "580.159.04"."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else None


def loaded_library_version() -> str | None:
    """The version in the name of the NVML library that this process has loaded."""
    try:
        maps = Path("/proc/self/maps").read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"libnvidia-ml\.so\.(\d+\.\d+(?:\.\d+)?)", maps)
    return found[1] if found else None


def libcuda_overrides(search_path: str) -> tuple[str, ...]:
    """The folders of a library search path that hold a libcuda."""
    folders = dict.fromkeys(folder for folder in search_path.split(":") if folder)
    # os.path: unlike Path.exists it does not raise where a folder may not be read.
    return tuple(folder for folder in folders if os.path.exists(f"{folder}/libcuda.so.1"))  # noqa: PTH110


@rule("DRV001", "driver-too-old", Severity.ERROR, scope="box", explains=("cuda-init-failed",))
def too_old(
    driver: Driver, torch_build: TorchBuild | None, gpus: Gpus | None
) -> Finding | NotApplicable | Unknown | None:
    """The driver is older than the CUDA of this torch.

    What it means: a torch built for CUDA 13 needs driver 580 or newer, one for CUDA 12 needs 525, one for CUDA 11 needs
    450. Within one major release every older driver of that range will do. Data-centre GPUs can also run a newer CUDA
    through NVIDIA's compatibility package (a libcuda in front of the driver's own); GeForce boards cannot, and say
    error 804.

    Why it costs time: CUDA does not start, so torch finds no GPU and everything runs on the CPU or not at all.

    What to do: update the driver, or install a torch built for the CUDA that the driver serves.

    Sources: NVIDIA, CUDA Compatibility, "Minor Version Compatibility" and "Forward Compatibility"; PyTorch,
    c10/cuda/CUDAFunctions.cpp; Haidra-Org/horde-worker-reGen#349, DeepVAC/TorchPod#43.
    """
    if driver.installed is False:
        return NotApplicable("no NVIDIA driver is installed")
    if (driver.nvml_error or "").startswith(MISMATCH):
        return Unknown("the driver's library and its kernel module are of different versions")
    build = observed(torch_build, "the torch build")
    if build.installed is False:
        return NotApplicable("there is no torch whose CUDA the driver must serve")
    if build.cuda is None and (build.hip or build.accelerator in ("cpu", "hip", "xpu")):
        return NotApplicable("this torch was not built for CUDA")
    cuda = observed(build.cuda, "the CUDA of this torch")
    refused = re.search(r"Error 804|driver on your system is too old", build.cuda_error or "")
    if build.cuda_available or (refused is None and _is_new_enough(driver, cuda)):
        return None
    wanted = LEAST_DRIVER.get(_major(cuda) or 0)
    if wanted is None and refused is None:
        return Unknown(f"the least driver for CUDA {cuda} is not known")
    evidence = [Evidence(f"torch {build.version or ''} was built for CUDA {cuda}", cuda, fact="torch_build.cuda")]
    if driver.version:
        serves = f" and serves CUDA {driver.cuda_version}" if driver.cuda_version else ""
        evidence.append(Evidence(f"the driver is {driver.version}{serves}", driver.version, fact="driver.version"))
    if refused is not None:
        evidence.append(Evidence(f"torch said: {build.cuda_error}", fact="torch_build.cuda_error"))
    actions = [_update(wanted)]
    if driver.libcuda_overrides and _all_geforce(gpus):
        folder = driver.libcuda_overrides[0]
        evidence.append(
            Evidence(f"{folder} holds a libcuda, which GeForce boards refuse", fact="driver.libcuda_overrides")
        )
        actions.append(Action("Take the compatibility folder out of the library path.", "unset LD_LIBRARY_PATH"))
    if _major(cuda) == 13 and (_major(driver.version) or 0) >= LEAST_DRIVER[12]:
        pip = "python -m pip install torch --index-url https://download.pytorch.org/whl/cu126"
        actions.append(Action("Or install a torch built for CUDA 12 (not for Blackwell: that needs CUDA 12.8).", pip))
    needs = f"CUDA {cuda} needs {wanted} or newer" if wanted else f"it does not serve CUDA {cuda}"
    title = f"Driver {driver.version or ''} is too old for this torch: {needs}".replace("  ", " ")
    return Finding(title=title, evidence=tuple(evidence), actions=tuple(actions))


def _is_new_enough(driver: Driver, cuda: str) -> bool:
    version = _major(observed(driver.version, "the driver's version"))
    wanted = LEAST_DRIVER.get(_major(cuda) or 0)
    return version is not None and wanted is not None and version >= wanted


def _major(version: str | None) -> int | None:
    found = re.match(r"\d+", version or "")
    return int(found[0]) if found else None


def _all_geforce(gpus: Gpus | None) -> bool:
    shown = (gpus.gpus if gpus else None) or ()
    return bool(shown) and all("GeForce" in (gpu.name or "") for gpu in shown)


def _update(wanted: int | None) -> Action:
    branch = f"branch {wanted} or newer" if wanted else "the newest branch"
    text = f"Update the driver to {branch} (https://www.nvidia.com/drivers; on the host, if this is a container)."
    return Action(text, safe=False)


@rule("DRV002", "driver-library-mismatch", Severity.ERROR, scope="box", explains=("no-gpu-visible", "cuda-init-failed"))
def mismatch(driver: Driver, torch_build: TorchBuild | None) -> Finding | NotApplicable | None:
    """The driver's library and its kernel module are of different versions.

    What it means: the driver's packages were updated while the older kernel module stayed loaded, or a container brings
    driver libraries of its own.

    Why it costs time: neither nvidia-smi nor CUDA starts, so no GPU is visible.

    What to do: restart the machine, so that the new module is loaded. In a container, take the driver's libraries out
    of the image: NVIDIA's container toolkit mounts those of the host.

    Sources: nvidia-ml-py, NVML_ERROR_LIB_RM_VERSION_MISMATCH; CUDA error 803 (cudaErrorSystemDriverMismatch);
    yhlleo/DeepSegmentor#31.
    """
    if driver.installed is False:
        return NotApplicable("no NVIDIA driver is installed")
    cuda_error = (torch_build.cuda_error if torch_build else None) or ""
    by_nvml = (driver.nvml_error or "").startswith(MISMATCH)
    if not by_nvml and "Error 803" not in cuda_error:
        observed(driver.nvml_error or driver.version, "whether NVML answers")
        return None
    evidence = []
    if by_nvml:
        evidence.append(Evidence(f"NVML: {driver.nvml_error}", driver.nvml_error, fact="driver.nvml_error"))
    else:
        evidence.append(Evidence(f"torch said: {cuda_error}", fact="torch_build.cuda_error"))
    for what, version, field in (
        ("the loaded kernel module", driver.kernel_module_version, "kernel_module_version"),
        ("the library", driver.library_version, "library_version"),
    ):
        if version:
            evidence.append(Evidence(f"{what} is of driver {version}", version, fact=f"driver.{field}"))
    return Finding(
        title="The driver's library and its kernel module are of different versions",
        evidence=tuple(evidence),
        actions=(
            Action("Restart the machine, so that the installed driver's module is loaded.", "sudo reboot", safe=False),
        ),
    )


ERROR_TEXTS = (
    ErrorText(
        r"The NVIDIA driver on your system is too old \(found version|driver version is insufficient for CUDA runtime",
        rule="DRV001",
        fix="Update the driver, or install a torch built for an older CUDA.",
        command="nvidia-smi",
        title="The driver is older than the CUDA that was called",
    ),
    ErrorText(
        r"forward compatibility was attempted on non supported HW|\b[Ee]rror 804\b",
        rule="DRV001",
        fix="Update the driver: this GPU cannot use the image's newer libcuda (only data-centre GPUs can).",
        command="nvidia-smi",
        title="A newer libcuda than the driver's is loaded, and this GPU does not run with it",
    ),
    ErrorText(
        r"Driver/library version mismatch|RM has detected an NVML/RM version mismatch",
        rule="DRV002",
        fix="Restart the machine, so that the kernel module of the installed driver is loaded.",
    ),
    ErrorText(
        r"system has unsupported display driver / cuda driver combination",
        rule="DRV002",
        fix="Restart the machine; in a container, remove the driver libraries that the image brings.",
        title="The libcuda that is loaded and the driver do not go together",
    ),
)
