"""A stub libnvidia-ml.so.1 that plays GPUs as a script says, for nvidia-ml-py to load."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("stub_nvml.c")

# A script: an idle H200. A test changes what it is about.
H200: dict[str, object] = {
    "driver": "580.159.04",
    "cuda": 13000,
    "count": 1,
    "name": "NVIDIA H200",
    "uuid": "GPU-11111111-2222-3333-4444-555555555555",
    "pci": "00000000:65:00.0",
    "cc": "9.0",
    "cores": 16896,
    "memory": 143771 << 20,
    "memory_used": 4 << 20,
    "memory_used_v1": 600 << 20,
    "power_limit": 700000,
    "power_default": 700000,
    "power": 76120,
    "temperature": 31,
    "sm_clock": 345,
    "sm_clock_max": 1980,
    "application_clock": 1980,
    "application_clock_default": 1980,
    "memory_clock": 3201,
    "memory_clock_max": 3201,
    "reasons": 1,
    "mig": 0,
    "ecc": 1,
    "pcie_generation": 5,
    "pcie_generation_max": 5,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "compute_mode": 0,
    "persistence": 1,
    "virtualization": 0,
    "utilization": 0,
    "processes": "",
    "graphics": "",
    "mps": "",
}


def compiler() -> str | None:
    """The C compiler that builds the stub, None if there is none."""
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path, *, old_driver: bool = False, version: str | None = None) -> Path:
    """Build the stub into `folder`, a folder for LD_LIBRARY_PATH.

    Args:
        folder: where the library goes.
        old_driver: leave out the calls that older drivers know by another name.
        version: give the file a driver's version in its name, as the real library has.
    """
    target = folder / f"libnvidia-ml.so.{version or 1}"
    options = ["-DOLD_DRIVER"] if old_driver else []
    cc = compiler()
    assert cc is not None
    subprocess.run([cc, "-shared", "-fPIC", "-o", str(target), *options, str(SOURCE)], check=True)
    if version:
        (folder / "libnvidia-ml.so.1").symlink_to(target.name)
    return folder


def environment(folder: Path, script: dict[str, object]) -> dict[str, str]:
    """The environment in which a child finds the stub and plays `script`."""
    others = {name: value for name, value in os.environ.items() if not name.endswith("_VISIBLE_DEVICES")}
    played = ";".join(f"{key}={value}" for key, value in script.items())
    return {**others, "LD_LIBRARY_PATH": str(folder), "STUB_NVML": played}
