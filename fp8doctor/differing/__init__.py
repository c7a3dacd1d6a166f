"""What changed between two reports, and which change explains a slow-down?"""

from fp8doctor.differing.compare import difference
from fp8doctor.differing.record import Difference

__all__ = ["Difference", "difference"]
