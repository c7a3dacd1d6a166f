"""All faults of the ward, room by room."""

from __future__ import annotations

from tests.ward import packages
from tests.ward.fault import Fault

FAULTS: tuple[Fault, ...] = (*packages.faults(),)
