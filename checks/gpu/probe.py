"""Which GPUs are there, in which state? NVML is asked first; what it does not show (AMD) torch may."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile

from fp8doctor.checks.gpu import absence
from fp8doctor.checks.gpu.facts import Gpu, Gpus, capability
from fp8doctor.checks.gpu.nvml import CRASHED, NOT_INSTALLED, Nvml, NvmlUnavailableError, pci_key, uuid_key
from fp8doctor.checks.gpu.one_gpu import identify, look_at_state
from fp8doctor.checks.torch_build.facts import TorchBuild, TorchDevice
from fp8doctor.model import ProbeRun, Request
from fp8doctor.plain import from_plain
from fp8doctor.registry import probe
from fp8doctor.variables import RUN_MARK

VENDORS = {"cuda": "nvidia", "hip": "amd", "xpu": "intel"}
# More than any machine has: a count beyond it is not believed.
MOST_GPUS = 64
# NVML is asked in two rounds, so that which GPUs there are is known whatever the second one meets.
ROUNDS = (identify, look_at_state)


@probe(runs_in="tool", timeout_s=30)
def gather(request: Request, torch_build: ProbeRun[TorchBuild]) -> Iterator[Gpus]:
    """Looking for GPUs."""
    traces = absence.look(os.environ)
    # How an earlier child ended inside NVML; what it had read by then is in its record.
    crash = f"{CRASHED}: {request.so_far_ended}" if request.so_far_ended else None
    found = Gpus(visibility=dict(traces.visibility or {}))
    if crash and request.so_far:
        found = from_plain(Gpus, request.so_far)
    else:
        yield found
    error = None
    try:
        if crash and found.gpus is None:
            raise NvmlUnavailableError(CRASHED, crash)
        for record in _asked(Nvml(request.seconds_left / 2), found, crash):
            yield (found := record)
    except NvmlUnavailableError as unavailable:
        error = unavailable.name
    yield _completed(found, torch_build, traces, error)


def _asked(nvml: Nvml, found: Gpus, crash: str | None) -> Iterator[Gpus]:
    """Ask NVML about one GPU after the other, from where an earlier child ended; the record grows with each answer."""
    family = _family()
    first = found.attempting if found.gpus is not None else 0
    if found.gpus is None:
        gpus = tuple(Gpu(index=i, vendor="nvidia") for i in range(_count(nvml)))
        found = replace(found, gpus=gpus, source="nvml", doctor_idle=_is_alone(family))
    gpus = found.gpus or ()
    steps = [(ask, i) for ask in ROUNDS for i in range(len(gpus))]
    for number, (ask, i) in enumerate(steps):
        if first is None or number < first or gpus[i].failure:
            continue
        if number == first and crash:
            gpu = replace(gpus[i], failure=crash)
        else:
            yield replace(found, gpus=gpus, attempting=number)
            gpu = ask(nvml, gpus[i], family)
        gpus = (*gpus[:i], gpu, *gpus[i + 1 :])
    yield replace(found, gpus=gpus, attempting=None)


def _count(nvml: Nvml) -> int:
    """How many GPUs to ask: what NVML counts or, if no machine has as many, those that it has a handle for."""
    told = nvml.get("nvmlDeviceGetCount")
    if told is None:
        name, _, text = (nvml.last_error or "").partition(": ")
        raise NvmlUnavailableError(name, text)
    if 0 <= told <= MOST_GPUS:
        return int(told)
    handles = (nvml.get("nvmlDeviceGetHandleByIndex", i) for i in range(MOST_GPUS))
    return sum(1 for _ in takewhile(lambda handle: handle is not None, handles))


def _completed(found: Gpus, torch_build: ProbeRun[TorchBuild], traces: absence.Traces, error: str | None) -> Gpus:
    """Add what torch knows, and where there is no GPU, why."""
    build = torch_build.facts or TorchBuild()
    asked = found.gpus or ()
    gpus = tuple(_with_torch(gpu, build.devices or (), build, len(asked)) for gpu in asked)
    shown_by_torch = () if gpus and build.accelerator == "cuda" else _from_torch(build)
    source = " and ".join(["nvml"] * bool(gpus) + ["torch"] * bool(shown_by_torch)) or None
    if gpus or shown_by_torch:
        return replace(found, gpus=gpus + shown_by_torch, source=source)
    why, detail = absence.conclude(traces, error)
    nobody_looked = error == NOT_INSTALLED and why is None and torch_build.facts is None
    return replace(found, gpus=None if nobody_looked else (), source=None, why_none=why, why_none_detail=detail)


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
