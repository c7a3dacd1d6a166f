"""Does FP8, which wins on one GPU, still win on several?"""

from __future__ import annotations

from fp8doctor.checks.parallel.cases import Gain, Measured, gain_line, unmeasured, where
from fp8doctor.checks.parallel.facts import Parallel
from fp8doctor.checks.parallel.plan import DATA, SHARDED, TENSOR
from fp8doctor.measuring.statistics import differs
from fp8doctor.model import Action, Finding, Severity, Verdict, observed
from fp8doctor.registry import rule

# Two runs of a step on one box agree within 3 % (benchmarks/RESULTS.md).
LEAST = 0.05


@rule("PAR006", "fp8-slower-across-gpus", Severity.INFO, scope="usage")
def loses(parallel: Parallel) -> list[Verdict] | Verdict:
    """FP8 gains on one GPU, and takes longer than BF16 when the same model is spread over several.

    What it means: the same step was timed in BF16 and FP8 on one GPU and on several. There the FP8 step is the slower
    one, beyond the noise. Step times hold the host's part as well, and this rule does not see the cause: products that
    became too small, what is exchanged, or a host that is late with its launches.

    Why it costs time: the step is slower than it would be without FP8.

    What to do: record a step and read it with `fp8doctor trace`: it tells waiting for the host from communication.
    Until that is mended BF16 is the faster one there.

    Sources: measured here; benchmarks/RESULTS.md (four H200s: tensor parallel 0.65x, data parallel 1.24x).
    """
    if (missing := unmeasured(parallel)) is not None:
        return missing
    measured = Measured(parallel)
    alone = observed(measured.single(), "FP8's gain on one GPU")
    spread = [gain for how in (DATA, SHARDED, TENSOR) if (gain := measured.largest(how)) is not None]
    observed(spread or None, "steps in BF16 and FP8 on several GPUs")
    return [_loses(alone, gain) for gain in spread]


def _loses(alone: Gain, gain: Gain) -> Verdict:
    slower = differs(gain.factor) and gain.factor.median < 1 - LEAST
    if not slower or alone.factor.median <= 1:
        return None
    there, here = gain.factor.median, alone.factor.median
    return Finding(
        title=f"FP8 runs at {there:.2f}x BF16's speed in {where(gain)}, and at {here:.2f}x on one GPU",
        evidence=(gain_line(alone), gain_line(gain)),
        actions=(Action("Record a step of it, and see what the GPU waits for.", "fp8doctor trace TRACE.json"),),
    )
