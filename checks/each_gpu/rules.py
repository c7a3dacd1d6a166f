"""Is one GPU of this box slower, wrong, or lost, and do they slow one another down?"""

from __future__ import annotations

import math
from collections.abc import Callable

from fp8doctor.checks.each_gpu.facts import EachGpu, OneGpu, Rates
from fp8doctor.measuring.odd_ones import LEAST_OF_FEW, odd_ones
from fp8doctor.measuring.statistics import quantile
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, RuleResult, Severity, Unknown, Verdict
from fp8doctor.registry import rule

# Half of what the other pairs of the box reach is another kind of link.
SLOW_LINK = 0.5
# What two runs on one GPU differ by (benchmarks/RESULTS.md).
NOISE = 0.03
_ASKED = "index,clocks_event_reasons.active,clocks.sm,power.draw,temperature.gpu"
SEE_CLOCKS = f"nvidia-smi --query-gpu={_ASKED} --format=csv"


def _gpus(each_gpu: EachGpu) -> tuple[OneGpu, ...] | NotApplicable | Unknown:
    if each_gpu.measurable is False:
        return NotApplicable(each_gpu.why_not or "there are not two GPUs")
    return each_gpu.gpus or Unknown("no GPU was measured")


def speed(rates: Rates | None) -> float | None:
    """One number: the geometric mean of the rates in BF16 and FP8, or that in BF16 where FP8 was not asked for."""
    if rates is None or not rates.bf16_tflops:
        return None
    if rates.fp8_error is None and rates.fp8_tflops is None:  # no FP8 in this GPU
        return rates.bf16_tflops
    return math.sqrt(rates.bf16_tflops * rates.fp8_tflops) if rates.fp8_tflops else None


def _rate(rates: Rates | None) -> str:
    found = speed(rates)
    return "not measured" if found is None else f"{found:,.0f} TFLOP/s"


_MEASURES: tuple[tuple[str, str, Callable[[Rates | None], float | None]], ...] = (
    ("matrix products", "TFLOP/s", speed),
    ("copies in its memory", "GB/s", lambda rates: rates.copy_gb_s if rates else None),
)


@rule("EGP001", "gpu-slower-than-its-kind", Severity.WARNING, scope="box")
def slower_than_its_kind(each_gpu: EachGpu) -> RuleResult:
    """One GPU of the box is slower than the others of its name.

    What it means: each GPU was timed with the same products and copies, while the others did nothing or all of them
    did the same. This one is
    behind the median of the others by more than their spread explains; of fewer than eight, by more than 5 %.

    Why it costs time: what runs on all GPUs together (training, tensor parallelism) waits for the slowest at every
    step.

    What to do: compare its clock, power limit and temperature with the others'; look at who else uses it; give it a
    place with better cooling, or leave it out.

    Sources: fp8doctor's statistics (fp8doctor/measuring/odd_ones.py, benchmarks/RESULTS.md).
    """
    gpus = _gpus(each_gpu)
    if isinstance(gpus, (NotApplicable, Unknown)):
        return gpus
    found: list[Verdict] = []
    compared = False
    for name in dict.fromkeys(gpu.name for gpu in gpus):
        alike = [(gpu, rates) for gpu, rates in each_gpu.compared() if gpu.name == name]
        for what, unit, of in _MEASURES:
            timed = [(gpu, rates, rate) for gpu, rates in alike if (rate := of(rates)) is not None]
            if len(timed) < 2:
                continue
            compared = True
            for odd in odd_ones([rate for *_, rate in timed]).odd:
                others = [rates for place, (_, rates, _) in enumerate(timed) if place != odd.place]
                found.append(_slower(*timed[odd.place], odd.median, what, unit, others))
    return found or (None if compared else Unknown("no two GPUs of one name were timed alike"))


def _slower(gpu: OneGpu, own: Rates, rate: float, median: float, what: str, unit: str, others: list[Rates]) -> Finding:
    behind = 1 - rate / median
    evidence = [Evidence(f"{what}: {rate:,.0f} {unit}, the others' median {median:,.0f}", rate, unit, "each_gpu.gpus")]
    for field, words, unit_of in (("sm_clock_mhz", "SM clock meanwhile", "MHz"), ("power_w", "most power", "W")):
        mine = getattr(own, field)
        theirs = sorted(value for one in others if (value := getattr(one, field)) is not None)
        if mine is not None and theirs and abs(mine / quantile(theirs, 0.5) - 1) > NOISE:
            text = f"{words}: {mine:,.0f} {unit_of}, the others' {quantile(theirs, 0.5):,.0f}"
            evidence.append(Evidence(text, mine, unit_of, "each_gpu.gpus"))
    return Finding(
        title=f"GPU {gpu.index} is {behind:.0%} slower in {what} than the other {gpu.name} of this box",
        evidence=tuple(evidence),
        actions=(Action("Compare its clock, power and what holds it back with the others'.", SEE_CLOCKS),),
        about=f"gpu:{gpu.index}",
    )


@rule("EGP002", "gpus-slow-one-another", Severity.INFO, scope="box")
def slow_one_another(each_gpu: EachGpu) -> RuleResult:
    """The GPUs are slower when all of them work.

    What it means: the same products took longer while every GPU of the box computed than while one did. They do not
    share a processor, so that they share a limit of power or of cooling, or the host could not keep all of them busy.

    Why it costs time: a job on all GPUs gets the lower rate; what was measured on one does not hold for it.

    What to do: look at power limits and temperatures while all work.

    Sources: measured here, each GPU alone and all together.
    """
    gpus = _gpus(each_gpu)
    if isinstance(gpus, (NotApplicable, Unknown)):
        return gpus
    shares = [
        (gpu, together / alone)
        for gpu in gpus
        if (alone := speed(gpu.alone)) is not None and (together := speed(gpu.together)) is not None
    ]
    if len(shares) < 2:
        return Unknown("the GPUs were not timed both alone and together")
    kept = quantile(sorted(share for _, share in shares), 0.5)
    if kept >= 1 - LEAST_OF_FEW:
        return [_alone_in_it(gpu, share, kept) for gpu, share in shares if share < (1 - LEAST_OF_FEW) * kept] or None
    return Finding(
        title=f"With all {len(gpus)} GPUs at work each reaches {kept:.0%} of what it does alone",
        evidence=tuple(
            Evidence(
                f"GPU {gpu.index}: {_rate(gpu.together)} together, {_rate(gpu.alone)} alone",
                speed(gpu.together), "TFLOP/s", "each_gpu.gpus",
            )
            for gpu in gpus
        ),
        actions=(Action("Look at clocks, power and temperatures while all of them work.", SEE_CLOCKS),),
    )  # fmt: skip


def _alone_in_it(gpu: OneGpu, share: float, kept: float) -> Finding:
    return Finding(
        title=f"With all GPUs at work GPU {gpu.index} reaches {share:.0%} of what it does alone, the others {kept:.0%}",
        evidence=(Evidence(f"{_rate(gpu.together)} together, {_rate(gpu.alone)} alone", share, None, "each_gpu.gpus"),),
        actions=(Action("Look at clocks, power and temperatures while all of them work.", SEE_CLOCKS),),
        about=f"gpu:{gpu.index}",
    )


@rule("EGP003", "gpu-computes-wrongly", Severity.ERROR, scope="box")
def computes_wrongly(each_gpu: EachGpu) -> RuleResult:
    """One GPU gives a wrong FP8 product.

    What it means: the same product of the same numbers was asked of each GPU and compared with FP32. On this one the
    error is more than rounding explains.

    Why it costs time: a wrong result is worse than a slow one, and one GPU in a job spoils the result of all.

    What to do: take it out of use, and test its memory.

    Sources: the limit is the one of checks/torch_build/numerics.py; NVIDIA, DCGM diagnostics.
    """
    gpus = _gpus(each_gpu)
    if isinstance(gpus, (NotApplicable, Unknown)):
        return gpus
    rated = [(gpu, [one for one in (gpu.alone, gpu.together) if one and one.fp8_error is not None]) for gpu in gpus]
    seen = [(gpu, max(rates, key=lambda one: one.fp8_error or 0.0)) for gpu, rates in rated if rates]
    if not seen:
        return Unknown("no FP8 product was compared")
    return [
        Finding(
            title=f"GPU {gpu.index} gives a wrong FP8 product",
            evidence=(
                Evidence(
                    f"relative error {rates.fp8_error:.3g}; rounding explains {rates.fp8_error_limit:.3g}",
                    rates.fp8_error, None, "each_gpu.gpus",
                ),
            ),
            actions=(Action("Take it out of use, and run NVIDIA's diagnostics of all GPUs.", "dcgmi diag -r 3"),),
            about=f"gpu:{gpu.index}",
        )
        for gpu, rates in seen
        if rates.fp8_error_limit is not None and rates.fp8_error is not None and rates.fp8_error > rates.fp8_error_limit
    ] or None  # fmt: skip


@rule("EGP004", "gpu-fails-under-load", Severity.ERROR, scope="box")
def fails(each_gpu: EachGpu) -> RuleResult:
    """One GPU failed while it was timed, and others did not.

    What it means: the process that used this GPU raised an error, ended, or did not answer any more.

    Why it costs time: a job on all GPUs stops with it.

    What to do: look for Xid messages of the driver in the kernel log; start the GPU anew or take it out of use.

    Sources: NVIDIA, "Xid errors".
    """
    gpus = _gpus(each_gpu)
    if isinstance(gpus, (NotApplicable, Unknown)):
        return gpus
    return [
        Finding(
            title=f"GPU {gpu.index} failed while it was timed",
            evidence=(Evidence(str(gpu.error), fact="each_gpu.gpus"),),
            actions=(Action("Look for the driver's Xid messages in the kernel log.", "sudo dmesg | grep -i xid"),),
            about=f"gpu:{gpu.index}",
        )
        for gpu in gpus
        if gpu.error is not None
    ] or None


@rule("EGP005", "gpu-link-slow", Severity.WARNING, scope="box")
def slow_link(each_gpu: EachGpu) -> RuleResult:
    """Copies between two GPUs are far slower than between the others.

    What it means: a copy from one GPU's memory into the other's reaches less than half of the median of all pairs of
    this box. Boxes whose GPUs are linked in pairs or over two sockets are so by design.

    Why it costs time: what GPUs exchange at every step takes as long as its slowest link.

    What to do: look at the topology; put GPUs that exchange much next to one another.

    Sources: measured here; NVIDIA, nvidia-smi topo.
    """
    gpus = _gpus(each_gpu)
    if isinstance(gpus, (NotApplicable, Unknown)):
        return gpus
    timed = [link for link in each_gpu.links or () if link.gb_s is not None and link.gb_s > 0]
    if len(timed) < 3:
        return Unknown("too few links were timed") if len(gpus) > 2 else NotApplicable("there is one pair of GPUs")
    median = quantile(sorted(link.gb_s or 0.0 for link in timed), 0.5)
    slow = [link for link in timed if (link.gb_s or 0.0) < SLOW_LINK * median]
    if not slow:
        return None
    return Finding(
        title=f"{len(slow)} of {len(timed)} links between GPUs reach less than half of the others",
        evidence=tuple(
            Evidence(
                f"from GPU {link.source} to GPU {link.target}: {link.gb_s:,.0f} GB/s, the median is {median:,.0f}"
                + ("" if link.direct else "; they do not reach one another directly"),
                link.gb_s, "GB/s", "each_gpu.links",
            )
            for link in slow[:8]
        ),
        actions=(Action("See how the GPUs are linked.", "nvidia-smi topo -m"),),
    )  # fmt: skip
