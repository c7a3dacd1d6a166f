"""What of a workload's steps is compared between two reports, and when are they the same steps?"""

from __future__ import annotations

from dataclasses import replace

from fp8doctor.checks.ladder.advice import candidate
from fp8doctor.checks.ladder.facts import Ladder
from fp8doctor.checks.ladder.winners import carried_over, ok, waits_for_host
from fp8doctor.model import Candidate, Trait
from fp8doctor.registry import timings, traits


@traits
def of_steps(ladder: Ladder) -> list[Trait]:
    """What makes two steps of one name different work: their tokens, the model's class, the depth that was built."""
    steps = tuple(f"{ladder.workload} {step}" for step in ladder.tokens or {})
    work = f"of {ladder.workload}"
    depth = None if ladder.full is None else "the true depth" if ladder.full else "some blocks, visited in turn"
    return [
        Trait("method", f"model {work}", ladder.model_class, None, "ladder.model_class", affects=steps),
        Trait("method", f"blocks built {work}", depth, None, "ladder.full", affects=steps),
        *(
            Trait("method", f"tokens of {ladder.workload} {step}", count, None, f"ladder.tokens.{step}",
                  affects=(f"{ladder.workload} {step}",))
            for step, count in (ladder.tokens or {}).items()
        ),
    ]  # fmt: skip


@timings
def every_rung(ladder: Ladder) -> list[Candidate]:
    """Every rung that ran and was right, also those that are never advised; what waits for the host says so."""
    return [
        replace(candidate(ladder, rung), waits_for_host=waits_for_host(rung))
        for step in ladder.tokens or {}
        for rung in ok(ladder, step)
        if not carried_over(rung)
    ]
