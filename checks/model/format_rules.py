"""Is FP8 in the layers, or on their label alone?"""

from __future__ import annotations

from fp8doctor.checks.model.layers import (
    MULTIPLE,
    counted,
    fits,
    keeping,
    linears,
    multiplying,
    named,
    padded_gain,
    share_of,
    suits,
    with_rows,
)
from fp8doctor.checks.step.coverage_rules import MUCH_IN_32_BITS
from fp8doctor.checks.step.products import FEW_ROWS
from fp8doctor.checks.step.sums import FULL, us_of
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Unknown, Verdict
from fp8doctor.observed import Layer, Model
from fp8doctor.registry import rule
from fp8doctor.traced import Trace

# What is kept out of FP8 on purpose are mostly a head, embeddings and modulations: a tenth of the weights.
MUCH = 0.10
_INSTEAD = Action(
    "Quantise the BF16 weights with their activations instead, and compile",
    "quantize_(model, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))",
)


def _few_rows(layers: list[Layer]) -> bool:
    return all(layer.rows is not None and max(layer.rows) <= FEW_ROWS for layer in layers)


@rule("MOD001", "storage-only-fp8", Severity.WARNING, scope="usage", explains=("storage-only-fp8", "cpu-launch-bound"))
def kept_in_fp8(model: Model) -> Verdict:
    """Layers keep their weights in FP8 and cast them at every call.

    What it means: a plain layer has a float8 weight (`layer.to(torch.float8_e4m3fn)`, diffusers' layerwise casting, a
    loader that keeps the checkpoint's type), without scales and without an FP8 product.

    Why it costs time: the product is 16-bit's, and the weight is read in FP8, written in 16 bits and read again. Each
    cast is one more thing that the host has to launch.

    What to do: where memory is the question, this is right. For speed take layers that multiply in FP8.

    Sources: the model's own layers; torch has no product of float8 tensors without scales (torch._scaled_mm takes
    them). huggingface/diffusers#10635, AUTOMATIC1111/stable-diffusion-webui#14031.
    """
    plain = [layer for layer in keeping(linears(model)) if layer.library in (None, "comfyui", "peft")]
    if not plain:
        return NotApplicable("no plain layer keeps its weight in FP8")
    how = "diffusers' layerwise casting" if any(layer.cast_by for layer in plain) else "a cast at each call"
    return Finding(
        title=f"{counted(plain):,} layers keep FP8 weights and multiply in 16 bits",
        evidence=(*named(plain), Evidence(f"multiplied after {how}", fact="model.layers")),
        actions=(_INSTEAD, Action("If memory is the question and not time, leave it")),
    )


@rule("MOD002", "weight-only-dequant", Severity.WARNING, scope="usage", explains=("weight-only-dequant",))
def weights_alone(model: Model) -> Verdict:
    """Layers keep quantised weights and dequantise them for products in 16 bits.

    What it means: weight-only quantisation. It halves the memory of weights; products stay in 16 bits.

    Why it costs time: with more than a few rows a product is limited by arithmetic, which is BF16's, and dequantising
    comes on top.

    What to do: for more than a few tokens quantise activations too.

    Sources: the model's own layers. Up to 128 rows a product is limited by reading weights and this may pay: then it is
    a note. pytorch/ao#3288, meta-pytorch/gpt-fast#99.
    """
    only = [layer for layer in keeping(linears(model)) if layer.library not in (None, "comfyui", "peft")]
    if not only:
        return NotApplicable("no layer keeps FP8 weights for products in 16 bits")
    libraries = ", ".join(sorted({str(layer.library) for layer in only}))
    return Finding(
        title=f"{counted(only):,} layers of {libraries} quantise weights alone and multiply in 16 bits",
        evidence=tuple(named(only)),
        actions=(_INSTEAD, Action("If memory is the question and not time, leave it")),
        severity=Severity.INFO if _few_rows(only) else Severity.WARNING,
    )


@rule("MOD003", "fp8-partial-coverage", Severity.WARNING, scope="usage", explains=("fp8-partial-coverage",))
def left_out(model: Model, trace: Trace | None) -> Verdict:
    """Some layers multiply in FP8, and others that FP8 would suit stayed in 16 bits.

    What it means: a filter left them out, or they are another class than the library looks for.

    Why it costs time: they take up to twice the time that FP8 would.

    What to do: convert those, too; the names below are what a filter must let through.

    Sources: the model's own layers. Narrow layers (torchao's own filter), a vocabulary's width and layers called with
    up to 128 rows (a modulation has one) are left out rightly. From a tenth of the linear layers' weights on it is a
    warning; a note where no step was seen, so that the rows are not known.
    """
    layers = with_rows(linears(model), trace)
    if not multiplying(layers):
        return NotApplicable("no layer multiplies in FP8")
    rest = [layer for layer in layers if layer.multiplies in ("16-bit", "32-bit") and layer.keeps not in ("fp8", "fp4")]
    rest = [layer for layer in rest if suits(layer) and (layer.rows or trace is None)]
    if not rest:
        return None
    seen = trace is not None
    share = share_of(rest, layers)
    said = f"{share:.0%}".replace("%", " %")
    return Finding(
        title=f"{counted(rest):,} layers that FP8 would suit stayed in 16 bits, {said} of the linear layers' weights",
        evidence=tuple(named(rest)),
        actions=(Action("Let the filter through to them", f"# {', '.join(_examples(rest))}"),),
        severity=Severity.WARNING if share >= MUCH and seen else Severity.INFO,
    )


def _examples(layers: list[Layer]) -> list[str]:
    return [(layer.examples or ("?",))[0] for layer in layers[:3]]


@rule("MOD004", "dims-not-multiple-of-16", Severity.WARNING, scope="usage", explains=("fp8-partial-coverage",))
def odd_sizes(model: Model) -> Verdict:
    """Layers have sizes that FP8 products do not take.

    What it means: inputs or outputs are no multiple of 16. Libraries leave such layers in 16 bits without a word, pad
    them at every call, or fail.

    Why it costs time: what is left out gains nothing, and padding copies the whole operand.

    What to do: pad the weight once to the next multiple of 16, or leave the layer out on purpose if it is small.

    Sources: the model's own layers; torch._scaled_mm asks for trailing dimensions divisible by 16
    (aten/src/ATen/native/cuda/Blas.cpp). pytorch/pytorch#109730. What padding saves is timed layer by layer, of a
    forward alone.
    """
    layers = linears(model)
    wide = [layer for layer in layers if min(layer.k or 0, layer.n or 0) > MULTIPLE]
    odd = [layer for layer in wide if not fits(layer)]
    if not multiplying(layers):
        return NotApplicable("no layer multiplies in FP8")
    if not odd:
        return None
    share = share_of(odd, layers)
    return Finding(
        title=f"{counted(odd):,} layers have sizes that are no multiple of {MULTIPLE}",
        evidence=(*named(odd), *_saved_by_padding(model, odd)),
        actions=(Action(f"Pad inputs and outputs to a multiple of {MULTIPLE} once, in the weight"),),
        severity=Severity.WARNING if share >= MUCH / 2 else Severity.INFO,
    )


def _saved_by_padding(model: Model, odd: list[Layer]) -> list[Evidence]:
    """What these layers were seen to save at the padded size, where that was timed."""
    names = {layer.name for layer in odd}
    timed = [gain for gain in model.gains or () if names & set(gain.names or ())]
    saved = sum(ms for gain in timed if (ms := padded_gain(gain)) is not None and ms > 0)
    if not saved:
        return []
    step = model.run.step_ms if model.run is not None else None
    whole = f" of a step of {step.median:,.1f} ms" if step is not None else " of a step"
    shown = f"{saved:,.1f}" if saved >= 1 else f"{saved:.2g}"
    text = f"padding the weight once would save about {shown} ms{whole}, timed at the padded size"
    return [Evidence(text, round(saved, 3), "ms", "model.gains")]


@rule("MOD005", "misaligned-pointer", Severity.ERROR, scope="usage", explains=("model-does-not-run",))
def odd_addresses(model: Model) -> Verdict:
    """The weight of a layer begins at an address that FP8 products do not take.

    What it means: it is a view into a larger tensor at an offset that is no multiple of 16 bytes (weights cut out of
    one fused tensor, or mapped from a file).

    Why it costs time: cuBLASLt refuses such operands (CUBLAS_STATUS_NOT_SUPPORTED, seen on an H200 with torch 2.11), or
    takes a slow kernel.

    What to do: weight.data = weight.data.clone(), once after loading.

    Sources: the model's own layers; cuBLAS asks for 16-byte alignment of FP8 operands (its documentation of
    cublasLtMatmul).
    """
    layers = multiplying(linears(model)) + keeping(linears(model))
    if not layers:
        return NotApplicable("no layer has FP8 weights or products")
    odd = [layer for layer in layers if layer.misaligned]
    if not odd:
        return None
    return Finding(
        title=f"{counted(odd):,} weights begin at an address that is no multiple of 16 bytes",
        evidence=tuple(named(odd)),
        actions=(Action("Copy each once after loading", "layer.weight.data = layer.weight.data.clone()"),),
        severity=Severity.ERROR if model.run and model.run.error else Severity.WARNING,
    )


@rule(
    "MOD007",
    "fp8-without-bf16-autocast",
    Severity.WARNING,
    scope="usage",
    explains=("fp8-without-bf16-autocast", "attention-backend-slow"),
)
def rest_in_fp32(model: Model, trace: Trace | None) -> Verdict:
    """The FP8 layers stand in a model in FP32, and nothing casts the rest to BF16.

    What it means: the parameters are FP32, and no torch.autocast to BF16 is on in the step: attention, norms and
    element-wise work compute in FP32.

    Why it costs time: FP32 moves twice the bytes, its products run at half of BF16's rate or far less, and flash
    attention does not take it.

    What to do: torch.autocast("cuda", dtype=torch.bfloat16) around the forward, or BF16 parameters.

    Sources: the layers' own types; whether autocast was on is seen in the step, or where products in 32 bits took a
    twentieth of the GPU's time it was not. huggingface/accelerate#2655, NVIDIA/TransformerEngine#438.
    """
    layers = multiplying(linears(model))
    if not layers:
        return NotApplicable("no layer multiplies in FP8")
    wide = [layer for layer in layers if layer.dtype == "float32"]
    if not wide:
        return None
    ran_wide = trace is not None and us_of(trace, *FULL) >= MUCH_IN_32_BITS * (trace.busy_us or float("inf"))
    if model.autocast not in (None, "off") or (model.autocast is None and not ran_wide):
        return None if model.autocast else Unknown("whether torch.autocast was on was not seen")
    return Finding(
        title=f"{counted(wide):,} FP8 layers stand in a model in FP32, and no autocast to BF16 is on",
        evidence=tuple(named(wide)),
        actions=(Action("Run the rest in BF16", 'with torch.autocast("cuda", dtype=torch.bfloat16): ...'),),
    )


@rule("MOD006", "fp8-silently-not-applied", Severity.WARNING, scope="usage", explains=("fp8-silently-not-applied",))
def never_in_fp8(model: Model) -> Verdict:
    """Transformer Engine's layers ran, and none of them in FP8.

    What it means: te.autocast(enabled=True) was not round the forward, or did not reach it: another thread, a wrapper
    that calls later, a context that ended before the call.

    Why it costs time: the layers compute in 16 bits, and gain nothing.

    What to do: put `with te.autocast(enabled=True, recipe=recipe):` round the forward.

    Sources: the layers' own record of their last forward (`module.fp8` in transformer_engine/pytorch/module/base.py).
    huggingface/accelerate#2983, axolotl-ai-cloud/axolotl#842.
    """
    engine = [layer for layer in linears(model) if layer.library == "transformer-engine"]
    if not engine:
        return NotApplicable("no layer is Transformer Engine's")
    if model.run is None or model.run.error is not None:
        return NotApplicable("no step ran, after which its layers know their format")
    if multiplying(engine):
        return None
    return Finding(
        title=f"{counted(engine):,} layers of Transformer Engine ran, and none of them in FP8",
        evidence=tuple(named(engine)),
        actions=(Action("Surround the forward", "with te.autocast(enabled=True, recipe=recipe): ..."),),
    )
