"""Which GPUs are meant, and do they multiply FP8? Shared by the rules of this subject."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fp8doctor.checks.gpu.facts import FIRST_FP8, Gpus, capability
from fp8doctor.checks.gpu.names import capability_of
from fp8doctor.checks.gpu.rules import AMD_FP8, AMD_WITHOUT_FP8
from fp8doctor.checks.torch_build.facts import TorchBuild


@dataclass(frozen=True)
class SeenGpu:
    """A GPU as the rules speak of it."""

    index: int | None
    name: str
    capability: str | None

    @property
    def about(self) -> str | None:
        """The finding's `about`."""
        return None if self.index is None else f"gpu:{self.index}"

    @property
    def has_fp8(self) -> bool | None:
        """Whether it multiplies FP8; None if its architecture is not known."""
        return multiplies_fp8(self.capability)


def multiplies_fp8(architecture: str | None) -> bool | None:
    """Whether an architecture ("9.0", "gfx942") multiplies FP8: NVIDIA's from 8.9 up; None if it is not known."""
    if not architecture:
        return None
    if (found := capability(architecture)) is not None:
        return found >= FIRST_FP8
    if AMD_WITHOUT_FP8.match(architecture):
        return False
    return True if architecture in AMD_FP8 else None


def seen_gpus(build: TorchBuild | None, gpus: Gpus | None) -> tuple[SeenGpu, ...] | None:
    """The GPUs of the box: as their management library tells, else as torch does; None if nobody looked."""
    if gpus is not None and gpus.gpus:
        return tuple(SeenGpu(g.index, g.name or "GPU", capability_of(g)) for g in gpus.gpus)
    if build is not None and build.devices:
        return tuple(SeenGpu(d.index, d.name or "GPU", d.compute_capability) for d in build.devices)
    return () if gpus is not None and gpus.gpus is not None else None


def release(text: str | None) -> tuple[int, int] | None:
    """The first two numbers of a version ("2.11.0+cu130", "12.4"); None if there are none."""
    found = re.match(r"(\d+)\.(\d+)", text or "")
    return (int(found[1]), int(found[2])) if found else None
