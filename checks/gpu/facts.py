"""What was seen of each GPU."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Caption, Facts

# Compute capability 8.9 (Ada) is the first with FP8 tensor cores; everything after it has them.
FIRST_FP8 = (8, 9)
VISIBILITY_VARIABLES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


@dataclass(frozen=True)
class GpuProcess:
    """Another process that holds memory on a GPU; its name is not kept."""

    # None for a process that cannot be seen from here (it lives in another container).
    pid: int | None = None
    used_memory_mib: float | None = None


@dataclass(frozen=True)
class Gpu:
    """One GPU as its management library (or torch) reports it. None = not observed, or not supported here."""

    index: int | None = None
    name: str | None = None
    # "9.0" for NVIDIA, "gfx942" for AMD. Compare with `capability()`, never as text.
    compute_capability: str | None = None
    vendor: str | None = None  # "nvidia" | "amd" | "intel"
    uuid: str | None = None
    pci_bus_id: str | None = None
    sm_count: int | None = None
    memory_total_mib: float | None = None
    memory_used_mib: float | None = None
    power_limit_w: float | None = None
    power_limit_default_w: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    sm_clock_mhz: int | None = None
    sm_clock_max_mhz: int | None = None
    # The applications clock of the SMs as it is set, and the one it is reset to.
    application_clock_mhz: int | None = None
    application_clock_default_mhz: int | None = None
    memory_clock_mhz: int | None = None
    memory_clock_max_mhz: int | None = None
    # Names of the clock event (throttle) reasons set at this moment.
    clock_event_reasons: tuple[str, ...] | None = None
    mig_enabled: bool | None = None
    mps_active: bool | None = None
    ecc_enabled: bool | None = None
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    # NVLink links that are up; None where there are none.
    nvlinks_active: int | None = None
    compute_mode: str | None = None
    persistence_mode: bool | None = None
    virtualization: str | None = None
    utilization_percent: int | None = None
    # Compute processes other than the doctor's own; an empty tuple was observed to be none.
    processes: tuple[GpuProcess, ...] | None = None
    # What graphics processes (desktop, browser) hold that are no compute processes as well.
    graphics_memory_mib: float | None = None
    # What the management library said when this GPU gave no answer ("GPU_IS_LOST: ...", "NO_PERMISSION: ...").
    failure: str | None = None


@dataclass(frozen=True)
class Gpus(Facts, key="gpus"):
    """All GPUs of the box. `gpus` is empty if it was seen that there is none, None if nobody could look."""

    gpus: tuple[Gpu, ...] | None = None
    # "nvml", "torch", or how the list came about.
    source: str | None = None
    # Why no GPU is visible: "no-driver", "no-device-files", "hidden-by-variable", "driver-mismatch", ... or None.
    why_none: str | None = None
    why_none_detail: str | None = None
    # The variables that choose which GPUs are visible, as far as they were set (see `VISIBILITY_VARIABLES`).
    visibility: dict[str, str] | None = None
    # True if no other process of the doctor ran while the sensors were read, so that the GPUs should have been idle.
    doctor_idle: bool | None = None
    # The step that was under way when this record was written, None once all are done.
    attempting: int | None = None

    def caption(self) -> Caption | None:
        """The GPUs by name and architecture, counted where they are alike."""
        if not self.gpus:
            return Caption(10, "no GPU visible") if self.gpus is not None else None
        kinds: dict[str, int] = {}
        for gpu in self.gpus:
            words = " · ".join(filter(None, (gpu.name, architecture(gpu.compute_capability))))
            kinds[words] = kinds.get(words, 0) + 1
        return Caption(10, ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items()))


def capability(text: str | None) -> tuple[int, int] | None:
    """The NVIDIA compute capability as (major, minor), None for anything else ("gfx942")."""
    major, _, minor = (text or "").partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def architecture(text: str | None) -> str | None:
    """ "sm_90" for "9.0"; AMD's gfx names as they are."""
    found = capability(text)
    return f"sm_{found[0]}{found[1]}" if found else text
