"""Does preparing FP8 operands cost what the FP8 products save?"""

from __future__ import annotations

import re
from math import gcd

from fp8doctor.checks.step.advice import as_graph
from fp8doctor.checks.step.products import FEW_ROWS, size_of, total_us
from fp8doctor.checks.step.sums import (
    FP8,
    LEAST,
    MUCH,
    QUANTISING,
    eager_quantising,
    fp8_products,
    gain_without,
    launching_us,
    operator_count,
    part,
    per_step,
    quantising_us,
    severity_of,
    span_of,
    sum_count,
    sum_us,
    took,
    unmarked,
    unreadable,
    unsized,
    us_of,
)
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Unknown, Verdict
from fp8doctor.registry import rule
from fp8doctor.traced import Trace

# Microseconds that a product of unknown size takes at most to be called small.
SHORT_US = 20.0
# An FP8 product saves at most its own time, at twice the rate. Half of that spent on casts is told, all is a warning.
HALF, ALL = 0.5, 1.0
_TE = re.compile(r"transformer_engine|cast_transpose")
# Casts to one product. At most, with the weights kept: input and gradient for three products of a training step, and
# each weight once in all passes; one where it is inference. A layer whose norm writes FP8 casts fewer inputs: a
# TransformerLayer that casts its weights every time has 0.75, and 1.25 forward.
KEPT, KEPT_FORWARD = 2 / 3, 1.2
WEIGHT_ONCE, MARGIN = 1 / 3, 0.03
_TE_FORWARD = ("_Linear",)
# What goes backward in Transformer Engine, once for each layer and pass.
_TE_BACKWARD = ("_LinearBackward", "_LayerNormLinearBackward", "_LayerNormMLPBackward", "_GroupedLinearBackward")
# Of those of a training step the weights' are a third, if weights, inputs and gradients are of a size.
WEIGHTS_PART = 1 / 3


@rule(
    "STP008",
    "not-compiled",
    Severity.WARNING,
    scope="usage",
    explains=("quantize-overhead", "cpu-launch-bound", "host-stall"),
)
def not_compiled(trace: Trace) -> Verdict:
    """FP8 products ran, and their operands were scaled and cast by one kernel after another.

    What it means: absolute value, maximum, division, clamp and cast are kernels of their own, each of which reads and
    writes the whole activation. torch.compile makes one or two of them; here it did not.

    Why it costs time: on an H200 at 4096 x 3072 x 3072 eager quantising takes 150 us beside a product of 54 us; BF16's
    product takes 102 us. The host has eight more kernels to launch for it, too.

    What to do: compile the model or each of its repeated blocks. If it is compiled, these layers are outside: look for
    graph breaks (TORCH_LOGS="graph_breaks").

    Sources: the trace itself (kernels below aten::abs, aten::amax, aten::div, aten::clamp and casts to FP8 that are
    PyTorch's own); the times are of the run in this project's README. pytorch/ao#685, pytorch/ao#1199.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    if not fp8_products(trace):
        return NotApplicable("no product ran in FP8")
    eager = eager_quantising(trace)
    lost, span = sum_us(eager), span_of(trace)
    severity = severity_of(lost, span)
    if severity is None:
        return None
    # With these kernels their part of the launches goes, too.
    launches = (launching_us(trace) or 0.0) * min(1.0, sum_count(eager) / (trace.launches or float("inf")))
    products, beside = us_of(trace, *FP8), bool(trace.inductor_kernels)
    return Finding(
        title=f"Eager quantising takes {part(lost, span)} of the time: {lost / products:.1f}x the FP8 products'"
        + (", although other parts are compiled" if beside else ""),
        evidence=(
            took("FP8 products", products, trace),
            took(f"scales and casts by {sum_count(eager):,} eager kernels", lost, trace, "kernels"),
            Evidence(f"Inductor kernels: {trace.inductor_kernels or 0:,}", trace.inductor_kernels),
        ),
        actions=(
            Action("Compile each repeated block", "for block in model.blocks: block.compile()")
            if not beside
            else Action("Find what keeps these layers out", 'TORCH_LOGS="graph_breaks" python ...'),
        ),
        gain=gain_without(lost + launches, span),
        severity=severity,
    )


@rule("STP009", "quantize-overhead", Severity.WARNING, scope="usage")
def quantise_overhead(trace: Trace) -> Verdict:
    """Finding scales and casting to FP8 takes as long as the FP8 products save.

    What it means: beside each FP8 product there are kernels that find the largest value and cast, for the input and
    often for the weight and the gradient.

    Why it costs time: at twice BF16's rate a product saves exactly its own time. If quantising takes half of that, half
    of the gain is gone; if it takes all of it, FP8 is no faster than BF16.

    What to do: quantise an input once for all layers that read it; keep weights in FP8 (quantised_model_init,
    torchao's quantize_); let the norm or activation before it write FP8; take a static scale for inference.

    Sources: the trace itself. What a fused kernel does besides casting is counted as casting, so only all of the
    product's time is a warning, half of it a note. NVIDIA-NeMo/Megatron-Bridge#2842.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    products, casting, span = us_of(trace, *FP8), quantising_us(trace), span_of(trace)
    if not products:
        return NotApplicable("no product ran in FP8")
    if casting < HALF * products or severity_of(casting, span) is None:
        return None
    much = casting >= ALL * products and severity_of(casting, span) is Severity.WARNING
    return Finding(
        title=f"Quantising takes {casting / products:.1f}x the time of the FP8 products",
        evidence=(took("FP8 products", products, trace), took("scales and casts", casting, trace)),
        actions=(
            Action("Keep weights in FP8, and quantise an input once for all layers that read it"),
            Action("Take a cheaper scaling (tensor-wise, delayed, or static for inference), and check the quality"),
        ),
        gain=gain_without(casting, span),
        severity=Severity.WARNING if much else Severity.INFO,
    )


@rule(
    "STP010",
    "weight-requantized-every-microbatch",
    Severity.WARNING,
    scope="usage",
    explains=("quantize-overhead", "cpu-launch-bound"),
)
def requantised(trace: Trace) -> Verdict:
    """Transformer Engine casts the weights anew in every micro-batch, or at every call.

    What it means: weights change once a step. By default each forward casts them to FP8 again, with the transpose that
    the backward needs.

    Why it costs time: a cast reads and writes the whole weight, and costs the host its launches; with small
    micro-batches it takes longer than the cast of the input.

    What to do: call the module with is_first_microbatch=True for the first micro-batch and False for the others; for
    inference make the model within te.quantized_model_init (fp8_model_init in older releases).

    Sources: the trace itself: as many casts as products mean that inputs, gradients and weights were all cast; without
    the weights there are two for three, and fewer where a norm writes FP8. How often a step goes backward is told by
    how often autograd makes the first gradient (aten::ones_like), as far as it divides the backward calls of
    Transformer Engine's layers: models call that operator, too. The weights' part of the casts is by the sizes of its
    plain layers, a third without them. Transformer Engine's performance_considerations.rst;
    NVIDIA/TransformerEngine#44.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    casts = [k for k in trace.kernels or () if k.kind == "quantize" and _TE.search(k.name or "")]
    products = fp8_products(trace)
    if not products or not casts:
        return NotApplicable("Transformer Engine cast nothing for an FP8 product")
    if trace.operators is None:
        return Unknown("the trace holds no operators, so that micro-batches cannot be counted")
    ratio, training = sum_count(casts) / products, operator_count(trace, *_TE_BACKWARD) > 0
    passes = per_step(trace, _backwards(trace)) if training else 1.0
    if ratio < (KEPT if training else KEPT_FORWARD):
        return None
    if passes is None:
        return unmarked("micro-batches cannot be counted")
    if training and (passes < 2 or ratio < KEPT + WEIGHT_ONCE / passes + MARGIN):
        return None
    casting = us_of(trace, *QUANTISING)
    lost = casting * _weights_part(trace, training=training) * (1 - 1 / passes if training else 1)
    severity, span = severity_of(lost, span_of(trace), least=LEAST / 2, much=MUCH / 2), span_of(trace)
    if severity is None:
        return None
    times = f"{passes:,.0f} times a step" if training else "at every call"
    code = "module(x, is_first_microbatch=index == 0)" if training else "with te.quantized_model_init(): model = ..."
    return Finding(
        title=f"Transformer Engine casts the weights {times}",
        evidence=(
            Evidence(
                f"{sum_count(casts):,} casts for {products:,} FP8 products", round(ratio, 2), None, "trace.kernels"
            ),
            took("scales and casts", casting, trace),
            took("of it casting weights again, about", lost, trace, None),
        ),
        actions=(
            Action("Keep the FP8 weights between micro-batches" if training else "Keep the weights in FP8", code),
        ),
        gain=gain_without(lost, span),
        severity=severity,
    )


def _weights_part(trace: Trace, *, training: bool) -> float:
    """The weights' part of what is cast, by the sizes of the forward's layers: K x N beside M x K and M x N."""
    weights = others = 0
    for product in trace.products or ():
        if product.operator in _TE_FORWARD and (size := size_of(product)) is not None:
            m, k, n = size
            weights += k * n * (product.count or 0)
            others += m * (k + n if training else k) * (product.count or 0)
    if not weights:
        return WEIGHTS_PART if training else 1 / 2
    return weights / (weights + others)


def _backwards(trace: Trace) -> int:
    """How often the recording goes backward, at most: each time starts once and calls each layer once."""
    layers = [operator_count(trace, name) for name in _TE_BACKWARD]
    return gcd(operator_count(trace, "aten::ones_like"), *layers)


@rule(
    "STP011",
    "small-shapes",
    Severity.WARNING,
    scope="usage",
    explains=("cpu-launch-bound", "quantize-overhead", "not-compiled"),
)
def small_shapes(trace: Trace) -> Verdict:
    """The FP8 products are so small that fixed costs exceed what FP8 can save.

    What it means: with few tokens a product only reads its weights, and FP8 halves those bytes at best; a narrow layer
    is done in microseconds in either format. Each product still has its casts and its launches.

    Why it costs time: a cast or a launch costs a few microseconds however few rows there are. If they take longer than
    the products themselves, FP8 cannot win, whatever the rate of the tensor cores.

    What to do: use BF16 for such steps and layers, or batch more tokens; where few tokens are what there is (decoding),
    FP8 pays only with fused casts inside a CUDA graph, and for large layers.

    Sources: the trace itself. Few rows are 128 and fewer: on an H200, 1,400 TFLOP/s over 4.3 TB/s is 325 FLOP for each
    byte, and M rows do 2 M for each byte of an FP8 weight. Whatever their sizes, products of 20 us and less on average
    are small: an eager FP8 layer takes the host 0.1 ms and more, on an H200 too (benchmarks/RESULTS.md). An FP8 product
    saves at most its own time. What BF16 gives is not said: it has launches of its own.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    count, products = fp8_products(trace), us_of(trace, *FP8)
    if not count:
        return NotApplicable("no product ran in FP8")
    sized = [p for p in trace.products or () if p.kind in FP8 and p.m is not None]
    few = [p for p in sized if (p.m or 0) <= FEW_ROWS]
    if products > SHORT_US * count:
        if not sized:
            return Unknown(unsized(trace, "the FP8 products"))
        if 2 * total_us(few) < total_us(sized):
            return None
    casting, span = quantising_us(trace), span_of(trace)
    lost = casting + (launching_us(trace) or 0.0)
    severity = severity_of(lost, span)
    if lost < products or severity is None:
        return None
    size = f"{max((p.us or 0.0, p.m or 0) for p in few)[1]:,} rows" if few else f"{products / count:,.0f} us each"
    return Finding(
        title=f"FP8 products of {size} cost more to prepare and launch than they take",
        evidence=(
            took("FP8 products", products, trace),
            took("scales and casts", casting, trace),
            took("idle while the host launches", launching_us(trace) or 0.0, trace, None),
        ),
        actions=(
            Action("Use BF16 for products this small, or batch more tokens"),
            as_graph(trace, "Where it must be FP8: "),
        ),
        severity=severity,
    )
