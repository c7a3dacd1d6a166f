"""How were the times of training a layer taken?"""

from __future__ import annotations

from fp8doctor.checks.training.advice import TASK
from fp8doctor.checks.training.facts import Training
from fp8doctor.measuring.comparing import method_trait
from fp8doctor.model import Trait
from fp8doctor.registry import traits


@traits
def how_timed(training: Training) -> list[Trait]:
    """The method."""
    return method_trait("training a layer", training.method, "training.method", (TASK,))
