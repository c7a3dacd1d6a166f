"""What may have bent the times of a run, and how many of them were put aside for it?

Only the standard library is imported here: this module also runs inside the examined environment.
"""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Facts


@dataclass(frozen=True)
class Disturbance:
    """Something that made times unreliable, in seconds since the run began; the ends count as disturbed."""

    first_s: float
    last_s: float


@dataclass(frozen=True)
class Reliance(Facts, key="reliance"):
    """How many of the timed cases the rules build on. The engine's own, made anew whenever facts are judged."""

    timed: int | None = None
    # Put aside since something disturbed the GPU meanwhile, and since their samples scatter too much.
    disturbed: int | None = None
    scattered: int | None = None

    @property
    def put_aside(self) -> int:
        """The number of cases whose times no rule sees."""
        return (self.disturbed or 0) + (self.scattered or 0)
