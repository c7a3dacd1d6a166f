"""What does NVML say of one GPU? What is not supported, lost meanwhile, or cannot be true stays None."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fp8doctor.checks.gpu.facts import Gpu, GpuProcess
from fp8doctor.checks.gpu.nvml import (
    CLOCK_GRAPHICS,
    CLOCK_MEMORY,
    CLOCK_SM,
    ENABLED,
    TEMPERATURE_GPU,
    Nvml,
    milliwatts,
    plausible,
)

MIB = 1 << 20
# FP32 lanes of one SM, which turn NVML's core count into SMs (`_ConvertSMVer2Cores` of NVIDIA's CUDA samples).
CORES_PER_SM = {
    **dict.fromkeys([(6, 0), (7, 0), (7, 5), (8, 0)], 64),
    **dict.fromkeys([(6, 1), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (11, 0), (12, 0), (12, 1)], 128),
}
COMPUTE_MODES = {0: "default", 1: "exclusive-thread", 2: "prohibited", 3: "exclusive-process"}
COMPUTE_PROCESSES = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetComputeRunningProcesses_v2")
GRAPHICS_PROCESSES = ("nvmlDeviceGetGraphicsRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses_v2")
VIRTUALIZATION_MODES = {0: "none", 1: "passthrough", 2: "vgpu", 3: "host-vgpu", 4: "host-vsga"}
# Beyond these no board, link or process can be; they are wide, as they only tell figures from all bits set.
MOST_MIB = 1 << 24
MOST_W = 20_000
MOST_MHZ = 100_000
MOST_C = 200
MOST_MAJOR = 99
MOST_PCIE_GENERATION, MOST_PCIE_LANES = 16, 64
MOST_NVLINKS = 18  # NVML_NVLINK_MAX_LINKS
MOST_PID = 1 << 22  # PID_MAX_LIMIT of the Linux kernel


def identify(nvml: Nvml, gpu: Gpu, family: frozenset[int]) -> Gpu:
    """Say which GPU this is and what it can; this comes first, so that a GPU that is lost later keeps its name."""
    nvml.take_gone()
    handle = nvml.get("nvmlDeviceGetHandleByIndex", gpu.index)
    if handle is None:
        return replace(gpu, failure=nvml.last_error)
    gpu = identity(nvml, gpu.index or 0, handle)
    found = nvml.get("nvmlDeviceGetCudaComputeCapability", handle)
    if found is not None and plausible(found[0], MOST_MAJOR) is None:
        found = None
    mig = nvml.get("nvmlDeviceGetMigMode", handle)
    used, total = _memory(nvml, handle)
    return replace(
        gpu,
        compute_capability=None if found is None else f"{found[0]}.{found[1]}",
        sm_count=_sm_count(nvml.get("nvmlDeviceGetNumGpuCores", handle), found, mig),
        memory_total_mib=total,
        memory_used_mib=used,
        mig_enabled=None if mig is None else mig[0] == ENABLED,
        failure=nvml.take_gone(),
    )


def look_at_state(nvml: Nvml, gpu: Gpu, family: frozenset[int]) -> Gpu:
    """Add how this GPU is set, what its sensors say and who uses it."""
    handle = nvml.get("nvmlDeviceGetHandleByIndex", gpu.index)
    if handle is None:
        return replace(gpu, failure=nvml.take_gone() or nvml.last_error)
    get = nvml.get
    ecc = get("nvmlDeviceGetEccMode", handle)
    persistence = get("nvmlDeviceGetPersistenceMode", handle)
    mps = get("nvmlDeviceGetMPSComputeRunningProcesses", handle)
    utilization = get("nvmlDeviceGetUtilizationRates", handle)
    return replace(
        gpu,
        power_limit_w=_watts(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle) or None,
        power_limit_default_w=_watts(nvml, "nvmlDeviceGetPowerManagementDefaultLimit", handle) or None,
        power_w=_watts(nvml, "nvmlDeviceGetPowerUsage", handle),
        temperature_c=temperature(nvml, handle),
        sm_clock_mhz=_mhz(nvml, "nvmlDeviceGetClockInfo", handle, CLOCK_SM),
        sm_clock_max_mhz=_mhz(nvml, "nvmlDeviceGetMaxClockInfo", handle, CLOCK_SM),
        application_clock_mhz=_mhz(nvml, "nvmlDeviceGetApplicationsClock", handle, CLOCK_GRAPHICS),
        application_clock_default_mhz=_mhz(nvml, "nvmlDeviceGetDefaultApplicationsClock", handle, CLOCK_GRAPHICS),
        memory_clock_mhz=_mhz(nvml, "nvmlDeviceGetClockInfo", handle, CLOCK_MEMORY),
        memory_clock_max_mhz=_mhz(nvml, "nvmlDeviceGetMaxClockInfo", handle, CLOCK_MEMORY),
        clock_event_reasons=nvml.event_reasons(handle),
        mps_active=None if mps is None else any(p.pid not in family for p in mps),
        ecc_enabled=None if ecc is None else ecc[0] == ENABLED,
        pcie_generation=plausible(get("nvmlDeviceGetCurrPcieLinkGeneration", handle), MOST_PCIE_GENERATION),
        pcie_generation_max=plausible(get("nvmlDeviceGetMaxPcieLinkGeneration", handle), MOST_PCIE_GENERATION),
        pcie_width=plausible(get("nvmlDeviceGetCurrPcieLinkWidth", handle), MOST_PCIE_LANES),
        pcie_width_max=plausible(get("nvmlDeviceGetMaxPcieLinkWidth", handle), MOST_PCIE_LANES),
        nvlinks_active=_nvlinks(nvml, handle),
        compute_mode=COMPUTE_MODES.get(get("nvmlDeviceGetComputeMode", handle)),
        persistence_mode=None if persistence is None else persistence == ENABLED,
        virtualization=VIRTUALIZATION_MODES.get(get("nvmlDeviceGetVirtualizationMode", handle)),
        utilization_percent=None if utilization is None else plausible(int(utilization.gpu), 100),
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
        name=_printable(nvml.get("nvmlDeviceGetName", handle)),
        vendor="nvidia",
        uuid=nvml.get("nvmlDeviceGetUUID", handle),
        pci_bus_id=bus_id,
    )


def _printable(name: str | None) -> str | None:
    return "".join(character for character in name if character.isprintable()) if name else None


def temperature(nvml: Nvml, handle: Any) -> float | None:
    """The chip's temperature, by the newer call where the older one is gone."""
    names = ("nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV")
    value = plausible(nvml.get(names, handle, TEMPERATURE_GPU), MOST_C)
    return None if value is None else float(value)


def _nvlinks(nvml: Nvml, handle: Any) -> int | None:
    states: list[int] = []
    for link in range(MOST_NVLINKS):
        state = nvml.get("nvmlDeviceGetNvLinkState", handle, link)
        if state is None:  # this GPU has no more of them
            break
        states.append(state)
    return sum(state == ENABLED for state in states) if states else None


def _watts(nvml: Nvml, name: str, handle: Any) -> float | None:
    return milliwatts(plausible(nvml.get(name, handle), MOST_W * 1000))


def _mhz(nvml: Nvml, name: str, handle: Any, which: int) -> int | None:
    return plausible(nvml.get(name, handle, which), MOST_MHZ)


def _memory(nvml: Nvml, handle: Any) -> tuple[float | None, float | None]:
    # Version 2 leaves out what the driver reserves, version 1 counts it as used: 912 MB against 8 MB on an idle A100
    # (Cldfire/nvml-wrapper#57). Where the memory is the system's (GB10) neither is supported, or the total is zero.
    memory = nvml.get("nvmlDeviceGetMemoryInfo", handle, getattr(nvml.library, "nvmlMemory_v2", None))
    memory = memory or nvml.get("nvmlDeviceGetMemoryInfo", handle)
    total = None if memory is None else _mib(memory.total)
    used = None if memory is None else _mib(memory.used)
    return (used, total) if total and used is not None and used <= total else (None, total or None)


def _mib(size_bytes: int | None) -> float | None:
    size = plausible(size_bytes, MOST_MIB * MIB)
    return None if size is None else round(size / MIB, 1)


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
    return round(sum(_mib(p.usedGpuMemory) or 0 for p in processes if p.pid not in counted), 1)


def _others(nvml: Nvml, handle: Any, family: frozenset[int]) -> tuple[GpuProcess, ...] | None:
    processes = nvml.get(COMPUTE_PROCESSES, handle)
    if processes is None:
        return None
    return tuple(
        GpuProcess(
            pid=p.pid if _is_visible(p.pid) else None,
            used_memory_mib=_mib(p.usedGpuMemory),
        )
        for p in processes
        if p.pid not in family
    )


def _is_visible(pid: int) -> bool:
    import psutil

    return plausible(pid, MOST_PID) is not None and bool(psutil.pid_exists(pid))
