"""Which GPUs are there, in which state? NVML is asked first; what it does not show (AMD) torch may."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fp8doctor.checks.gpu import absence
from fp8doctor.checks.gpu.facts import Gpu, GpuProcess, Gpus, capability
from fp8doctor.checks.gpu.nvml import Nvml, NvmlUnavailableError, milliwatts, pci_key, uuid_key
from fp8doctor.checks.torch_build.facts import TorchBuild, TorchDevice
from fp8doctor.model import ProbeRun, Request
from fp8doctor.plain import from_plain
from fp8doctor.registry import probe
from fp8doctor.variables import RUN_MARK

MIB = 1 << 20
# FP32 lanes of one SM, which turn NVML's core count into SMs (`_ConvertSMVer2Cores` of NVIDIA's CUDA samples).
CORES_PER_SM = {
    **dict.fromkeys([(6, 0), (7, 0), (7, 5), (8, 0)], 64),
    **dict.fromkeys([(6, 1), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (11, 0), (12, 0), (12, 1)], 128),
}
VENDORS = {"cuda": "nvidia", "hip": "amd", "xpu": "intel"}
COMPUTE_MODES = {0: "default", 1: "exclusive-thread", 2: "prohibited", 3: "exclusive-process"}
COMPUTE_PROCESSES = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetComputeRunningProcesses_v2")
GRAPHICS_PROCESSES = ("nvmlDeviceGetGraphicsRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses_v2")
VIRTUALIZATION_MODES = {0: "none", 1: "passthrough", 2: "vgpu", 3: "host-vgpu", 4: "host-vsga"}


@probe(runs_in="tool", timeout_s=20)
def gather(request: Request, torch_build: ProbeRun[TorchBuild]) -> Iterator[Gpus]:
    """Looking for GPUs."""
    if request.so_far is not None:  # an earlier child died inside NVML; what it had read is what can be read
        yield from_plain(Gpus, request.so_far)
        return
    traces = absence.look(os.environ)
    start = Gpus(visibility=dict(traces.visibility or {}))
    nvml, error = _open()
    build = torch_build.facts or TorchBuild()
    devices = build.devices or ()
    gpus: tuple[Gpu, ...] = ()
    if nvml is not None:
        family = _family()
        start = replace(start, doctor_idle=_is_alone(family))
        count = nvml.get("nvmlDeviceGetCount") or 0
        gpus = tuple(Gpu(index=i, vendor="nvidia") for i in range(count))
        for i in range(count):
            yield replace(start, gpus=gpus, source="nvml")  # a driver that hangs on one GPU costs that GPU only
            gpus = (*gpus[:i], _with_torch(read_gpu(nvml, i, family), devices, build, count), *gpus[i + 1 :])
    shown_by_torch = () if gpus and build.accelerator == "cuda" else _from_torch(build)
    source = " and ".join(["nvml"] * bool(gpus) + ["torch"] * bool(shown_by_torch)) or None
    if gpus or shown_by_torch:
        yield replace(start, gpus=gpus + shown_by_torch, source=source)
        return
    why, detail = absence.conclude(traces, error)
    nobody_looked = error == "NOT_INSTALLED" and why is None and torch_build.facts is None
    yield replace(start, gpus=None if nobody_looked else (), why_none=why, why_none_detail=detail)


def _open() -> tuple[Nvml | None, str | None]:
    try:
        return Nvml(), None
    except NvmlUnavailableError as error:
        return None, error.name


def read_gpu(nvml: Nvml, index: int, family: frozenset[int]) -> Gpu:
    """Read all that NVML says of one GPU; what is not supported, or lost meanwhile, stays None."""
    lib, get = nvml.library, nvml.get
    nvml.take_gone()
    handle = get("nvmlDeviceGetHandleByIndex", index)
    if handle is None:
        return Gpu(index=index, vendor="nvidia", failure=nvml.last_error)
    gpu = identity(nvml, index, handle)  # first: a GPU that is lost meanwhile keeps its name
    used, total = _memory(nvml, handle)
    mig = get("nvmlDeviceGetMigMode", handle)
    ecc = get("nvmlDeviceGetEccMode", handle)
    persistence = get("nvmlDeviceGetPersistenceMode", handle)
    found = get("nvmlDeviceGetCudaComputeCapability", handle)
    mps = get("nvmlDeviceGetMPSComputeRunningProcesses", handle)
    utilization = get("nvmlDeviceGetUtilizationRates", handle)
    return replace(
        gpu,
        compute_capability=None if found is None else f"{found[0]}.{found[1]}",
        sm_count=_sm_count(get("nvmlDeviceGetNumGpuCores", handle), found, mig),
        memory_total_mib=total,
        memory_used_mib=used,
        power_limit_w=milliwatts(get("nvmlDeviceGetEnforcedPowerLimit", handle)),
        power_limit_default_w=milliwatts(get("nvmlDeviceGetPowerManagementDefaultLimit", handle)),
        power_w=milliwatts(get("nvmlDeviceGetPowerUsage", handle)),
        temperature_c=temperature(nvml, handle),
        sm_clock_mhz=get("nvmlDeviceGetClockInfo", handle, lib.NVML_CLOCK_SM),
        sm_clock_max_mhz=get("nvmlDeviceGetMaxClockInfo", handle, lib.NVML_CLOCK_SM),
        application_clock_mhz=get("nvmlDeviceGetApplicationsClock", handle, lib.NVML_CLOCK_GRAPHICS),
        application_clock_default_mhz=get("nvmlDeviceGetDefaultApplicationsClock", handle, lib.NVML_CLOCK_GRAPHICS),
        memory_clock_mhz=get("nvmlDeviceGetClockInfo", handle, lib.NVML_CLOCK_MEM),
        memory_clock_max_mhz=get("nvmlDeviceGetMaxClockInfo", handle, lib.NVML_CLOCK_MEM),
        clock_event_reasons=nvml.event_reasons(handle),
        mig_enabled=None if mig is None else mig[0] == lib.NVML_DEVICE_MIG_ENABLE,
        mps_active=None if mps is None else any(p.pid not in family for p in mps),
        ecc_enabled=None if ecc is None else bool(ecc[0]),
        pcie_generation=get("nvmlDeviceGetCurrPcieLinkGeneration", handle),
        pcie_generation_max=get("nvmlDeviceGetMaxPcieLinkGeneration", handle),
        pcie_width=get("nvmlDeviceGetCurrPcieLinkWidth", handle),
        pcie_width_max=get("nvmlDeviceGetMaxPcieLinkWidth", handle),
        compute_mode=COMPUTE_MODES.get(get("nvmlDeviceGetComputeMode", handle)),
        persistence_mode=None if persistence is None else bool(persistence),
        virtualization=VIRTUALIZATION_MODES.get(get("nvmlDeviceGetVirtualizationMode", handle)),
        utilization_percent=None if utilization is None else int(utilization.gpu),
        processes=_others(nvml, handle, family),
        graphics_memory_mib=_graphics_memory_mib(nvml, handle, family),
        failure=nvml.take_gone(),
    )


def identity(nvml: Nvml, index: int, handle: Any) -> Gpu:
    """Which GPU this is, in the terms that torch shares."""
    bus_id = getattr(nvml.get("nvmlDeviceGetPciInfo", handle), "busId", None)
    if isinstance(bus_id, bytes):
        bus_id = bus_id.decode(errors="replace")
    return Gpu(
        index=index,
        name=nvml.get("nvmlDeviceGetName", handle),
        vendor="nvidia",
        uuid=nvml.get("nvmlDeviceGetUUID", handle),
        pci_bus_id=bus_id,
    )


def temperature(nvml: Nvml, handle: Any) -> float | None:
    """The chip's temperature, by the newer call where the older one is gone."""
    names = ("nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV")
    value = nvml.get(names, handle, nvml.library.NVML_TEMPERATURE_GPU)
    return None if value is None else float(value)


def _memory(nvml: Nvml, handle: Any) -> tuple[float | None, float | None]:
    # Version 2 leaves out what the driver reserves, version 1 counts it as used: 912 MB against 8 MB on an idle A100
    # (Cldfire/nvml-wrapper#57).
    memory = nvml.get("nvmlDeviceGetMemoryInfo", handle, getattr(nvml.library, "nvmlMemory_v2", None))
    memory = memory or nvml.get("nvmlDeviceGetMemoryInfo", handle)
    return (None, None) if memory is None else (round(memory.used / MIB, 1), round(memory.total / MIB, 1))


def _sm_count(cores: int | None, found: tuple[int, int] | None, mig: list[int] | None) -> int | None:
    if cores is None or found is None or (mig and mig[0]):  # under MIG the cores are the whole card's
        return None
    lanes = CORES_PER_SM.get((found[0], found[1]))
    return cores // lanes if lanes and cores % lanes == 0 else None


def _graphics_memory_mib(nvml: Nvml, handle: Any, family: frozenset[int]) -> float | None:
    processes = nvml.get(GRAPHICS_PROCESSES, handle)
    if processes is None:
        return None
    # A program that does both is in both lists, each time with all of its memory.
    counted = family | {p.pid for p in nvml.get(COMPUTE_PROCESSES, handle) or ()}
    return round(sum(p.usedGpuMemory or 0 for p in processes if p.pid not in counted) / MIB, 1)


def _others(nvml: Nvml, handle: Any, family: frozenset[int]) -> tuple[GpuProcess, ...] | None:
    processes = nvml.get(COMPUTE_PROCESSES, handle)
    if processes is None:
        return None
    return tuple(
        GpuProcess(
            pid=p.pid if _is_visible(p.pid) else None,
            used_memory_mib=None if p.usedGpuMemory is None else round(p.usedGpuMemory / MIB, 1),
        )
        for p in processes
        if p.pid not in family
    )


def _is_visible(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))


def _family() -> frozenset[int]:
    """This process and what the doctor runs beside it. Its parent is left out: it may be a user's own notebook."""
    import psutil

    try:
        beside = psutil.Process(os.getppid()).children(recursive=True)
    except psutil.Error:
        beside = []
    return frozenset({os.getpid(), *(p.pid for p in beside)})


def _is_alone(family: frozenset[int]) -> bool:
    """Whether no other probe runs. What the doctor starts beside probes bears no mark, and uses no GPU."""
    import psutil

    for pid in family - {os.getpid()}:
        try:
            if RUN_MARK in psutil.Process(pid).environ():
                return False
        except psutil.NoSuchProcess:
            continue
        except psutil.Error:
            return False
    return True


def twin(gpu: Gpu, devices: tuple[TorchDevice, ...]) -> TorchDevice | None:
    """The torch device that is this GPU, by UUID or else by PCI address; None if neither says so."""
    for device in devices:
        if gpu.uuid and uuid_key(gpu.uuid) == uuid_key(device.uuid):
            return device
    for device in devices:
        if gpu.pci_bus_id and pci_key(gpu.pci_bus_id) == pci_key(device.pci_bus_id):
            return device
    return None


def _with_torch(gpu: Gpu, devices: tuple[TorchDevice, ...], build: TorchBuild, count: int) -> Gpu:
    """Add what torch knows better: it counts the SMs it may use, also those of a MIG slice."""
    device = twin(gpu, devices)
    if device is None and count == len(devices) == 1 and build.accelerator == "cuda":
        device = devices[0]
    if device is None:
        return gpu
    return replace(
        gpu,
        name=gpu.name or device.name,
        compute_capability=gpu.compute_capability or device.compute_capability,
        sm_count=device.sm_count or gpu.sm_count,
        memory_total_mib=gpu.memory_total_mib or device.memory_total_mib,
    )


def _from_torch(build: TorchBuild) -> tuple[Gpu, ...]:
    return tuple(
        Gpu(
            index=device.index,
            name=device.name,
            compute_capability=(device.compute_capability or "").partition(":")[0] or None,  # "gfx942:sramecc+"
            vendor=_vendor(device, build),
            uuid=device.uuid,
            pci_bus_id=device.pci_bus_id,
            sm_count=device.sm_count,
            memory_total_mib=device.memory_total_mib,
        )
        for device in build.devices or ()
    )


def _vendor(device: TorchDevice, build: TorchBuild) -> str | None:
    if capability(device.compute_capability):
        return "nvidia"
    return VENDORS.get(build.accelerator or "")
