"""The ladder: what does one step of a whole model take in each configuration that a person could choose?"""

from fp8doctor.checks.ladder.facts import Ladder, Rung

__all__ = ["Ladder", "Rung"]
