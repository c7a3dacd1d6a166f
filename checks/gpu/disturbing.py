"""During which seconds did others compute on the GPU that was timed?"""

from __future__ import annotations

import math

from fp8doctor.checks.gpu.clocks import Clocks
from fp8doctor.checks.gpu.facts import Gpus
from fp8doctor.checks.gpu.rules import label
from fp8doctor.checks.gpu.sharing_rules import WORKING_PERCENT, keeps_busy
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity
from fp8doctor.registry import disturbances, rule
from fp8doctor.reliance import Disturbance, Reliance

# Who is there is looked up once a second: a neighbour may have come so long before it was first seen.
BETWEEN_LOOKS_S = 1.5


@disturbances
def by_others(clocks: Clocks | None, gpus: Gpus | None) -> list[Disturbance]:
    """From the first to the last look at which a process was there that computed; or all the time, if one cannot tell.

    In a container NVML may number processes as the host does, so that nobody can be told apart: there, a GPU that was
    busy before the timing is taken to have stayed so.
    """
    if clocks is None or clocks.gpu_index is None:
        return []
    if clocks.neighbours is None:
        timed = [gpu for gpu in (gpus and gpus.gpus) or () if gpu.index == clocks.gpu_index]
        busy = gpus is not None and any(keeps_busy(gpu, gpus.doctor_idle) for gpu in timed)
        return [Disturbance(-math.inf, math.inf)] if busy else []
    return [
        Disturbance((one.first_t_s or 0.0) - BETWEEN_LOOKS_S, (one.last_t_s or 0.0) + BETWEEN_LOOKS_S)
        for one in clocks.neighbours
        if (one.sm_percent or 0) >= WORKING_PERCENT
    ]


@rule("GPU014", "times-put-aside", Severity.INFO, scope="box")
def times_put_aside(reliance: Reliance, gpus: Gpus | None, clocks: Clocks | None) -> Finding | NotApplicable | None:
    """Times were measured that say nothing, and nothing here is built on them.

    What it means: a time was taken while another program computed on the GPU, or its samples scatter: their middle half
    spans more than a fifth of the median. Such times stay in the JSON; advice, charts and findings leave them out.

    Why it costs time: it does not. But what was to be learnt from them is not known.

    What to do: measure again when nobody else uses the GPU. If times scatter on a GPU that is alone, look at its clocks
    and its temperature in the same report.

    Sources: benchmarks/RESULTS.md: of 1,819 device times on quiet H200s none scattered by more than 5 %; beside a
    program that multiplied all the time, some were wrong by 2.7 times at a scatter of a hundredth (kernels longer than
    a turn of the GPU's time slicing), others scattered by more than four fifths.
    """
    if not reliance.timed:
        return NotApplicable("nothing was timed")
    if not reliance.put_aside:
        return NotApplicable("nobody watched the GPU") if clocks is None else None
    index = clocks.gpu_index if clocks else None
    timed = next((gpu for gpu in (gpus and gpus.gpus) or () if gpu.index == index), None)
    where = f" on {label(timed)}" if timed else ""
    counted = ((reliance.disturbed, "were taken while another program computed there"),
               (reliance.scattered, "scatter by more than 20 % of their median"))  # fmt: skip
    return Finding(
        title=f"{reliance.put_aside} of {reliance.timed} timed cases{where} are not used",
        evidence=tuple(
            Evidence(f"{number} {what}", number, "cases", "clocks.neighbours") for number, what in counted if number
        ),
        actions=(Action("See who uses the GPU, and measure when it is alone.", "nvidia-smi"),),
    )
