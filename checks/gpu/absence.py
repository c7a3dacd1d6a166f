"""Why is no GPU visible? Concluded from traces of the driver and the bus alone, and only as far as they reach."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fp8doctor.checks.gpu.facts import VISIBILITY_VARIABLES

# Values of NVIDIA_VISIBLE_DEVICES with which NVIDIA's container toolkit mounts no GPU.
HIDING_CONTAINER_VALUES = ("", "void", "none")
_NVIDIA, _AMD = "0x10de", "0x1002"
# Base class 03 is a display controller (VGA, or 3D controller for a board without outputs); AMD's newer Instincts
# are processing accelerators, class 12.
_GPU_CLASSES = ("0x03", "0x12")


@dataclass(frozen=True)
class Traces:
    """What of a GPU and its driver can be seen without asking either."""

    driver_loaded: bool = False
    device_files: tuple[str, ...] = ()
    # GPUs on the PCI bus by vendor; None if no bus can be seen.
    nvidia_on_pci: int | None = None
    amd_on_pci: int | None = None
    wsl: bool = False
    visibility: Mapping[str, str] | None = None


def look(environment: Mapping[str, str], root: Path = Path("/")) -> Traces:
    """Look for traces of GPUs and drivers under `root`."""
    vendors = _gpus_on_pci(root)
    return Traces(
        driver_loaded=(root / "proc/driver/nvidia/version").exists(),
        device_files=tuple(sorted(p.name for p in _entries(root / "dev") if re.fullmatch(r"nvidia\d+", p.name))),
        nvidia_on_pci=None if vendors is None else vendors.count(_NVIDIA),
        amd_on_pci=None if vendors is None else vendors.count(_AMD),
        wsl=is_wsl(root),
        visibility={name: environment[name] for name in VISIBILITY_VARIABLES if name in environment},
    )


def is_wsl(root: Path = Path("/")) -> bool:
    """True inside the Windows Subsystem for Linux, whose kernel names Microsoft."""
    return "microsoft" in _text(root / "proc/version").lower()


def conclude(traces: Traces, nvml_error: str | None) -> tuple[str | None, str]:
    """Say why no GPU is visible, as far as the traces settle it.

    Args:
        traces: what was seen.
        nvml_error: NVML's error by name, None if NVML answered and counted no GPU.

    Returns:
        The reason, None if it is not settled, and what was seen in words.
    """
    seen = _in_words(traces, nvml_error)
    # NVML answers only where the driver is loaded, whatever of it can be seen from here.
    loaded = traces.driver_loaded or nvml_error is None
    files, on_pci = traces.device_files, traces.nvidia_on_pci
    container = (traces.visibility or {}).get("NVIDIA_VISIBLE_DEVICES")
    if nvml_error == "LIB_RM_VERSION_MISMATCH":
        return "driver-mismatch", seen
    if nvml_error == "NO_PERMISSION":
        return "no-permission", seen
    if not files and (loaded or on_pci) and container in HIDING_CONTAINER_VALUES:
        return "hidden-by-variable", f'NVIDIA_VISIBLE_DEVICES is "{container}"; {seen}'
    if traces.wsl:
        return "wsl", seen
    if loaded and not files:
        return "no-device-files", seen
    if loaded and nvml_error == "LIBRARY_NOT_FOUND":
        return "no-driver-library", seen
    if not loaded and not files and nvml_error in ("LIBRARY_NOT_FOUND", "DRIVER_NOT_LOADED", "NOT_INSTALLED"):
        if on_pci == 0:
            return ("amd-not-shown" if traces.amd_on_pci else "no-gpu"), seen
        return "no-driver", seen
    return None, seen


def _in_words(traces: Traces, nvml_error: str | None) -> str:
    words = [
        f"NVML: {nvml_error}" if nvml_error else "NVML counts no GPU",
        "NVIDIA kernel driver loaded" if traces.driver_loaded else "no NVIDIA kernel driver loaded",
        f"device files: {', '.join(traces.device_files)}" if traces.device_files else "no /dev/nvidia0",
        "PCI bus not visible"
        if traces.nvidia_on_pci is None
        else f"GPUs on the PCI bus: {traces.nvidia_on_pci} of NVIDIA, {traces.amd_on_pci} of AMD",
    ]
    return "; ".join(words + ["inside WSL"] * traces.wsl)


def _gpus_on_pci(root: Path) -> list[str] | None:
    devices = _entries(root / "sys/bus/pci/devices")
    if not devices:
        return None
    return [_text(d / "vendor").strip() for d in devices if _text(d / "class").startswith(_GPU_CLASSES)]


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
