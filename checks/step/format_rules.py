"""Is FP8 on the label and not in the products?"""

from __future__ import annotations

import re

from fp8doctor.checks.step.advice import TE_LAYERS
from fp8doctor.checks.step.by_hand import is_by_hand
from fp8doctor.checks.step.products import BATCHED
from fp8doctor.checks.step.sums import (
    FP8,
    FULL,
    SIXTEEN,
    chosen,
    count_of,
    fp8_products,
    gain_without,
    gemm_us,
    operator_count,
    operator_us,
    part,
    severity_of,
    span_of,
    sum_count,
    sum_us,
    took,
    unreadable,
    unsized,
    us_of,
)
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, RuleResult, Severity, Unknown, Verdict
from fp8doctor.registry import rule
from fp8doctor.traced import KernelTotal, Trace

# A weight is dequantised for its product: at least every second product must have one before it is the pattern.
EVERY_SECOND = 0.5
# Casts of FP8 attention and of a KV cache are three a block of seven layers; casts for products are one each and more.
EVERY_PRODUCT = 0.8
# FP8 below this part of all products' time is no path that the model takes.
TRACE_OF_FP8 = 0.05
# FP8 products take half of BF16's time at best: the dense rates of the boards with FP8 differ by two.
SAVED_AT_BEST = 0.5
# Multiplying by scales takes this much of the cast's time at least: it moves 8 bytes for each element, the cast 5.
MULTIPLIED = 1.5

_FUSED_DEQUANTISING = re.compile(r"(?i)marlin|machete|tinygemm|weight_int[48]pack|w8a16|wna16")
_FP8_LAYER = re.compile(r"(?i)float8_?linear|fp8_?linear")
_FP8_OPERATOR = re.compile(r"(?i)float8|fp8|e4m3")


def _none_in_fp8(trace: Trace) -> bool:
    return us_of(trace, *FP8) < TRACE_OF_FP8 * gemm_us(trace)


def _in_fp8(type_name: str | None) -> bool:
    return "float8" in (type_name or "").lower()


def _dequantising(trace: Trace) -> tuple[int, float]:
    """How many FP8 tensors were made 16 or 32 bits wide, and the GPU time of that."""
    casts = [c for c in trace.casts or () if _in_fp8(c.source) and not _in_fp8(c.target)]
    count = sum(c.count or 0 for c in casts) or count_of(trace, "dequantize")
    return count, max(us_of(trace, "dequantize"), sum(c.us or 0.0 for c in casts))


def _layer_products(trace: Trace) -> int:
    """Launches of products in 16 or 32 bits that are no attention's."""
    batched = (
        chosen(trace, lambda k: k.operator in BATCHED and k.kind in (*SIXTEEN, *FULL)) if is_by_hand(trace) else []
    )
    return count_of(trace, *SIXTEEN, *FULL) - sum_count(batched)


def dequantises(trace: Trace) -> bool:
    """Whether the model keeps FP8 weights and multiplies them in 16 bits."""
    count, _ = _dequantising(trace)
    products = _layer_products(trace)
    return _none_in_fp8(trace) and products > 0 and count >= EVERY_SECOND * products


def _has_scales(trace: Trace) -> bool:
    """Whether the dequantised weights are multiplied by scales (torchao), and not only cast."""
    if any("dequant" in (k.operator or k.name or "").lower() for k in trace.kernels or ()):
        return True
    if any(_in_fp8(c.source) for c in trace.casts or ()):
        return _to_fp32(trace)
    _, us = _dequantising(trace)
    return operator_us(trace, "aten::mul") >= MULTIPLIED * us


def _to_fp32(trace: Trace) -> bool:
    casts = [c for c in trace.casts or () if _in_fp8(c.source)]
    return any((c.target or "").lower() in ("float", "c10::float", "float32") for c in casts)


@rule("STP012", "fp8-silently-not-applied", Severity.ERROR, scope="usage", settles="runs")
def not_applied(trace: Trace) -> RuleResult:
    """FP8 was asked for, and no product ran in FP8.

    What it means: layers or operators of an FP8 library are in the trace, or tensors were cast to FP8, and every
    matrix product ran in another format. A layer was converted and not called, a context (te.autocast) was not entered
    or did not reach it, a size was refused without a word, or FP8 is emulated.

    Why it costs time: the step pays for casts, if for anything, and gains nothing.

    What to do: count the converted layers after wrapping (FSDP, DeepSpeed, compile), convert before wrapping, see that
    te.autocast(enabled=True) surrounds the forward, and that sizes are multiples of 16.

    Sources: the trace itself. Casts count as asking where there are at least four for five products: a KV cache or an
    attention in FP8 casts less. Where kernels of a format that is not told take longer, it stays open. Transformer
    Engine's layers by themselves are used in BF16 too: then it is a note. huggingface/accelerate#2983,
    axolotl-ai-cloud/axolotl#842.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    if fp8_products(trace):
        return None
    products = _layer_products(trace)
    if dequantises(trace) or not products:
        return NotApplicable("FP8 weights are dequantised" if products else "no product of a layer was recorded")
    layers = sorted({m for p in trace.products or () for m in p.modules or () if _FP8_LAYER.search(m)})
    named = sorted({o.name for o in trace.operators or () if o.name and _FP8_OPERATOR.search(o.name)})
    casts = count_of(trace, "quantize")
    engine = operator_count(trace, *TE_LAYERS)
    evidence = [took(f"{products:,} products in 16 or 32 bits", us_of(trace, *SIXTEEN, *FULL), trace)]
    severity = None
    if layers:
        evidence.append(Evidence(f"layers that called them: {', '.join(layers[:5])}", fact="trace.products"))
    elif casts >= EVERY_PRODUCT * products:
        severity = Severity.WARNING
        evidence.append(took(f"{casts:,} casts to FP8", us_of(trace, "quantize"), trace))
    elif named or engine:
        severity = Severity.INFO
        said = (
            f"operators: {', '.join(named[:5])}"
            if named
            else f"layers of Transformer Engine were called {engine:,} times"
        )
        evidence.append(Evidence(said, fact="trace.operators"))
    else:
        return NotApplicable("nothing in the trace asks for FP8")
    untold, told = us_of(trace, "other", "other-gemm"), us_of(trace, *SIXTEEN, *FULL)
    if not layers and untold > told:
        return Unknown(f"{part(untold, span_of(trace))} of the time is in kernels whose format the trace does not say")
    finding = Finding(
        title="FP8 was asked for, and no product ran in FP8"
        if severity is not Severity.INFO
        else "An FP8 library's layers ran, and no product of theirs in FP8",
        evidence=tuple(evidence),
        actions=(
            Action(
                "Count the FP8 layers after all wrapping", 'print(sum("Float8" in repr(m) for m in model.modules()))'
            ),
            Action(
                "With Transformer Engine, surround the forward", "with te.autocast(enabled=True, recipe=recipe): ..."
            ),
        ),
        severity=severity,
    )
    # A mere note does not answer whether FP8 runs.
    return [finding, Unknown("FP8 may not have been asked for")] if severity is Severity.INFO else finding


@rule("STP013", "storage-only-fp8", Severity.WARNING, scope="usage", explains=("quantize-overhead",))
def storage_only(trace: Trace) -> Verdict:
    """The weights are kept in FP8 and cast to 16 bits before every product.

    What it means: a plain layer with a float8 weight (`layer.to(torch.float8_e4m3fn)`, layerwise casting) casts it at
    each call. All products run in 16 bits.

    Why it costs time: it saves memory, no time: the product is BF16's, and the cast reads the weight and writes it in
    16 bits beside it.

    What to do: where memory is the question, this is right. For speed take a path that multiplies in FP8 (torchao's
    Float8DynamicActivationFloat8WeightConfig and torch.compile; in ComfyUI --fast).

    Sources: the trace itself: casts from float8, at least one to every second product, and no FP8 product.
    huggingface/diffusers#10635, AUTOMATIC1111/stable-diffusion-webui#14031.
    """
    return _dequantised(trace, with_scales=False)


@rule("STP014", "weight-only-dequant", Severity.WARNING, scope="usage", explains=("quantize-overhead",))
def weight_only(trace: Trace) -> Verdict:
    """The weights are in FP8 with scales, and are dequantised for products in 16 bits.

    What it means: weight-only quantisation (torchao's Float8WeightOnlyConfig, Marlin kernels) keeps weights in 8 bits
    and multiplies in BF16: the weight is cast and multiplied by its scales at every call, or inside the product.

    Why it costs time: the product runs at BF16's rate at best. Dequantising one operator at a time reads and writes the
    whole weight several times. Only where reading weights is all there is (a few tokens), a fused kernel gains.

    What to do: for more than a few tokens quantise activations too
    (Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()) and torch.compile).

    Sources: the trace itself. torchao calls its weight-only path a reference implementation (pytorch/ao#3288,
    pytorch/ao#4094); meta-pytorch/gpt-fast#99.
    """
    fused = chosen(trace, lambda k: bool(_FUSED_DEQUANTISING.search(f"{k.name} {k.operator}")))
    if unreadable(trace) is None and sum_us(fused) >= EVERY_SECOND * (gemm_us(trace) or float("inf")):
        return _fused(trace, fused)
    return _dequantised(trace, with_scales=True)


def _fused(trace: Trace, fused: list[KernelTotal]) -> Finding:
    return Finding(
        title=f"Products with weights in 8 bits or fewer run in 16 bits: {part(sum_us(fused), gemm_us(trace))} of the "
        "products' time",
        evidence=(
            took(f"{sum_count(fused):,} products that dequantise inside", sum_us(fused), trace, "kernels"),
            Evidence(f"such as {fused[0].name}", fact="trace.kernels"),
        ),
        actions=(Action("For more than a few tokens, quantise activations too (W8A8)"),),
        severity=Severity.INFO,
    )


def _dequantised(trace: Trace, *, with_scales: bool) -> Verdict:
    if (missing := unreadable(trace)) is not None:
        return missing
    if not _none_in_fp8(trace):
        return None
    count, us = _dequantising(trace)
    if not count:
        return NotApplicable("nothing was cast from FP8 to a wider format")
    if not dequantises(trace) or _has_scales(trace) is not with_scales:
        return None
    span, products = span_of(trace), us_of(trace, *SIXTEEN)
    severity = severity_of(us + SAVED_AT_BEST * products, span)
    if severity is None:
        return None
    how = "dequantised" if with_scales else "cast"
    words = "Casting FP8 weights back" if not with_scales else "Dequantising FP8 weights"
    evidence = [
        took(f"{count:,} casts from FP8" + (", with their scales" if with_scales else ""), us, trace),
        took(f"{_layer_products(trace):,} products in 16 bits", products, trace),
        Evidence("no product ran in FP8", 0, None, "trace.count_by_kind"),
    ]
    return Finding(
        title=f"FP8 weights are {how} and multiplied in 16 bits; {words[0].lower()}{words[1:]} takes "
        f"{part(us, span)} of the time",
        evidence=tuple(evidence),
        actions=(
            Action(
                "Multiply in FP8: quantise the BF16 weights with their activations instead, and compile",
                "quantize_(model, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))",
            ),
            Action("If memory is the question and not time, leave it"),
        ),
        gain=gain_without(us + SAVED_AT_BEST * products, span),
        severity=severity,
    )


def products_known(trace: Trace) -> Unknown | None:
    """Why the products' sizes are not known, if so."""
    if not trace.products:
        return Unknown(unsized(trace, "products"))
    return None
