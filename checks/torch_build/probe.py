"""Looks at the examined torch: what it was built for, whether it starts CUDA, and what its FP8 products give."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fp8doctor.checks.torch_build.facts import ScaledGemm, TorchBuild, TorchDevice
from fp8doctor.checks.torch_build.scaled_gemms import TEXT_LENGTH, Case, attempt, cases, kernel_names
from fp8doctor.model import Request
from fp8doctor.plain import from_plain
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
        yield replace(build, import_error=f"{type(error).__name__}: {error}"[:TEXT_LENGTH])
        return
    build = replace(build, import_s=round(time.perf_counter() - started, 3), **described(torch))
    yield build
    if build.accelerator not in ("cuda", "hip"):
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
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        version = None
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
    return build


def described(torch: Any) -> dict[str, Any]:
    """What an imported torch says of its build; nothing here touches a GPU."""
    built_for = getattr(torch, "version", None)
    cuda, hip, xpu = (getattr(built_for, name, None) for name in ("cuda", "hip", "xpu"))
    # get_arch_list() is empty in older torch where no GPU is visible; the flags behind it are not.
    flags = getattr(torch._C, "_cuda_getArchFlags", lambda: None)()
    abi = getattr(torch, "compiled_with_cxx11_abi", None)
    return {
        "version": str(torch.__version__),
        "cuda": cuda,
        "hip": hip,
        "accelerator": "cuda" if cuda else "hip" if hip else "xpu" if xpu else "cpu",
        "git_version": getattr(built_for, "git_version", None),
        "cudnn": cudnn_version(torch) if cuda else None,
        "cxx11_abi": bool(abi()) if abi else None,
        "arch_list": tuple(flags.split()) if flags else None,
        "float8_dtypes": tuple(name for name in NARROW_TYPES if hasattr(torch, name)),
    }


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
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = bool(torch.cuda.is_available())
        said: list[str] = []
        try:
            torch.cuda.init()
        except Exception as error:  # RuntimeError, AssertionError, DeferredCudaCallError
            available = False
            said.append(f"{type(error).__name__}: {error}")
    said += [str(warning.message) for warning in caught]
    for text in said:
        sys.stderr.write(f"{text}\n")
    if available:
        devices = tuple(_device(torch, index) for index in range(torch.cuda.device_count()))
        return {"cuda_available": True, "devices": devices}
    return {"cuda_available": False, "cuda_error": "; ".join(said)[:TEXT_LENGTH] or None, "devices": ()}


def _device(torch: Any, index: int) -> TorchDevice:
    properties = torch.cuda.get_device_properties(index)
    gfx = getattr(properties, "gcnArchName", None) if torch.version.hip else None
    domain, bus, slot = (getattr(properties, f"pci_{part}_id", None) for part in ("domain", "bus", "device"))
    uuid = getattr(properties, "uuid", None)
    return TorchDevice(
        index=index,
        name=properties.name,
        compute_capability=gfx.partition(":")[0] if gfx else f"{properties.major}.{properties.minor}",
        sm_count=properties.multi_processor_count,
        memory_total_mib=round(properties.total_memory / 2**20, 1),
        l2_cache_bytes=getattr(properties, "L2_cache_size", None),
        uuid=f"GPU-{uuid}" if uuid else None,
        pci_bus_id=None if domain is None else f"{domain:08X}:{bus:02X}:{slot:02X}.0",
    )


def trivial_kernel(torch: Any, device: str) -> dict[str, Any]:
    """Add on the GPU: the proof that this torch has code for it at all."""
    try:
        total = float((torch.ones(8, device=device) + 1).sum().item())
    except Exception as error:
        return {"trivial_kernel_ok": False, "trivial_kernel_error": f"{type(error).__name__}: {error}"[:TEXT_LENGTH]}
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
