"""All faults of the ward, room by room."""

from __future__ import annotations

from tests.ward import compilers, gpus, machines, packages, torch_builds
from tests.ward.fault import Fault

FAULTS: tuple[Fault, ...] = (
    *packages.faults(),
    *torch_builds.faults(),
    *compilers.faults(),
    *machines.faults(),
    *gpus.faults(),
)
