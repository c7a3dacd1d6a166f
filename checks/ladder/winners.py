"""Which rung won, and which combinations are worth a try after all single ones?"""

from __future__ import annotations

from fp8doctor.checks.ladder.conversions import LORA, PACKAGES, SDPA
from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.ladder.naming import number_format
from fp8doctor.checks.ladder.slugs import BASELINE, config_of
from fp8doctor.measuring.statistics import differs, speedup

# A factor that two runs on one box do not agree on is no gain (benchmarks/RESULTS.md).
LEAST_GAIN = 1.03
# A host that asks for nearly the whole step, and a graph that is faster by this much, show a step held by the host. The
# share alone does not: of a step of thousands of launches the host waits for the device, since about a thousand fit
# into a stream. On an H200 a FLUX step of Transformer Engine gained 3 % so, steps that the host did hold 28 % or more.
ASKING_SHARE = 0.9
GRAPH_GAIN = 1.05
# As judging has it: of configurations within this factor of the best, the one that was listed first is advised.
AS_GOOD_AS_BEST = 1.05
# What changes the task, not its speed alone, or forces what is slower: shown, and never the configuration to use.
NOT_ADVISED = ("lora", "attention-math")
SIXTEEN_BIT = ("bf16", "fp16")
_FORCED = {f"{BASELINE}+{attention}" for attention in (*SDPA, *PACKAGES)}


def ok(ladder: Ladder, step: str) -> list[Rung]:
    """The rungs of a step that ran, were right and computed every step, in the order of measuring."""
    return [
        rung
        for rung in ladder.rungs or ()
        if rung.step == step and rung.outcome == "ok" and rung.step_ms and rung.skipping is None
    ]


def competing(ladder: Ladder, step: str) -> list[Rung]:
    """Those of them that were measured in the true depth and run the model as it is: a LoRA makes another one of it."""
    found = [rung for rung in ok(ladder, step) if not carried_over(rung)]
    return [rung for rung in found if not any(m in LORA for m in config_of(rung.config or "").modifiers)]


def carried_over(rung: Rung) -> bool:
    """Whether its time was carried over from a few blocks compiled as one: an estimate, which competes with none."""
    return rung.blocks_built is not None and config_of(rung.config or "").compiled == "compile-whole"


def fastest(ladder: Ladder, step: str) -> Rung | None:
    """The fastest of these; None if none ran."""
    return min(competing(ladder, step), key=_median, default=None)


def sixteen_bit(ladder: Ladder, step: str) -> list[Rung]:
    """What FP8 is compared with: BF16 and FP16, as they are, compiled and captured."""
    return [rung for rung in competing(ladder, step) if number_format(rung.config or "") in SIXTEEN_BIT]


def advised(ladder: Ladder, step: str) -> Rung | None:
    """What is advised of what ran: the simplest of those that are about as fast as the best; None if none ran.

    The best is one that gains over every 16-bit one, else one of these.
    """
    able = [r for r in competing(ladder, step) if not any(part in (r.config or "") for part in NOT_ADVISED)]
    twins = [rung for rung in able if number_format(rung.config or "") in SIXTEEN_BIT]
    winners = [rung for rung in able if rung not in twins and all(gains(twin, rung) for twin in twins)]
    pool = winners or twins
    best = min(map(_median, pool), default=0.0)
    return next((rung for rung in pool if _median(rung) <= AS_GOOD_AS_BEST * best), None)


def forced_attentions(ladder: Ladder, step: str) -> list[Rung]:
    """BF16 with nothing but an attention that was forced."""
    return [rung for rung in ok(ladder, step) if rung.config in _FORCED]


def baseline(ladder: Ladder, step: str) -> Rung | None:
    """BF16 as it is."""
    return next((rung for rung in ok(ladder, step) if rung.config == BASELINE), None)


def gains(slow: Rung, fast: Rung) -> bool:
    """Whether `fast` is faster beyond the noise."""
    if slow.step_ms is None or fast.step_ms is None:
        return False
    ratio = speedup(slow.step_ms, fast.step_ms)
    return differs(ratio) and ratio.median >= LEAST_GAIN


def waits_for_host(rung: Rung) -> bool:
    """Whether the host needs nearly as long to ask for a step as the step takes: the GPU waits for it."""
    if rung.host_ms is None or rung.step_ms is None:
        return False
    return rung.host_ms.median >= ASKING_SHARE * rung.step_ms.median


def combinations(ladder: Ladder, step: str) -> list[str]:
    """The fastest configuration with each other thing that gained by itself: attention, CUDA graph."""
    best, bf16 = fastest(ladder, step), baseline(ladder, step)
    if best is None or bf16 is None or best.config is None:
        return []
    config = config_of(best.config)
    found: list[str] = []
    attention = [rung for rung in forced_attentions(ladder, step) if gains(bf16, rung)]
    if attention and not any(m.startswith("attention-") for m in config.modifiers):
        modifier = (min(attention, key=_median).config or "").rpartition("+")[2]
        found.append(f"{config.base}+{modifier}{''.join(f'+{m}' for m in config.modifiers)}")
    if not config.graphed:
        found.append(f"{best.config}+cudagraph")
    return found


def _median(rung: Rung) -> float:
    return rung.step_ms.median if rung.step_ms else float("inf")
