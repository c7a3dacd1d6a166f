"""How were attention's times taken?"""

from __future__ import annotations

from fp8doctor.checks.attention_times.advice import TASK, candidate
from fp8doctor.checks.attention_times.facts import AttentionTimes
from fp8doctor.checks.attention_times.lookup import timed_of
from fp8doctor.measuring.comparing import method_trait
from fp8doctor.model import Candidate, Trait
from fp8doctor.registry import timings, traits


@traits
def how_timed(times: AttentionTimes) -> list[Trait]:
    """The method."""
    return method_trait("attention", times.method, "attention_times.method", (TASK,))


@timings
def every_route(times: AttentionTimes) -> list[Candidate]:
    """Every right route at every call, also where there is nothing to choose."""
    record = timed_of(times)
    return [candidate(case) for task in record.tasks.values() for case in record.reliable(task).values()]
