"""Looks at the examined torch: what it was built for, whether it starts CUDA, and what its FP8 products give."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import sysconfig
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fp8doctor.checks.torch_build.facts import ScaledGemm, TorchBuild, TorchDevice
from fp8doctor.checks.torch_build.scaled_gemms import TEXT_LENGTH, Case, attempt, cases, kernel_names
from fp8doctor.model import Request
from fp8doctor.plain import from_plain
from fp8doctor.raised import in_words
from fp8doctor.registry import probe

# Risky steps, as `attempting` names them; a child that ends in one is followed by another that records it.
IMPORTING = "import torch"
STARTING = "starting CUDA"
ADDING = "one addition on the GPU"
PROFILING = "profiling the products"

NARROW_TYPES = (
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float4_e2m1fn_x2",
)


@probe(runs_in="target", timeout_s=90)
def gather(request: Request) -> Iterator[TorchBuild]:
    """Importing torch and calling its FP8 matrix products."""
    build = from_plain(TorchBuild, request.so_far) if request.so_far else installed_build()
    died_in, build = build.attempting, replace(build, attempting=None)
    how = f"the process ended: {request.so_far_ended}"
    if not build.installed or died_in == IMPORTING:
        yield replace(build, import_error=how) if died_in else build
        return
    if request.so_far is None:
        yield replace(build, attempting=IMPORTING)
    started = time.perf_counter()
    try:
        import torch
    except (Exception, SystemExit) as error:
        traceback.print_exc()  # onto standard error, where known messages are looked for
        theirs = dict.fromkeys((*(build.from_python_path or ()), *brought_by_python_path(error)))
        yield replace(build, import_error=in_words(error, TEXT_LENGTH), from_python_path=tuple(theirs))
        return
    if not hasattr(torch, "_C") and not hasattr(torch, "version"):
        yield replace(build, import_error=f"AttributeError: {torch} has neither torch._C nor torch.version")
        return
    build = replace(build, import_s=round(time.perf_counter() - started, 3), **described(torch))
    yield build
    if build.accelerator in ("xpu", "cpu"):
        return

    if died_in == STARTING:
        yield replace(build, cuda_available=False, cuda_error=how)
        return
    yield replace(build, attempting=STARTING)
    build = replace(build, **started_cuda(torch))
    yield build
    if not build.devices or request.gpu >= len(build.devices):
        return

    device = f"cuda:{request.gpu}"
    build = replace(build, examined_gpu=request.gpu)
    if died_in == ADDING:
        yield replace(build, trivial_kernel_ok=False, trivial_kernel_error=how)
        return
    if build.trivial_kernel_ok is None:
        yield replace(build, attempting=ADDING)
        build = replace(build, **trivial_kernel(torch, device))
        yield build
    if build.trivial_kernel_ok:
        yield from _products(build, device, request, died_in, how)


def installed_build() -> TorchBuild:
    """What the files say before anything is imported; a crash on import leaves at least this."""
    version = _recorded_version()
    build = TorchBuild(installed=True, version=version, python=platform.python_version())
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):  # a finder of some other package may raise
        return build
    if spec is None:
        return replace(build, installed=False)
    if spec.origin is None:
        folders = list(spec.submodule_search_locations or ())
        return replace(build, installed=False, leftover_folder=folders[0] if folders else None)
    return replace(build, from_python_path=(spec.origin,) if _is_from_python_path(spec.origin) else ())


def _recorded_version() -> str | None:
    """The version that pip's records name."""
    try:
        # Here, since it imports much of Python's own, and one of that may be shadowed by a file of the person's.
        import importlib.metadata

        return importlib.metadata.version("torch")
    except Exception:  # PackageNotFoundError, and whatever such a file raises
        return None


def brought_by_python_path(error: BaseException) -> tuple[str, ...]:
    """The files of PYTHONPATH that a failed import went through, or that stand in for modules of Python's own."""
    passed = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    standing_in = [getattr(sys.modules.get(name), "__file__", None) for name in sorted(sys.stdlib_module_names)]
    return tuple(dict.fromkeys(file for file in (*passed, *standing_in) if file and _is_from_python_path(file)))


def _is_from_python_path(file: str) -> bool:
    """Whether a file is found through PYTHONPATH alone: some name their environment's own folders there, too."""
    own = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    named = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    own_folders, folders = ({Path(folder).absolute() for folder in some if folder} for some in (own, named))
    above = set(Path(file).absolute().parents)
    return bool(above & folders) and not above & own_folders


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _asked(ask: Callable[[], Any]) -> Any:
    """What a package answers; None where it raises, or has no such name."""
    try:
        return ask()
    except Exception:
        traceback.print_exc()
        return None


def described(torch: Any) -> dict[str, Any]:
    """What an imported torch says of its build; nothing here touches a GPU."""
    built_for = getattr(torch, "version", None)
    # get_arch_list() is empty in older torch where no GPU is visible; the flags behind it are not.
    flags = _asked(lambda: torch._C._cuda_getArchFlags()) if hasattr(torch, "_C") else None
    abi = _asked(lambda: torch.compiled_with_cxx11_abi()) if hasattr(torch, "compiled_with_cxx11_abi") else None
    return {
        "version": str(getattr(torch, "__version__", "unknown")),
        "cuda": _text(getattr(built_for, "cuda", None)),
        "hip": _text(getattr(built_for, "hip", None)),
        "accelerator": _accelerator(torch),
        "git_version": _text(getattr(built_for, "git_version", None)),
        "cudnn": cudnn_version(torch) if getattr(built_for, "cuda", None) else None,
        "cxx11_abi": None if abi is None else bool(abi),
        "arch_list": tuple(flags.split()) if flags else None,
        "float8_dtypes": tuple(name for name in NARROW_TYPES if hasattr(torch, name)),
    }


def _accelerator(torch: Any) -> str | None:
    """What torch was built for; None if it says so in no place that is known here, as a torch to come may."""
    stated = [name for name in ("cuda", "hip", "xpu") if hasattr(getattr(torch, "version", None), name)]
    if "cuda" not in stated:
        return None
    return next((name for name in stated if getattr(torch.version, name)), "cpu")


def cudnn_version(torch: Any) -> str | None:
    """The cuDNN that is loaded, as "9.19.0"; cuDNN 9 counts a thousand, older ones a hundred, for a minor release."""
    try:
        number = torch.backends.cudnn.version()
    except Exception:  # mixed cuDNN libraries raise here
        traceback.print_exc()
        return None
    if number is None:
        return None
    thousand = 10000 if number >= 90000 else 1000
    return f"{number // thousand}.{number % thousand // 100}.{number % 100}"


def started_cuda(torch: Any) -> dict[str, Any]:
    """Start CUDA (or HIP) and list its devices, or say in torch's words why it cannot."""
    available = False
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            available = bool(torch.cuda.is_available())
            torch.cuda.init()
        except Exception as error:  # RuntimeError, AssertionError, DeferredCudaCallError
            available = False
            said.append(f"{type(error).__name__}: {error}")
    said += [str(warning.message) for warning in caught]
    for text in said:
        sys.stderr.write(f"{text}\n")
    if available:
        count = _asked(lambda: torch.cuda.device_count()) or 0
        return {"cuda_available": True, "devices": tuple(_device(torch, index) for index in range(count))}
    return {"cuda_available": False, "cuda_error": "; ".join(said)[:TEXT_LENGTH] or None, "devices": ()}


def _device(torch: Any, index: int) -> TorchDevice:
    properties = _asked(lambda: torch.cuda.get_device_properties(index))

    def said(name: str) -> Any:
        return getattr(properties, name, None)

    gfx = said("gcnArchName") if getattr(torch.version, "hip", None) else None
    domain, bus, slot = (said(f"pci_{part}_id") for part in ("domain", "bus", "device"))
    major, minor, memory = said("major"), said("minor"), said("total_memory")
    return TorchDevice(
        index=index,
        name=said("name"),
        compute_capability=gfx.partition(":")[0] if gfx else None if major is None else f"{major}.{minor or 0}",
        sm_count=said("multi_processor_count"),
        memory_total_mib=None if memory is None else round(memory / 2**20, 1),
        l2_cache_bytes=said("L2_cache_size"),
        uuid=f"GPU-{said('uuid')}" if said("uuid") else None,
        pci_bus_id=None if domain is None else f"{domain:08X}:{bus:02X}:{slot:02X}.0",
    )


def trivial_kernel(torch: Any, device: str) -> dict[str, Any]:
    """Add on the GPU: the proof that this torch has code for it at all."""
    try:
        total = float((torch.ones(8, device=device) + 1).sum().item())
    except Exception as error:
        return {"trivial_kernel_ok": False, "trivial_kernel_error": in_words(error, TEXT_LENGTH)}
    if total != 16.0:
        return {"trivial_kernel_ok": False, "trivial_kernel_error": f"8 times (1 + 1) gave {total}"}
    return {"trivial_kernel_ok": True}


def _products(build: TorchBuild, device: str, request: Request, died_in: str | None, how: str) -> Iterator[TorchBuild]:
    assert build.devices is not None
    architecture = build.devices[request.gpu].compute_capability or ""
    wanted = cases(architecture if architecture.startswith("gfx") else None)
    done = build.scaled_gemms or ()
    for case in wanted:
        if any(case.is_record(gemm) for gemm in done):
            continue
        if died_in == case.label:
            gemm = replace(case.record, outcome="crashed", error=how)
        else:
            yield replace(build, scaled_gemms=done, attempting=case.label)
            gemm = attempt(case, device)
        done = (*done, gemm)
        yield replace(build, scaled_gemms=done)
        if gemm.outcome == "crashed" and died_in != case.label:
            # Nothing works in this process any more; a fresh child goes on with the next case.
            raise RuntimeError(f"{case.label} left the GPU unusable in this process: {gemm.error}")
    # Starting the profiler takes 3 to 8 s on an H200, several times all of the above. The timed layers name their
    # kernels in a default run.
    if request.mode == "thorough" and died_in != PROFILING:
        yield replace(build, scaled_gemms=done, attempting=PROFILING)
        yield replace(build, scaled_gemms=_with_kernels(wanted, done, device))


def _with_kernels(wanted: tuple[Case, ...], done: tuple[ScaledGemm, ...], device: str) -> tuple[ScaledGemm, ...]:
    right = [case for case in wanted if any(case.is_record(gemm) and gemm.outcome == "ok" for gemm in done)]
    named = dict(zip(right, kernel_names(right, device), strict=True))
    return tuple(
        replace(gemm, kernel=next((name for case, name in named.items() if case.is_record(gemm)), None))
        for gemm in done
    )
