"""What do a trace's totals add up to: formats, quantising, idle time, and what a loss of time is worth telling?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from fp8doctor.model import Evidence, Gain, Severity, Unknown
from fp8doctor.traced import KernelTotal, Trace

FP8 = ("fp8-gemm", "fp4-gemm")
SIXTEEN = ("bf16-gemm", "fp16-gemm")
FULL = ("tf32-gemm", "fp32-gemm")
QUANTISING = ("quantize", "amax", "scale-layout")

# Less than a twentieth of the recorded time is not told: steps differ among themselves by as much, and recording adds
# time of its own. From a tenth on it is a warning.
LEAST, MUCH = 0.05, 0.10
# What gains in these rules are over: a slug, and its words.
RECORDED, RECORDED_LABEL = "recorded-step", "the recorded step"
HOW_TO_RECORD = (
    "with torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], record_shapes=True, "
    "with_stack=True, schedule=torch.profiler.schedule(wait=1, warmup=3, active=3))"
)

# What torchao's layers call one by one where nothing is compiled (quant_primitives.py: abs, amax, division, clamp).
_EAGER_OPERATORS = {"aten::abs", "aten::amax", "aten::clamp", "aten::clamp_min", "aten::div", "aten::reciprocal"}
_EAGER_NAMES = re.compile(r"abs_kernel|AbsFunctor|MaxNanFunctor|clamp_scalar|float8_copy_kernel")


def unreadable(trace: Trace) -> Unknown | None:
    """Why nothing can be said of the GPU's time, if so."""
    if trace.accelerator == "cpu" or not trace.span_us or not trace.busy_us:
        if trace.cut:
            return Unknown("the file breaks off before any GPU activity")
        return Unknown(f"the trace holds no GPU activity; record it {HOW_TO_RECORD}")
    return None


def span_of(trace: Trace) -> float:
    """From the first GPU activity to the end of the last; of a readable trace."""
    return trace.span_us or 0.0


def launching_us(trace: Trace) -> float | None:
    """Idle time of the GPU in which the host launches: in an operator or a call, or in Python between two of them."""
    return None if trace.idle_launching_us is None else trace.idle_launching_us + (trace.idle_between_us or 0.0)


def elsewhere_us(trace: Trace) -> float | None:
    """Idle time of the GPU in which the host does something else; Python between two operators is not counted."""
    return None if trace.idle_elsewhere_us is None else trace.idle_elsewhere_us - (trace.idle_between_us or 0.0)


def us_of(trace: Trace, *kinds: str) -> float:
    """GPU time of these kinds."""
    return sum((trace.us_by_kind or {}).get(kind, 0.0) for kind in kinds)


def count_of(trace: Trace, *kinds: str) -> int:
    """Launches of these kinds."""
    return sum((trace.count_by_kind or {}).get(kind, 0) for kind in kinds)


def gemm_us(trace: Trace) -> float:
    """GPU time of all matrix products."""
    return us_of(trace, *(kind for kind in trace.us_by_kind or {} if kind.endswith("-gemm")))


def chosen(trace: Trace, wanted: Callable[[KernelTotal], bool]) -> list[KernelTotal]:
    """The kernels that `wanted` takes."""
    return [kernel for kernel in trace.kernels or () if wanted(kernel)]


def sum_us(kernels: Iterable[KernelTotal]) -> float:
    """Their time."""
    return sum(kernel.us or 0.0 for kernel in kernels)


def sum_count(kernels: Iterable[KernelTotal]) -> int:
    """Their launches."""
    return sum(kernel.count or 0 for kernel in kernels)


def operator_count(trace: Trace, *names: str) -> int:
    """How often these operators ran."""
    return sum(op.count or 0 for op in trace.operators or () if op.name in names)


def operator_us(trace: Trace, *names: str) -> float:
    """GPU time of what these operators launched."""
    return sum(op.device_us or 0.0 for op in trace.operators or () if op.name in names)


def fp8_products(trace: Trace) -> int:
    """Launches of products in FP8 (or FP4)."""
    return count_of(trace, *FP8)


def eager_quantising(trace: Trace) -> list[KernelTotal]:
    """Kernels that find scales and cast one operator at a time; none where no product is in FP8.

    A kernel that is not PyTorch's own, and stands below none of its single operators, is a fused one. Divisions and
    clamps are other people's too: they count only where an absolute value stands beside at least every
    second product.
    """
    products = fp8_products(trace)
    if not products:
        return []

    def plain(kernel: KernelTotal) -> bool:
        one_by_one = kernel.operator in _EAGER_OPERATORS or "at::native" in (kernel.name or "")
        return kernel.kind in QUANTISING and one_by_one

    def step_by_step(kernel: KernelTotal) -> bool:
        named = kernel.operator in _EAGER_OPERATORS or bool(_EAGER_NAMES.search(kernel.name or ""))
        return named and kernel.kind in (*QUANTISING, "elementwise", "other", "copy-on-device")

    found = chosen(trace, lambda kernel: plain(kernel) or step_by_step(kernel))
    looked = [k for k in found if k.operator in ("aten::abs", "aten::amax") or _is_abs(k)]
    return found if 2 * sum_count(looked) >= products else [k for k in found if plain(k)]


def _is_abs(kernel: KernelTotal) -> bool:
    return bool(re.search("abs_kernel|AbsFunctor|amax", kernel.name or ""))


def quantising_us(trace: Trace) -> float:
    """All GPU time of finding scales and casting to FP8."""
    beside = [kernel for kernel in eager_quantising(trace) if kernel.kind not in QUANTISING]
    return us_of(trace, *QUANTISING) + sum_us(beside)


def severity_of(lost: float, whole: float, least: float = LEAST, much: float = MUCH) -> Severity | None:
    """How grave a loss is: a warning from `much` of the whole, nothing under `least`."""
    share = lost / whole if whole else 0.0
    return Severity.WARNING if share >= much else Severity.INFO if share >= least else None


def gain_without(lost: float, span: float) -> Gain:
    """What removing a loss gives, all else the same: span / (span - lost); nothing above 20x is promised."""
    left = max(span - lost, span / 20)
    return Gain(round(span / left, 2), RECORDED, "estimated", RECORDED_LABEL)


def part(us: float, whole: float) -> str:
    """A share in words: "12 %"."""
    return f"{us / whole:.0%}".replace("%", " %") if whole else "0 %"


def took(what: str, us: float, trace: Trace, fact: str | None = "us_by_kind") -> Evidence:
    """A time as a line: its milliseconds, in all recorded steps, and its share of them; no fact: it is derived."""
    steps = f" in {trace.steps} steps" if trace.steps and trace.steps > 1 else ""
    text = f"{what}: {us / 1e3:,.2f} ms{steps}, {part(us, span_of(trace))} of the recorded time"
    return Evidence(text, round(us, 1), "us", f"trace.{fact}" if fact else None)


def per_step(trace: Trace, count: float) -> float | None:
    """A count of the whole recording, for one step; None where the profiler marked no steps."""
    return count / trace.steps if trace.steps else None


def a_step(trace: Trace) -> str:
    """What counts and times are of where they are shown."""
    return "a step" if trace.steps else "in the recording"


def shown(trace: Trace, count: float) -> float:
    """A count or a time for one step, or of the whole recording: see `a_step`."""
    return count / (trace.steps or 1)


def unsized(trace: Trace, what: str) -> str:
    """Why the sizes of products are not known."""
    if not trace.has_shapes:
        return f"the sizes of {what} were not recorded: record_shapes=True"
    return f"the sizes of {what} are not in the trace: those in a CUDA graph and in fused layers have none"


def unmarked(what: str) -> Unknown:
    """Why what counts by step cannot be told without steps."""
    return Unknown(f"the trace marks no steps, so {what}: record with a schedule, and call profiler.step()")
