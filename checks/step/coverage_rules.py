"""Which layers stayed out of FP8, and what stands beside them?"""

from __future__ import annotations

from fp8doctor.checks.step.format_rules import SAVED_AT_BEST, TRACE_OF_FP8, products_known
from fp8doctor.checks.step.products import (
    BATCHED,
    Adapter,
    adapters,
    is_left_on_purpose,
    layers,
    size_of,
    total_us,
)
from fp8doctor.checks.step.sums import (
    FP8,
    FULL,
    LEAST,
    SIXTEEN,
    a_step,
    chosen,
    fp8_products,
    gain_without,
    gemm_us,
    part,
    severity_of,
    shown,
    span_of,
    sum_us,
    took,
    unmarked,
    unreadable,
    us_of,
)
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Unknown, Verdict
from fp8doctor.registry import rule
from fp8doctor.traced import KernelTotal, ProductTotal, Trace

# Of the products' time in FP8 and 16 bits together: less in 16 bits is a layer or two.
MUCH_IN_16_BITS = 0.15
# Products in 32 bits below this part of the GPU's time are a router or a position.
MUCH_IN_32_BITS = 0.05
# What a product in FP32 loses of its time at most once it is in BF16: 19.5 of 312 TFLOP/s on an A100, 67 of 989 on an
# H100 (their data sheets).
WITHOUT_TENSOR_CORES = 15 / 16
# What a LoRA takes is certain, by its sizes, and fusing it gives all of it back: it is told earlier than other losses.
LEAST_OF_LORA, MUCH_OF_LORA = 0.03, 0.05


@rule("STP015", "fp8-partial-coverage", Severity.WARNING, scope="usage")
def partly_covered(trace: Trace) -> Verdict:
    """Some layers run in FP8, and others of the same size stayed in 16 bits.

    What it means: products that FP8 would suit ran in BF16 or FP16 beside products in FP8. A filter left them out, they
    are another class than nn.Linear, or a library skipped them without a word.

    Why it costs time: they take up to twice the time that FP8 would.

    What to do: look which modules called them (record with stacks), and convert those too. A head, narrow layers (N up
    to 2,048, K up to 1,024, or N up to 4,096 with K up to 2,048), steps of few tokens and gradients of weights that a
    recipe keeps in 16 bits are left out here: they are rightly no FP8.

    Sources: the trace itself, by size. What is narrow is torchao's own filter for row-wise scales
    (float8_linear_utils.py). The gain is an estimate: half of those products' time at best.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    if us_of(trace, *FP8) < TRACE_OF_FP8 * gemm_us(trace) or not fp8_products(trace):
        return NotApplicable("no product ran in FP8, or next to none")
    sixteen, both = us_of(trace, *SIXTEEN), us_of(trace, *SIXTEEN, *FP8)
    if sixteen < MUCH_IN_16_BITS * both:
        return None
    sized = layers(trace, SIXTEEN)
    if not sized:
        batched = sum_us(chosen(trace, lambda k: k.operator in BATCHED and k.kind in SIXTEEN))
        if sixteen - batched < MUCH_IN_16_BITS * both:
            return None
        unseen = products_known(trace)
        return unseen or Unknown(f"{part(sixteen, both)} of the products' time is in 16 bits, of sizes not recorded")
    in_fp8 = {size for size, _ in layers(trace, FP8)}
    stayed = [product for size, product in sized if not is_left_on_purpose(trace, size, product, in_fp8)]
    us, span = total_us(stayed), span_of(trace)
    severity = severity_of(us * SAVED_AT_BEST, span, LEAST / 2, LEAST)
    if us < MUCH_IN_16_BITS * both or severity is None:
        return None
    if not trace.steps:
        return unmarked("a head, which runs once a step, is not told from layers that stayed in 16 bits")
    stayed.sort(key=lambda p: -(p.us or 0.0))
    return Finding(
        title=f"{part(us, both)} of the products' time is in 16 bits, in layers that FP8 would suit",
        evidence=(
            took("products in FP8", us_of(trace, *FP8), trace),
            took("products that stayed in 16 bits", us, trace, "products"),
            *(_line(trace, product) for product in stayed[:5]),
        ),
        actions=(Action("Convert these layers too: look at the filter, and at the classes that were converted"),),
        gain=gain_without(us * SAVED_AT_BEST, span),
        severity=severity,
    )


def _line(trace: Trace, product: ProductTotal) -> Evidence:
    m, k, n = size_of(product) or (0, 0, 0)
    who = f" by {', '.join(product.modules[:3])}" if product.modules else ""
    times = f"{shown(trace, product.count or 0):,.0f} {a_step(trace)}"
    return Evidence(f"{m}x{k}x{n}{who}: {times}, {(product.us or 0) / 1e3:,.2f} ms", product.us, "us", "trace.products")


@rule("STP016", "fp8-without-bf16-autocast", Severity.WARNING, scope="usage", explains=("attention-backend-slow",))
def rest_in_fp32(trace: Trace) -> Verdict:
    """The products are in FP8, and the rest of the model in FP32.

    What it means: beside FP8 products there are products in FP32 or TF32, or attention and element-wise work in FP32.
    The parameters are FP32, and no BF16 autocast surrounds the FP8 one.

    Why it costs time: FP32 moves twice the bytes, its products run at half of BF16's rate (TF32) or far less, and flash
    attention does not take it.

    What to do: torch.autocast("cuda", dtype=torch.bfloat16) around the forward, or BF16 parameters
    (params_dtype=torch.bfloat16).

    Sources: the trace itself: products in 32 bits for a twentieth of the GPU's time (attention's own are counted
    there), or attention in 32 bits with most element-wise work in 32 bits. Half of that time is taken to be saved, as
    half of the bytes are; products outside of Tensor Cores are taken to run in a sixteenth of it (A100 and H100 by
    their data sheets; in half of it on consumer GPUs). Kernels of which the precision is not told are not counted.
    huggingface/accelerate#2655, NVIDIA/TransformerEngine#438.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    if not fp8_products(trace):
        return NotApplicable("no product ran in FP8")
    products = chosen(trace, lambda k: k.kind in FULL and not _of_attention(k))
    attention = chosen(trace, lambda k: k.kind == "attention" and k.precision == "32-bit")
    light = chosen(trace, lambda k: k.kind in ("elementwise", "normalisation") and k.precision is not None)
    wide = [k for k in light if k.precision == "32-bit"]
    busy, span = trace.busy_us or 0.0, span_of(trace)
    by_products = sum_us(products) >= MUCH_IN_32_BITS * busy
    by_rest = sum_us(attention) > 0 and sum_us(wide) > sum_us(light) / 2
    if not by_products and not by_rest:
        return None
    plain, tensor_cores = us_of(trace, "fp32-gemm"), us_of(trace, "tf32-gemm")  # those of attention, too
    lost = plain * WITHOUT_TENSOR_CORES + (tensor_cores + sum_us(wide) + sum_us(attention)) / 2
    severity = severity_of(lost, span)
    if severity is None:
        return None
    said = [
        ("products in FP32 or TF32", products),
        ("attention in 32 bits", attention),
        ("element-wise, 32 bits", wide),
        ("products of attention in FP32 or TF32", chosen(trace, lambda k: k.kind in FULL and _of_attention(k))),
    ]
    return Finding(
        title="FP8 products run beside FP32: the rest of the model is not in BF16",
        evidence=tuple(took(words, sum_us(kernels), trace, "kernels") for words, kernels in said if kernels),
        actions=(Action("Run the rest in BF16", 'with torch.autocast("cuda", dtype=torch.bfloat16): ...'),),
        gain=gain_without(lost, span),
        severity=severity,
    )


def _of_attention(kernel: KernelTotal) -> bool:
    return kernel.operator in BATCHED or "attention" in (kernel.operator or "")


@rule("STP017", "lora-on-fp8", Severity.WARNING, scope="usage")
def lora_on_fp8(trace: Trace) -> Verdict:
    """A LoRA runs unfused beside layers in FP8.

    What it means: beside an FP8 layer there are two products of a small rank, and their result is added.

    Why it costs time: FP8 shortens the layer; the adapter's products, scaling and addition read and write the whole
    activation in 16 bits as before, and weigh twice as much beside it.

    What to do: fuse the LoRA into the weights in BF16 (`pipe.fuse_lora()`, peft's `merge_and_unload()`), then quantise.

    Sources: the trace itself, by size: M x K x r and M x r x N beside M x K x N, r at most an eighth of K and N.
    huggingface/diffusers#10685, Comfy-Org/ComfyUI#4577.
    """
    return _lora(trace, in_fp8=True)


@rule("STP018", "lora-unfused", Severity.WARNING, scope="usage")
def lora_unfused(trace: Trace) -> Verdict:
    """A LoRA that is not fused into the weights runs beside its layers.

    What it means: each linear layer has two products of a small rank beside it, and their result is added.

    Why it costs time: the small products do little arithmetic and still read and write whole activations; the addition
    reads them again. The host has three kernels and more to launch for each layer.

    What to do: fuse it (`pipe.fuse_lora()`, or peft's `merge_and_unload()`); keep it unfused where adapters are
    exchanged often, and compile then.

    Sources: the trace itself, by size: M x K x r and M x r x N beside M x K x N, r at most an eighth of K and N.
    Additions and scalings are counted as many as there are adapters, at their average time: an estimate.
    """
    return _lora(trace, in_fp8=False)


def _lora(trace: Trace, *, in_fp8: bool) -> Verdict:
    if (missing := unreadable(trace)) is not None:
        return missing
    if (unseen := products_known(trace)) is not None:
        return unseen
    found = adapters(trace)
    if not found or any(one.in_fp8 for one in found) is not in_fp8:
        return None
    products = list({id(p): p for one in found for p in (one.down, one.up)}.values())
    ups = sum(p.count or 0 for p in {id(one.up): one.up for one in found}.values())
    small, added, span = total_us(products), _added(trace, ups), span_of(trace)
    severity = severity_of(small + added, span, LEAST_OF_LORA, MUCH_OF_LORA)
    if severity is None:
        return None
    return Finding(
        title=f"An unfused LoRA of rank {_ranks(found)} takes about {part(small + added, span)} of the time",
        evidence=(
            took(f"{ups:,} pairs of products of a small rank", small, trace, "products"),
            took("additions beside them, about", added, trace, "kernels"),
            *(Evidence(f"beside {_shape(one)}: down to {one.rank} and up again") for one in found[:4]),
        ),
        actions=(_fuse(in_fp8=in_fp8),),
        gain=gain_without(small + added, span),
        severity=severity,
    )


def _fuse(*, in_fp8: bool) -> Action:
    before = ", in BF16, before quantising" if in_fp8 else ""
    return Action(f"Fuse the LoRA into the weights{before}", "model = model.merge_and_unload()  # or pipe.fuse_lora()")


def _shape(adapter: Adapter) -> str:
    m, k, n = adapter.beside
    return f"{m}x{k}x{n}"


def _ranks(found: list[Adapter]) -> str:
    return ", ".join(str(rank) for rank in sorted({one.rank for one in found}))


def _added(trace: Trace, adapters_run: int) -> float:
    """One addition for each adapter, at the average time of additions."""
    adding = chosen(trace, lambda k: k.operator in ("aten::add", "aten::add_") and k.kind == "elementwise")
    count = sum(k.count or 0 for k in adding)
    return sum_us(adding) * min(1.0, adapters_run / count) if count else 0.0
