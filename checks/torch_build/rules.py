"""Is this torch there, does it import, and was it built for this GPU?"""

from __future__ import annotations

import re

from fp8doctor.checks.driver import Driver
from fp8doctor.checks.gpu.facts import Gpus, capability
from fp8doctor.checks.libraries.facts import Libraries
from fp8doctor.checks.machine.facts import Machine
from fp8doctor.checks.torch_build.facts import TorchBuild
from fp8doctor.checks.torch_build.hardware import SeenGpu, release, seen_gpus
from fp8doctor.checks.torch_build.probe import IMPORTING, STARTING
from fp8doctor.checks.torch_build.renewal import Around, install, on_windows
from fp8doctor.checks.torch_build.starting import (
    REINSTALL,
    SILENT,
    cannot_start,
    has_no_code,
    import_fails,
    not_ended,
)
from fp8doctor.checks.torch_build.stated import too_old, wheel_lacks_code
from fp8doctor.model import (
    Action,
    Evidence,
    Finding,
    NotApplicable,
    ProbeRun,
    RuleResult,
    Severity,
    Unknown,
    Verdict,
    observed,
    per_item,
)
from fp8doctor.registry import rule

INSTALL = "python -m pip install torch"
# What cannot work once torch itself, or its grip on the GPU, is missing.
SYMPTOMS = ("no-fp8-gemm-in-torch", "fp8-gemm-fails")
NO_TORCH = NotApplicable("torch is not installed")


@rule("TOR001", "torch-missing", Severity.ERROR, scope="box", explains=SYMPTOMS)
def torch_missing(torch_build: TorchBuild) -> Finding | None:
    """torch is not installed in the examined environment.

    What it means: the interpreter that was examined finds no package named torch. Often it is not the interpreter that
    runs the model: the report's header names which one was looked at. A folder named torch without code in it still
    imports, as an empty package; it is what an interrupted uninstall leaves behind.

    Why it costs time: without torch nothing here can use the GPU at all.

    What to do: examine the right environment (`--python PATH`), or install torch in this one.

    Sources: Python's documentation, "namespace packages"; importlib.metadata.
    """
    if observed(torch_build.installed, "whether torch is installed"):
        return None
    evidence = [Evidence("no package named torch is found", False, fact="torch_build.installed")]
    if torch_build.version:
        evidence.append(Evidence(f"pip's records name torch {torch_build.version}, whose files are gone"))
    if torch_build.leftover_folder:
        evidence.append(
            Evidence(
                f"a folder named torch without code lies at {torch_build.leftover_folder}",
                torch_build.leftover_folder,
                fact="torch_build.leftover_folder",
            )
        )
    return Finding(
        title="torch is not installed in this environment",
        evidence=tuple(evidence),
        actions=(
            Action("If the model runs in another environment, examine that one.", "fp8doctor --python PATH"),
            # Where pip's records are left, it takes torch for installed unless it is forced.
            Action("Otherwise install torch here.", REINSTALL if torch_build.version else INSTALL),
        ),
    )


@rule("TOR002", "torch-broken", Severity.ERROR, scope="box", explains=SYMPTOMS)
def torch_broken(run: ProbeRun[TorchBuild]) -> RuleResult:
    """torch is installed, and importing it fails.

    What it means: `import torch` raised, crashed the interpreter or never came back. An undefined symbol or a shared
    library that cannot be opened says that parts of two installations are mixed: a second CUDA library on
    LD_LIBRARY_PATH, packages upgraded one by one, a module of one's own named like a package.

    Why it costs time: nothing runs, in FP8 or otherwise.

    What to do: reinstall torch with its own dependencies, in a fresh environment where one can be had, and clear
    LD_LIBRARY_PATH of other CUDA copies. What PYTHONPATH brings is found before what is installed: another torch, or a
    file of one's own named like a module that torch imports, such as random.py. An import that did not end in the time
    of this run is a warning: from a cold network disk it may take long.

    Sources: what the import itself printed; Python's documentation, "sys.path" and PYTHONPATH.
    """
    build = run.facts
    if build is None:
        return Unknown(f"nothing was learnt of torch: {run.detail or run.outcome}")
    if build.installed is False:
        return NO_TORCH
    if build.import_error is None and run.failed and build.attempting == IMPORTING:
        ended = run.detail or run.outcome
        return not_ended(run, ended) if run.outcome == "timeout" else import_fails(build, ended)
    if build.import_error is None:
        observed(build.import_s, "an import of torch")
        return None
    if SILENT in build.import_error:
        return not_ended(run, build.import_error)
    return import_fails(build, build.import_error)


@rule("TOR003", "cpu-only-torch", Severity.ERROR, scope="box", explains=SYMPTOMS)
def cpu_only(
    torch_build: TorchBuild,
    gpus: Gpus | None,
    machine: Machine | None = None,
    driver: Driver | None = None,
    libraries: Libraries | None = None,
) -> RuleResult:
    """torch was built for the CPU only, on a box with a GPU.

    What it means: the build has no CUDA or ROCm in it, whatever is installed beside it. It comes from the CPU index,
    from conda's CPU package, or from a dependency that replaced a GPU build.

    Why it costs time: everything runs on the CPU; the GPU is never touched.

    What to do: reinstall torch for CUDA or, for AMD, for ROCm, and pin it, so that the next install does not replace it
    again. PyPI's package has no CUDA on Windows, and needs driver 580 or newer on Linux since torch 2.11.

    Sources: torch.version.cuda and torch.version.hip of the build; pytorch.org, "Start Locally".
    """
    if torch_build.installed is False:
        return NO_TORCH
    if observed(torch_build.accelerator, "what torch was built for") != "cpu":
        return None
    seen = seen_gpus(torch_build, gpus)
    if seen is None:
        return Unknown("torch is built for the CPU only, and whether the box has a GPU was not seen")
    if not seen:
        return NotApplicable("no GPU is visible")
    return Finding(
        title=f"torch {torch_build.version or ''} was built for the CPU only".replace("  ", " "),
        evidence=(
            Evidence(
                f"torch {torch_build.version} has neither CUDA nor ROCm in it", "cpu", fact="torch_build.accelerator"
            ),
            Evidence(f"the box has {seen[0].name}", seen[0].name, fact="gpus.gpus"),
        ),
        actions=(install("Install a CUDA build.", seen, (machine, driver, libraries), "--force-reinstall"),),
    )


@rule("TOR004", "cuda-init-failed", Severity.ERROR, scope="box", explains=SYMPTOMS)
def cuda_does_not_start(run: ProbeRun[TorchBuild], gpus: Gpus | None) -> RuleResult:
    """torch is built for the GPU, the GPU is visible, and torch cannot start on it.

    What it means: the driver answers and CUDA (or HIP) inside torch does not: a driver older than torch's CUDA, a GPU
    hidden from this process, a GPU in an error state or held exclusively by another process, or a stale compatibility
    library in a container.

    Why it costs time: torch falls back to the CPU, or stops.

    What to do: the words of torch in the evidence name the cause; another finding of this report often does, too.

    Sources: c10/cuda/CUDAFunctions.cpp in PyTorch (the messages).
    """
    torch_build = observed(run.facts, "torch")
    if torch_build.installed is False:
        return NO_TORCH
    accelerator = observed(torch_build.accelerator, "what torch was built for")
    if accelerator not in ("cuda", "hip"):
        return NotApplicable(f"torch was built for {accelerator}")
    if run.failed and torch_build.attempting == STARTING:
        return cannot_start(
            "torch does not come back from starting on the GPU", run.detail or run.outcome, "torch_build.attempting"
        )
    if observed(torch_build.cuda_available, "whether torch starts on the GPU"):
        if observed(torch_build.trivial_kernel_ok, "an addition on the GPU") or has_no_code(torch_build):
            return None
        error = torch_build.trivial_kernel_error or "it said nothing"
        return cannot_start("The simplest kernel fails on the GPU", error, "torch_build.trivial_kernel_error")
    if gpus is None or gpus.gpus is None:
        return Unknown("torch cannot start on a GPU, and whether the box has one was not seen")
    if not gpus.gpus or gpus.why_none:
        return NotApplicable("no GPU is visible")
    error = torch_build.cuda_error or "torch.cuda.is_available() is False, without a reason"
    return cannot_start("torch cannot start on the GPU, though the driver shows it", error, "torch_build.cuda_error")


@rule("TOR005", "arch-not-in-torch", Severity.ERROR, scope="box", explains=(*SYMPTOMS, "no-kernel-image"))
def no_code_for_gpu(
    torch_build: TorchBuild,
    gpus: Gpus | None,
    machine: Machine | None = None,
    driver: Driver | None = None,
    libraries: Libraries | None = None,
) -> RuleResult:
    """This build of torch has no code for the GPU's architecture.

    What it means: a build carries machine code for a list of architectures. Code for sm_XY runs on a GPU of the same
    major version X whose minor is at least Y (8.6 code on 8.9, 10.0 code on 10.3, 12.0 code on 12.1), so an
    architecture that is missing from the list is no fault by itself; only where nothing in the list fits, and no
    portable code (PTX) is there to compile from, does every kernel fail. The version of the driver or of an installed
    CUDA toolkit does not matter here.

    Why it costs time: nothing of torch runs on this GPU.

    What to do: install a build whose list covers the GPU: for CUDA 12.8 or newer on Blackwell (10.x, 12.x), for CUDA
    12.6 on Volta and Pascal.

    Sources: CUDA C++ Programming Guide, "Application Compatibility"; torch/cuda/__init__.py in PyTorch
    (DEVICE_REQUIREMENT, PYTORCH_RELEASES_CODE_CC).
    """
    if torch_build.installed is False:
        return NO_TORCH
    accelerator = observed(torch_build.accelerator, "what torch was built for")
    if accelerator != "cuda":
        return NotApplicable(f"torch was built for {accelerator}")
    seen = seen_gpus(torch_build, gpus)
    if seen is None:
        return Unknown("the GPUs were not observed")
    if not seen:
        return NotApplicable("no GPU is visible")
    return per_item(seen, lambda gpu: _judge_code(torch_build, gpu, (machine, driver, libraries)))


def _judge_code(build: TorchBuild, gpu: SeenGpu, around: Around) -> Verdict:
    device = capability(observed(gpu.capability, f"the compute capability of {gpu.name}"))
    if device is None:
        return NotApplicable(f"{gpu.name} is no NVIDIA GPU")
    examined = (build.devices or ())[build.examined_gpu or 0 :][:1]
    tried = build.trivial_kernel_ok is not None and bool(examined) and examined[0].compute_capability == gpu.capability
    if tried and build.trivial_kernel_ok:
        return None
    evidence: list[Evidence] = []
    if tried and has_no_code(build):
        error = build.trivial_kernel_error
        evidence.append(Evidence(f"an addition on the GPU: {error}", error, fact="torch_build.trivial_kernel_error"))
    elif build.arch_list is None and (why := wheel_lacks_code(build, device)):
        return _no_code_finding(gpu, device, around, (Evidence(why, build.cuda, fact="torch_build.cuda"),))
    else:
        archs = observed(build.arch_list, "the architectures that torch was built for")
        covers = code_covers(archs, device)
        if covers is not False:
            return None if covers else Unknown(f"whether code for another GPU runs on {device[0]}.{device[1]}")
    built = " ".join(build.arch_list or ()) or "unknown"
    evidence.append(Evidence(f"torch {build.version} has code for {built}", built, fact="torch_build.arch_list"))
    return _no_code_finding(gpu, device, around, tuple(evidence))


def _no_code_finding(gpu: SeenGpu, device: tuple[int, int], around: Around, evidence: tuple[Evidence, ...]) -> Finding:
    return Finding(
        title=f"This torch has no code for the {gpu.name} (sm_{device[0]}{device[1]})",
        evidence=evidence,
        actions=(install("Install a build whose list covers this GPU.", (gpu,), around, "--force-reinstall"),),
        about=gpu.about,
    )


# GPUs of Jetson and DRIVE boards, whose machine code and that of desktop GPUs do not run on one another.
_EMBEDDED = ((5, 3), (6, 2), (7, 2), (8, 7), (10, 1), (11, 0))


def code_covers(arch_list: tuple[str, ...], device: tuple[int, int]) -> bool | None:
    """Whether a build for `arch_list` ("sm_90", "sm_90a", "compute_120") has code that runs on `device`.

    None where that is not certain: on embedded GPUs, which were renumbered once (10.1 became 11.0).
    """
    for name in arch_list:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)
        if found is None:
            continue
        kind, built, suffix = found[1], (int(found[2]), int(found[3])), found[4]
        if built == device:
            return True
        if suffix == "a":
            continue  # code with architecture-specific instructions runs on that one alone
        if kind == "compute" and not suffix and built <= device:
            return True
        if built[0] == device[0] and built[1] <= device[1] and device not in _EMBEDDED and built not in _EMBEDDED:
            return True
    return None if device in _EMBEDDED else False


@rule("TOR006", "torch-too-old-for-fp8-mm", Severity.ERROR, scope="box", explains=SYMPTOMS)
def too_old_for_products(
    torch_build: TorchBuild,
    gpus: Gpus | None,
    machine: Machine | None = None,
    driver: Driver | None = None,
    libraries: Libraries | None = None,
) -> RuleResult:
    """This torch is older than its FP8 matrix product for the GPU.

    What it means: the GPU has FP8 tensor cores, and this torch either does not know FP8 types, has no function for
    scaled matrix products, or shuts Ada GPUs (8.9) out of it, as versions before 2.3 do. On Windows the product
    came with 2.4.

    Why it costs time: FP8 weights can be stored and not multiplied; every layer is computed in 16 bits.

    What to do: update torch, for a CUDA that the driver serves: PyPI's needs driver 580 or newer since torch 2.11.

    Sources: pytorch/pytorch#118881 (Ada), Comfy-Org/ComfyUI#4528 and #4539 (Windows); the calls made on this box.
    """
    if torch_build.installed is False:
        return NO_TORCH
    seen = seen_gpus(torch_build, gpus)
    if seen is None:
        return Unknown("the GPUs were not observed")
    with_fp8 = [gpu for gpu in seen if gpu.has_fp8]
    if not with_fp8:
        unknown = any(gpu.has_fp8 is None for gpu in seen)
        return Unknown("the GPU's architecture was not observed") if unknown else NotApplicable("no GPU with FP8")
    tensorwise = [g for g in torch_build.scaled_gemms or () if g.scaling == "tensorwise"]
    if any(g.outcome in ("ok", "wrong") for g in tensorwise):
        return None
    version = release(observed(torch_build.version, "torch's version"))
    evidence = [Evidence(f"torch {torch_build.version}", torch_build.version, fact="torch_build.version")]
    if torch_build.float8_dtypes is not None and "float8_e4m3fn" not in torch_build.float8_dtypes:
        evidence.append(Evidence("it has no type float8_e4m3fn", fact="torch_build.float8_dtypes"))
    elif tensorwise and all(g.outcome == "absent" for g in tensorwise):
        evidence.append(Evidence(f"no scaled product: {tensorwise[0].error}", fact="torch_build.scaled_gemms"))
    elif why := next(filter(None, (too_old(torch_build, g, on_windows(machine)) for g in with_fp8)), None):
        evidence.append(Evidence(why))
    else:
        return None if version else Unknown("torch's version could not be read")
    return Finding(
        title=f"torch {torch_build.version} is too old for FP8 products on the {with_fp8[0].name}",
        evidence=tuple(evidence),
        actions=(install("Update torch.", with_fp8, (machine, driver, libraries)),),
    )


@rule("TOR007", "cuda-toolkit-too-old-for-ada-fp8", Severity.ERROR, scope="box", explains=SYMPTOMS)
def cuda_too_old_for_ada(
    torch_build: TorchBuild,
    gpus: Gpus | None,
    machine: Machine | None = None,
    driver: Driver | None = None,
    libraries: Libraries | None = None,
) -> RuleResult:
    """torch was built with a CUDA that is too old for FP8 on Ada GPUs (8.9).

    What it means: cuBLASLt multiplies FP8 on Ada from CUDA 12.1 (update 1) on; CUTLASS, which vLLM and others build
    on, from 12.4 on.

    Why it costs time: below 12.1 no FP8 product runs on these GPUs; below 12.4 libraries fall back to 16 bits.

    What to do: install a build of torch for CUDA 12.4 or newer.

    Sources: NVIDIA/TransformerEngine#15 and #129, NVIDIA/CUDALibrarySamples#180.
    """
    if torch_build.installed is False:
        return NO_TORCH
    seen = seen_gpus(torch_build, gpus)
    if seen is None:
        return Unknown("the GPUs were not observed")
    if not any(gpu.capability == "8.9" for gpu in seen):
        unknown = any(gpu.capability is None for gpu in seen)
        return Unknown("the GPU's architecture was not observed") if unknown else NotApplicable("no Ada GPU (8.9)")
    accelerator = observed(torch_build.accelerator, "what torch was built for")
    if accelerator != "cuda":
        return NotApplicable(f"torch was built for {accelerator}")
    cuda = observed(release(torch_build.cuda), "the CUDA that torch was built with")
    if cuda >= (12, 4):
        return None
    too_old = cuda < (12, 1)
    return Finding(
        title=f"CUDA {torch_build.cuda} is too old for {'FP8' if too_old else 'CUTLASS FP8 kernels'} on Ada",
        evidence=(
            Evidence(f"torch was built with CUDA {torch_build.cuda}", torch_build.cuda, fact="torch_build.cuda"),
        ),
        actions=(
            install("Install a build for CUDA 12.4 or newer.", seen, (machine, driver, libraries), "--force-reinstall"),
        ),
        severity=Severity.ERROR if too_old else Severity.WARNING,
    )
