"""Does the step wait for other GPUs?"""

from __future__ import annotations

import re

from fp8doctor.checks.step.sums import (
    LEAST,
    MUCH,
    chosen,
    fp8_products,
    gain_without,
    part,
    quantising_us,
    severity_of,
    span_of,
    sum_count,
    sum_us,
    took,
    unreadable,
)
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Verdict, observed
from fp8doctor.registry import rule
from fp8doctor.traced import KernelTotal, Trace

# A maximum over ranks. NCCL compiles minimum and maximum as one operation (MinMax in its kernels' names).
_MAXIMUM = re.compile(r"(?i)all_?reduce.*max")
# An all-reduce of a few scales is over in its latency; one of gradients or activations takes longer.
SHORT_US = 50.0
# Fewer small all-reduces than one to so many FP8 products are somebody else's.
PRODUCTS_A_REDUCTION = 8


@rule("STP006", "comm-bound", Severity.WARNING, scope="usage")
def communicates(trace: Trace) -> Verdict:
    """The GPU waits for data of other GPUs, with nothing else to do.

    What it means: all-reduces, all-gathers and the like run while no other kernel does. Communication that runs beside
    products is not counted.

    Why it costs time: FP8 shortens products. What is sent between GPUs stays as large, unless weights and activations
    are sent in FP8 as well, and less computation is left to hide it behind.

    What to do: overlap it (FSDP prefetching, Transformer Engine's userbuffers), use less tensor parallelism, larger
    micro-batches, or gather weights in FP8 (torchao's enable_fsdp_float8_all_gather, FP8 primary weights).

    Sources: the trace itself: communication without any other activity of the device. NVIDIA/TransformerEngine#556,
    vllm-project/vllm#7579.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    if not trace.communication_us:
        return NotApplicable("the trace holds no communication between GPUs")
    lost, span = observed(trace.exposed_communication_us, "which communication ran beside other work"), span_of(trace)
    severity = severity_of(lost, span, LEAST, MUCH)
    if severity is None:
        return None
    evidence = [
        took("communication", trace.communication_us, trace, "communication_us"),
        took("with nothing beside it", lost, trace, "exposed_communication_us"),
    ]
    for rank in trace.ranks or ():
        if rank.exposed_communication_us is not None and rank.span_us:
            text = (
                f"rank {rank.rank}: {part(rank.exposed_communication_us, rank.span_us)} of {rank.span_us / 1e3:,.1f} ms"
            )
            evidence.append(Evidence(text, rank.exposed_communication_us, "us", "trace.ranks"))
    return Finding(
        title=f"Communication that nothing runs beside takes {part(lost, span)} of the time",
        evidence=tuple(evidence[:10]),
        actions=(
            Action("Overlap communication with products, or use less tensor parallelism"),
            Action(
                "Send weights in FP8 where the library can", "Float8LinearConfig(enable_fsdp_float8_all_gather=True)"
            ),
        ),
        gain=gain_without(lost, span),
        severity=severity,
    )


@rule("STP007", "amax-reduction-overhead", Severity.WARNING, scope="usage", explains=("comm-bound",))
def reduces_scales(trace: Trace) -> Verdict:
    """The ranks exchange the maxima of FP8 scaling, in many small all-reduces.

    What it means: with delayed scaling (and with tensor-wise scales of sharded tensors) all ranks agree on the largest
    value. Each exchange is a handful of bytes.

    Why it costs time: such an all-reduce costs its latency, and every rank waits for the slowest.

    What to do: reduce over the tensor-parallel group alone, less often or asynchronously
    (NVTE_DP_AMAX_REDUCE_INTERVAL, NVTE_ASYNC_AMAX_REDUCTION, where the release has them), let torchao reduce all scales
    at once (precompute_float8_dynamic_scale_for_fsdp), or take a recipe whose scales are local (row-wise, block-wise,
    MXFP8).

    Sources: the trace itself: all-reduces of a maximum that last less than 50 us each, at least one to eight FP8
    products. AMD-AGI/Primus#669, NVIDIA/TransformerEngine#431.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    if not trace.communication_us:
        return NotApplicable("the trace holds no communication between GPUs")
    if not fp8_products(trace) or not quantising_us(trace):
        return NotApplicable("nothing was scaled to FP8")
    small = chosen(trace, _is_small_maximum)
    lost, count, span = sum_us(small), sum_count(small), span_of(trace)
    severity = severity_of(lost, span)
    if severity is None or count * PRODUCTS_A_REDUCTION < fp8_products(trace):
        return None
    return Finding(
        title=f"{count:,} small all-reduces of scales take {part(lost, span)} of the time",
        evidence=(
            took("all-reduces of a maximum", lost, trace, "kernels"),
            Evidence(
                f"{lost / count:,.1f} us each; {fp8_products(trace):,} FP8 products", count, None, "trace.kernels"
            ),
        ),
        actions=(
            Action("Take a recipe whose scales are local to the rank (row-wise, block-wise, MXFP8)"),
            Action("With FSDP, reduce all scales at once", "precompute_float8_dynamic_scale_for_fsdp(model)"),
        ),
        gain=gain_without(lost, span),
        severity=severity,
    )


def _is_small_maximum(kernel: KernelTotal) -> bool:
    small = bool(kernel.count) and (kernel.us or 0.0) < SHORT_US * (kernel.count or 1)
    return kernel.kind == "communication" and small and bool(_MAXIMUM.search(kernel.name or ""))
