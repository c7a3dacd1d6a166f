"""What of a recorded step is compared between two traces: its time on the GPU, and where that time went?"""

from __future__ import annotations

from fp8doctor.model import Candidate, Estimate, Trait
from fp8doctor.registry import timings, traits
from fp8doctor.traced import KIND_WORDS, KINDS, Trace

TASK = "recorded-step"
# A share of the step's time is another share when it differs by more than this: one recording each has no interval.
POINTS = 10.0
# What a step is there for; more of anything else makes it longer.
_WORK = ("-gemm", "attention", "convolution")
_WHY = "a step takes longer by what is no product and no attention"


@timings
def recorded(trace: Trace) -> list[Candidate]:
    """The step's time on the GPU, where the steps were marked: without them two recordings may be of any length."""
    if not trace.span_us or not trace.steps:
        return []
    us = round(trace.span_us / trace.steps, 3)
    time = Estimate(us, us, us, n=1)
    return [Candidate(TASK, TASK, "one step on the GPU", "any", "", device_us=time)]


@traits
def of_trace(trace: Trace) -> list[Trait]:
    """The GPU that was recorded, and the share of each kind of activity."""
    if not trace.span_us or trace.us_by_kind is None:
        return []
    shares = {kind: trace.share(kind, trace.us_by_kind.get(kind, 0.0)) for kind in KINDS}
    if trace.idle_us is not None:
        shares["idle"] = trace.idle_us / trace.span_us
    name = trace.device_names[0] if trace.device_names else None
    gpu = Trait("hardware", "GPU", name, fact="trace.device_names[0]", is_identity=True)
    return [gpu, *(_share(kind, share) for kind, share in shares.items())]


def _share(kind: str, share: float) -> Trait:
    is_work = kind.endswith(_WORK)
    return Trait(
        "condition",
        f"share of the step: {KIND_WORDS.get(kind, kind)}",
        round(100 * share),
        "%",
        "trace.idle_us" if kind == "idle" else f"trace.us_by_kind.{kind}",
        points=POINTS,
        why=None if is_work else _WHY,
        affects=(TASK,),
        more_is=None if is_work else "slower",
    )
