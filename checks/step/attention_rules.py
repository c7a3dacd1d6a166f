"""Which attention ran, and in which precision?"""

from __future__ import annotations

from fp8doctor.checks.step.by_hand import apart as attention_apart
from fp8doctor.checks.step.sums import (
    FULL,
    LEAST,
    MUCH,
    chosen,
    gain_without,
    part,
    severity_of,
    span_of,
    sum_count,
    sum_us,
    took,
    unreadable,
)
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Verdict
from fp8doctor.registry import rule
from fp8doctor.traced import KernelTotal, Trace

# Of the time, at least: measured on an H200, torch's efficient attention takes 3 to 4 times as long as what torch picks
# by itself, the separate products and softmax 27 to 62 times.
SAVED_BY_FLASH, SAVED_BY_FUSING = 2 / 3, 1 - 1 / 27


@rule("STP019", "attention-backend-slow", Severity.WARNING, scope="usage")
def slow_attention(trace: Trace) -> Verdict:
    """Attention runs on a slow path: in separate products and a softmax, in FP32, or by an older kernel.

    What it means: scaled_dot_product_attention fell back to its math path, or the model computes attention by hand
    (attn_implementation="eager"), so that all scores are written to memory. Or the queries are FP32, which flash and
    cuDNN attention do not take. Or the efficient kernel ran where flash or cuDNN could.

    Why it costs time: the scores are a matrix of queries times keys for each head, written and read several times. In
    FP32 the tensor cores are hardly used. FP8 layers change nothing of it.

    What to do: call scaled_dot_product_attention in BF16 or FP16, without a dense mask if it can be avoided
    (is_causal=True), with head dimensions up to 256; see why a backend refuses: torch.nn.attention.sdpa_kernel.

    Sources: the trace itself. Batched products and a softmax are an attention by the sizes (scores of heads up to 256
    wide), without sizes only where no fused attention is: experts are batched products, too. The shares saved are this
    project's measurements on an H200 (math 7 to 24, efficient 105 to 165, the default 339 to 645 TFLOP/s).
    flashinfer-ai/flashinfer#521. For the efficient kernel it is a note: a mask or a head dimension may ask for it.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    apart = attention_apart(trace)
    fused = chosen(trace, lambda k: k.kind == "attention" and k not in apart)
    wide = [k for k in fused if k.precision == "32-bit"]
    older = [k for k in fused if k.backend == "efficient" and k.precision != "32-bit"]
    if not fused and not apart:
        return NotApplicable("no attention was recognised")
    span = span_of(trace)
    for kernels, saved, said, words in (
        (apart, SAVED_BY_FUSING, _as_said(apart), "separate products and softmax"),
        (wide, SAVED_BY_FLASH, "Attention runs in FP32", "attention in 32 bits"),
        (older, SAVED_BY_FLASH, "Attention runs on torch's efficient kernel", "efficient attention"),
    ):
        # By hand there are masks and copies between the two products as well.
        us = sum_us(kernels) + (trace.between_products_us or 0.0 if kernels is apart else 0.0)
        between = " and what stands between them" if kernels is apart and trace.between_products_us else ""
        severity = severity_of(saved * us, span, LEAST, MUCH)
        if severity is None:
            continue
        return Finding(
            title=f"{said}, {part(us, span)} of the time",
            evidence=(
                took(f"{words}, {sum_count(kernels):,} launches{between}", us, trace, "kernels"),
                *(Evidence(f"{k.operator or 'kernel'}: {(k.name or '')[:100]}", k.us, "us") for k in _largest(kernels)),
            ),
            actions=(
                Action(
                    "Call torch's attention in BF16, and let it pick cuDNN or flash",
                    "F.scaled_dot_product_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), is_causal=True)",
                ),
            ),
            gain=gain_without(saved * us, span),
            severity=Severity.INFO if kernels is older else severity,
        )
    return None


def _largest(kernels: list[KernelTotal]) -> list[KernelTotal]:
    return sorted(kernels, key=lambda k: -(k.us or 0.0))[:3]


def _as_said(kernels: list[KernelTotal]) -> str:
    # A softmax in FP32 between products in 16 bits is customary.
    in_fp32 = any(k.kind in FULL or (k.kind == "attention" and k.precision == "32-bit") for k in kernels)
    return f"Attention runs as separate products and softmax{', in FP32' if in_fp32 else ''}"
