"""Did what the layers are set to really run?"""

from __future__ import annotations

import re

from fp8doctor.checks.gpu.facts import FIRST_FP8, capability
from fp8doctor.checks.model.layers import FP8, counted, linears, multiplying, named
from fp8doctor.checks.step.products import BATCHED, total_us
from fp8doctor.checks.step.sums import (
    LEAST,
    QUANTISING,
    SIXTEEN,
    chosen,
    count_of,
    fp8_products,
    gain_without,
    gemm_us,
    part,
    severity_of,
    span_of,
    sum_count,
    sum_us,
    took,
    unreadable,
    us_of,
)
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Unknown, Verdict
from fp8doctor.observed import Layer, Model
from fp8doctor.registry import rule
from fp8doctor.traced import KernelTotal, ProductTotal, Trace

# The first with FP4 tensor cores (NVIDIA's Blackwell tuning guide).
FIRST_FP4 = (10, 0)
# Groups of layers that are listed by name.
_LISTED = 4
_QUANTISE = "quantize_(model, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))"

# What torch says where an operator meets a float8 tensor: seen of torch 2.13 ("addmm_cuda", "slow_conv2d_cpu",
# "add_stub"; two operands of different types; a convolution's input and weight), and cuDNN's binding
# (tdrussell/diffusion-pipe#151). Two float8 types that differ are a product with scales, which this is not about.
_NO_OPERATOR = re.compile(
    r"not implemented for '?Float8_|not supported for Float8_|Promotion for Float8 Types is not supported"
    r"|have the same dtype, but got(?!.*Float8.*Float8).*Float8_"
    r"|Input type(?!.*Float8.*Float8).*Float8_.* should be the same"
)
_KINDS = (
    (re.compile(r"(?i)conv|cudnn|Input type"), "convolution"),
    (re.compile(r"(?i)addm[mv]|\bb?mm\b|\"b?mm|mat[12]\b|\bm[12]\b|linear|gemm"), "linear"),
    (re.compile(r"(?i)embedding|index_select"), "embedding"),
)
# Kernels that copy the rows of each expert into padded groups, and back: torchao's (csrc/cuda/mx_kernels,
# prototype/moe_training/kernels/mxfp8/quant.py) and Transformer Engine's (common/util/padding.cu,
# pytorch/module/fp8_padding.py).
_PADDING = re.compile(r"fused_(un)?pad_token_groups|multi_(un)?padding_kernel|_Fp8(Unp|P)adding")
# "vllm::...", "_C::static_scaled_fp8_quant"; not PyTorch's own operators, which the compiler takes apart.
_CUSTOM = re.compile(r"^(?!(aten|prims|c10d|_c10d_functional|nccl|inductor|triton|tex|transformer_engine)::)\w+::\w")


@rule(
    "MOD030",
    "fallback-despite-hw",
    Severity.WARNING,
    scope="usage",
    explains=("fp8-silently-not-applied", "storage-only-fp8", "weight-only-dequant"),
)
def fell_back(model: Model, trace: Trace) -> Verdict:
    """Layers are set to multiply in FP8, the GPU can, and every product ran in 16 bits.

    What it means: the layers were converted, with their activations, and were called. In the recorded step none of
    their products is in FP8: the library dequantised the weights and multiplied them in 16 bits, or emulates FP8.

    Why it costs time: the step pays for scales and casts, and its products take as long as BF16's.

    What to do: see whether an FP8 product runs here at all; if it does, the library refused these layers: a size that
    is no multiple of 16, a scaling that this GPU has no kernel for (blocks on Ada), a wrong test of the GPU, or a
    setting that emulates.

    Sources: the layers' own settings; the trace, in which products of their sizes are in 16 bits and none is in FP8.
    Where kernels of a format that is not told take a twentieth of the products' time it stays open. FP8 tensor cores
    are in GPUs from compute capability 8.9 on, FP4's from 10.0. huggingface/text-generation-inference#2388,
    dphnAI/sonar#908.
    """
    layers = multiplying(linears(model))
    if not layers:
        return NotApplicable("no layer is set to multiply in FP8")
    if (missing := unreadable(trace)) is not None:
        return missing
    if trace.accelerator != "cuda":
        return NotApplicable("no NVIDIA GPU was recorded")
    if fp8_products(trace):
        return None
    engine = [layer for layer in linears(model) if layer.library == "transformer-engine"]
    if engine and not multiplying(engine):
        return NotApplicable("Transformer Engine's layers ran in 16 bits, which is told by itself")
    known = [found for text in trace.compute_capabilities or () if (found := capability(text)) is not None]
    if not known:
        return Unknown("which GPU was recorded is not in the trace")
    able = [layer for layer in layers if min(known) >= (FIRST_FP4 if layer.multiplies == "fp4" else FIRST_FP8)]
    if not able:
        return NotApplicable("this GPU has no tensor cores for the layers' format")
    if trace.missing:
        return Unknown(f"the trace is not whole: {', '.join(trace.missing)}")
    if not count_of(trace, *SIXTEEN):
        return NotApplicable("no product ran in 16 bits")
    if us_of(trace, "other-gemm") >= LEAST * gemm_us(trace) or us_of(trace, "other") >= us_of(trace, *SIXTEEN):
        return Unknown("the format of too many products is not told by the trace")
    called = _called(model, able, trace)
    if not called:
        return Unknown("no product in 16 bits is of the sizes of these layers alone")
    us = total_us(_of_sizes(trace, called)) if trace.products else us_of(trace, *SIXTEEN)
    formats = " or ".join(sorted({str(layer.multiplies).upper() for layer in called}))
    return Finding(
        title=f"{counted(called):,} layers are set to multiply in {formats}, and their products ran in 16 bits",
        evidence=(
            *named(called),
            took("products in 16 bits" + (" of their sizes" if trace.products else ""), us, trace, "products"),
            Evidence("no product ran in FP8", 0, None, "trace.count_by_kind"),
            Evidence(f"compute capability {'.'.join(map(str, min(known)))}", fact="trace.compute_capabilities"),
        ),
        actions=(
            Action("See whether FP8 products run on this box by themselves, and at which sizes", "fp8doctor"),
            Action("Read the warnings of the first call: libraries say once that they fall back"),
        ),
    )


def _called(model: Model, layers: list[Layer], trace: Trace) -> list[Layer]:
    """Those that were called, and whose products are among the recorded ones in 16 bits.

    In compiled layers no call is counted: there a product's size has to be none of another layer's.
    """
    others = {(layer.k, layer.n) for layer in linears(model) if layer.multiplies not in FP8}
    if not trace.products:
        certain = [layer for layer in layers if layer.rows]
        return certain if count_of(trace, *SIXTEEN) >= counted(certain) * (trace.steps or 1) else []
    sizes = {(product.k, product.n) for product in _of_sizes(trace, layers)}
    seen = [layer for layer in layers if (layer.k, layer.n) in sizes]
    return [layer for layer in seen if layer.rows or (layer.compiled and (layer.k, layer.n) not in others)]


def _of_sizes(trace: Trace, layers: list[Layer]) -> list[ProductTotal]:
    sizes = {(layer.k, layer.n) for layer in layers}
    return [
        product
        for product in trace.products or ()
        if product.kind in SIXTEEN and product.operator not in BATCHED and (product.k, product.n) in sizes
    ]


@rule(
    "MOD032",
    "fp8-op-not-implemented",
    Severity.ERROR,
    scope="usage",
    explains=("model-does-not-run", "storage-only-fp8"),
)
def no_operator(model: Model) -> Verdict:
    """The step failed as an operator does not take float8 tensors.

    What it means: float8 is a way to store numbers. Torch multiplies such matrices by one function, with scales; it
    neither adds nor convolves them, and mixes them with no other type. A plain layer whose weight was cast to float8
    ends like this.

    Why it costs time: the step does not run. Casting each weight back before its use runs, and is slower than 16 bits
    throughout.

    What to do: quantise linear layers with a library that replaces them, and keep convolutions, embeddings and norms in
    BF16. Where memory is the question, let something cast the weights at each call (diffusers' layerwise casting).

    Sources: the exception itself, and the plain float8 weights of layers of the kind that it speaks of.
    chengzeyi/stable-fast#128, invoke-ai/InvokeAI#9414.
    """
    if model.run is None:
        return NotApplicable("no step was called")
    error = model.run.error
    if error is None:
        return None
    if not _NO_OPERATOR.search(error):
        return NotApplicable("the step failed for another reason")
    kind = next((found for pattern, found in _KINDS if pattern.search(error)), None)
    plain = [
        layer
        for layer in model.layers or ()
        if (layer.kept_dtype or "").startswith("float8") and layer.library in (None, "peft") and not layer.cast_by
        if kind in (None, layer.kind)
    ]
    many = f"{counted(plain):,} {kind or 'layer'}{' layers' if kind else 's'}"
    return Finding(
        title=f"An operator does not take the float8 weights of {many}"
        if plain
        else "An operator met a float8 tensor that it does not take",
        evidence=(Evidence(error, fact="model.run.error"), *_listed(plain)),
        actions=(
            Action("Quantise BF16 weights with a library that replaces the layer", _QUANTISE)
            if kind in ("linear", None)
            else Action(f"Keep each {kind} in BF16", "layer.to(torch.bfloat16)  # of the weights as they were loaded"),
        ),
    )


def _listed(layers: list[Layer]) -> list[Evidence]:
    lines = [
        Evidence(
            f"{layer.name}: {layer.count:,} of {(layer.class_name or '?').rpartition('.')[2]}, {layer.kept_dtype}",
            layer.count,
            None,
            "model.layers",
        )
        for layer in layers[:_LISTED]
    ]
    if len(layers) > _LISTED:
        lines.append(Evidence(f"and {counted(layers[_LISTED:]):,} layers more", fact="model.layers"))
    return lines


@rule("MOD034", "moe-padding-overhead", Severity.INFO, scope="usage")
def padded_experts(model: Model, trace: Trace) -> Verdict:
    """Lining up the experts' rows for FP8 takes part of the step.

    What it means: a router sends each expert a number of rows that is no multiple of 16 or 32, which a grouped FP8
    product asks for. So all rows are copied into padded groups before it, and back after it.

    Why it costs time: two copies of all rows for each such product.

    What to do: pad in the operation that sorts the rows by expert, which copies them anyway (a fused permutation with
    padding). In inference no padding may be needed at all: GRP001 tells whether it is on this box.

    Sources: the trace: torchao's and Transformer Engine's own kernels for it. Padding by plain operators has no name of
    its own and is not counted. pytorch/ao#3998, NVIDIA/TransformerEngine#1921, AMD-AGI/Primus#742.
    """
    experts = [layer for layer in model.layers or () if layer.kind == "experts" or _is_grouped(layer)]
    if not experts:
        return NotApplicable("no experts were recognised")
    if (missing := unreadable(trace)) is not None:
        return missing
    padding = chosen(trace, lambda k: bool(_PADDING.search(f"{k.name} {k.operator}")))
    if not padding:
        plain = Unknown("padding by plain operators is not told from other copies")
        return plain if fp8_products(trace) else NotApplicable("no product ran in FP8")
    us, span = sum_us(padding), span_of(trace)
    if severity_of(us, span) is None:
        return None
    return Finding(
        title=f"Padding the experts' groups takes {part(us, span)} of the time",
        evidence=(
            took(f"{sum_count(padding):,} copies into padded groups and back", us, trace, "kernels"),
            *(Evidence(f"{k.operator or 'kernel'}: {(k.name or '')[:100]}", k.us, "us") for k in padding[:2]),
            *(Evidence(f"{e.name}: {e.count:,} of {e.experts or 'several'} experts", e.count) for e in experts[:2]),
        ),
        actions=(Action("Pad while sorting the rows by expert, with the places computed on the device"),),
        gain=gain_without(us, span),
    )


def _is_grouped(layer: Layer) -> bool:
    return (layer.class_name or "").endswith(".GroupedLinear")


@rule("MOD035", "custom-op-blocks-fusion", Severity.INFO, scope="usage", explains=("quantize-overhead",))
def opaque_quantising(model: Model, trace: Trace) -> Verdict:
    """The FP8 layers are compiled, and an operator of its own quantises beside what the compiler fuses.

    What it means: the scales and casts are a hand-written operator. torch.compile cannot look into it, so that it is a
    kernel by itself between the norm or activation before it and the product.

    Why it costs time: it reads what the norm has just written, and writes it again. In plain PyTorch operators the
    compiler makes one kernel of both.

    What to do: let the compiler have the quantising in plain operators (torchao does; serving engines have a switch for
    it), and compare the whole step.

    Sources: the layers' own settings, and the trace: kernels that quantise below an operator that is not PyTorch's own,
    from a twentieth of the time on. How much of it fusing saves is not said. vllm-project/vllm#19830,
    vllm-project/vllm#44018.
    """
    layers = [layer for layer in multiplying(linears(model)) if layer.library != "transformer-engine"]
    if not layers or not all(layer.compiled for layer in layers):
        return NotApplicable("not all FP8 layers are compiled" if layers else "no layer multiplies in FP8")
    if (missing := unreadable(trace)) is not None:
        return missing
    if not fp8_products(trace):
        return NotApplicable("no product ran in FP8")
    opaque = chosen(trace, _is_opaque)
    us, span = sum_us(opaque), span_of(trace)
    if severity_of(us, span) is None:
        return None
    operators = ", ".join(dict.fromkeys(str(kernel.operator) for kernel in opaque))
    return Finding(
        title=f"Quantising by an operator that is not fused takes {part(us, span)} of the time",
        evidence=(
            took(f"{sum_count(opaque):,} kernels of {operators}", us, trace, "kernels"),
            *named(layers)[:2],
        ),
        actions=(Action("Let the compiler have the quantising in plain operators, and compare the whole step"),),
    )


def _is_opaque(kernel: KernelTotal) -> bool:
    # PyTorch's own kernels below such an operator are eager quantising, which STP008 tells.
    own = "at::native" in (kernel.name or "")
    return kernel.kind in QUANTISING and not own and bool(_CUSTOM.search(kernel.operator or ""))
