"""Is what the text expects more than the GPU can give, or is the GPU held back by what the text itself says?"""

from __future__ import annotations

from fp8doctor.checks.claims.facts import Claims, Figure
from fp8doctor.checks.gpu import Gpus, capability_of
from fp8doctor.checks.gpu.peaks import PEAKS, peak_of
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Unknown, observed
from fp8doctor.registry import rule

# Vendors round their figures: 989 doubled is printed as 1979.
ROUNDING = 0.01
# Boost clocks wander by a few percent without any fault.
LEAST_DROP = 0.05
_WHY = Action("See why the clocks are lowered.", "nvidia-smi -q -d PERFORMANCE")


@rule("CLM006", "spec-peak-sparse-or-power", Severity.INFO, scope="usage")
def sparse_peak(claims: Claims, gpus: Gpus | None) -> Finding | NotApplicable | Unknown | None:
    """The rate that is expected is the one with 2:1 sparsity.

    What it means: vendors print tensor-core rates for weights of which every other number is zero. Dense models reach
    half of them at most: 989 TFLOP/s in BF16 and 1979 in FP8 on an H100 SXM, not 1979 and 3958.

    Why it costs time: none; half the efficiency that is looked for does not exist.

    What to do: compare with the dense figure of exactly this board.

    Sources: the data sheets named in checks/gpu/peaks.py; deepseek-ai/FlashMLA#75, inference-sim/inference-sim#815.
    """
    if not claims.figures:
        return NotApplicable("no rate is expected in the text")
    shown = observed(gpus.gpus if gpus else None, "which GPU the figure is for")
    architectures = {capability_of(gpu) for gpu in shown}
    own = [peak for peak in map(peak_of, shown) if peak is not None]
    boards = [peak for peak in own if peak.bf16_tflops] or [p for p in PEAKS if p.compute_capability in architectures]
    for figure in claims.figures:
        dense = {peak.fp8_tflops if figure.format == "fp8" else peak.bf16_tflops for peak in boards}
        fitting = [rate for rate in dense if rate and _is_double(figure, rate)]
        if fitting and max(rate for rate in dense if rate) < (figure.tflops or 0) * 0.75:
            return Finding(
                f"{figure.tflops:g} TFLOP/s in {(figure.format or '').upper()} is the figure with sparsity",
                (Evidence(f"dense: {fitting[0]:g} TFLOP/s", fitting[0], "TFLOP/s", "claims.figures"),),
                (Action("Compare with the dense figure of exactly this board."),),
            )
    return None


def _is_double(figure: Figure, dense: float) -> bool:
    return abs((figure.tflops or 0) / (2 * dense) - 1) < ROUNDING


@rule("CLM007", "mfu-expectation", Severity.INFO, scope="usage")
def lower_mfu(claims: Claims) -> Finding | NotApplicable:
    """FP8's model FLOPs utilisation is lower, and its steps are shorter.

    What it means: MFU divides what was computed by the peak of the format. FP8's peak is twice BF16's, and the rest
    of the step (attention, norms, communication) takes the time that it took, so that the share falls while the step
    gets shorter.

    Why it costs time: none.

    What to do: compare times of a step, or TFLOP/s, not shares of two different peaks.

    Sources: arithmetic; NVIDIA/TransformerEngine#1151.
    """
    if (said := claims.on("lower-mfu")) is None:
        return NotApplicable("no sentence says so")
    return Finding(
        "A lower MFU in FP8 is no slow-down: its peak is twice BF16's",
        (Evidence(f"it says: {said}", said, fact="claims.said"),),
        (Action("Compare times of a step, not shares of two peaks."),),
    )


@rule("CLM008", "power-cap", Severity.INFO, scope="usage")
def said_to_be_capped(claims: Claims) -> Finding | NotApplicable | Unknown:
    """The text says that the GPU's power is capped below what the board is made for.

    What it means: a cap is named, and a higher power beside it.

    Why it costs time: large products reach the cap, and the clock drops until they fit it.

    What to do: restore the default limit if power and cooling allow it.

    Sources: facebookexperimental/triton#2023 (617 TFLOP/s at 500 W, 1600 to 2174 at 1400 W).
    """
    if claims.power_cap_w is None:
        return NotApplicable("no power cap is named")
    beside = observed(claims.power_beside_w, "what the board is made for")
    return Finding(
        f"The text names a power cap of {claims.power_cap_w:g} W, beside {beside:g} W",
        (Evidence(f"a cap of {claims.power_cap_w:g} W", claims.power_cap_w, "W", "claims.power_cap_w"),),
        (Action("See the enforced and the default limit.", "nvidia-smi -q -d POWER"),),
    )


@rule("CLM009", "power-throttle", Severity.INFO, scope="usage")
def said_to_throttle(claims: Claims) -> Finding | NotApplicable | None:
    """The text says that the clock fell while the GPU was timed.

    What it means: two clocks are named, the second lower, in a text that speaks of throttling; or a sentence says
    that power or heat throttled the GPU, which alone is a hint.

    Why it costs time: long loops run at the lower clock, in every format alike, and times depend on what ran before.

    What to do: pause between measurements, and read clocks and event reasons with every time.

    Sources: flashinfer-ai/flashinfer#2899 (1965 to 1580 MHz, 15 % of the rate).
    """
    before, after = claims.clock_before_mhz, claims.clock_after_mhz
    if before is None or after is None:
        if (said := claims.on("throttled")) is None:
            return NotApplicable("no clock is said to have fallen")
        hearsay = Evidence(f"it says: {said}", said, fact="claims.said")
        return Finding("The text says that the GPU was throttled", (hearsay,), (_WHY,), severity=Severity.INFO)
    if after > before * (1 - LEAST_DROP):
        return None
    return Finding(
        f"The text says that the clock fell from {before} to {after} MHz",
        (Evidence(f"{before} -> {after} MHz", after, "MHz", "claims.clock_after_mhz"),),
        (_WHY,),
    )
