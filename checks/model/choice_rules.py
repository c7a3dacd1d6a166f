"""Which choices for a model keep FP8 from paying, whatever its kernels do?"""

from __future__ import annotations

from fp8doctor.checks.model.layers import counted, keeping, linears, named
from fp8doctor.checks.step.products import FEW_ROWS, VOCABULARY, is_narrow
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Unknown, Verdict
from fp8doctor.observed import Layer, Model
from fp8doctor.registry import rule

# Groups of layers that are listed by name.
_LISTED = 4
# What these libraries are for is memory; those of their layers that keep FP8 weights alone are MOD002's.
_FOR_MEMORY = ("bitsandbytes", "quanto")


@rule("MOD033", "tp-shards-too-small", Severity.INFO, scope="usage", explains=("small-shapes",))
def narrow_shards(model: Model) -> Verdict:
    """Tensor parallelism leaves each rank a part of a layer that is too narrow for FP8 to pay.

    What it means: the weight is cut over ranks, and what one rank multiplies is a narrow layer, while the whole layer
    is a wide one.

    Why it costs time: a narrow product is done in microseconds in either format, while casting its input takes as long
    as for the whole layer. FP8 gains less there, or loses.

    What to do: cut over fewer ranks where memory allows it and take the others for data (FSDP gathers whole weights),
    or leave these layers in 16 bits.

    Sources: the layers' own DTensors, without the cut that FSDP undoes before the product, and Transformer Engine's
    own sizes. What is narrow is torchao's own filter for row-wise scales, measured on H100 (float8_linear_utils.py).
    pytorch/torchtitan#1207, vllm-project/llm-compressor#2069.
    """
    cut = [layer for layer in linears(model) if (layer.ranks or 1) > 1]
    if not cut:
        return NotApplicable("no layer is cut over ranks")
    narrow = [layer for layer in cut if is_narrow(layer.k or 0, layer.n or 0)]
    lost = [layer for layer in narrow if layer.cut is not None and not is_narrow(*_whole(layer))]
    lost = [layer for layer in lost if max(_whole(layer)) < VOCABULARY]
    if not lost:
        unclear = any(layer.cut is None for layer in narrow)
        return Unknown("of some layers both sizes are cut, so that the whole is not known") if unclear else None
    ranks = " or ".join(map(str, sorted({layer.ranks or 0 for layer in lost})))
    return Finding(
        title=f"Cut over {ranks} ranks, {counted(lost):,} wide layers are too narrow for FP8 on each",
        evidence=tuple(_cut_line(layer) for layer in sorted(lost, key=lambda one: -(one.count or 0))[:_LISTED]),
        actions=(Action("Cut over fewer ranks and take the others for data, or leave these layers in 16 bits"),),
    )


def _whole(layer: Layer) -> tuple[int, int]:
    ranks, k, n = layer.ranks or 1, layer.k or 0, layer.n or 0
    return (k * ranks, n) if layer.cut == "k" else (k, n * ranks)


def _cut_line(layer: Layer) -> Evidence:
    k, n = _whole(layer)
    text = f"{layer.name}: {layer.count:,} of Linear({k}, {n}), of which a rank multiplies {layer.k} x {layer.n}"
    return Evidence(text, layer.count, None, "model.layers")


@rule("MOD036", "wrong-tool-for-speed", Severity.WARNING, scope="usage")
def made_for_memory(model: Model) -> Verdict:
    """Layers are of a library that saves memory and no time.

    What it means: bitsandbytes' or quanto's layers keep weights in 8 or 4 bits. They dequantise them for products in 16
    bits; LLM.int8() multiplies in INT8 and takes outliers apart, which it multiplies in 16 bits.

    Why it costs time: with more than a few rows a product is limited by arithmetic. Dequantising, or looking for
    outliers, comes on top of it.

    What to do: where memory is the question, this is right. For speed keep BF16, or quantise weights and activations to
    FP8 and compile.

    Sources: the layers' own classes; the rest is known and was not measured here. By bitsandbytes' own figures
    (benchmarking/README.md of 0.45) NF4 and LLM.int8() with its default threshold are slower than 16 bits from a batch
    of 8 on, on T4, RTX 4090 and H100; for a single row NF4 is faster on an RTX 4090, and LLM.int8() without outliers
    from a batch of 8 on: whether it has them is not seen. So weights alone are a warning where more than 128 rows were
    seen, and LLM.int8() is a note. In training it is one, too: what is trained may not fit otherwise.
    bitsandbytes-foundation/bitsandbytes#490.
    """
    layers = linears(model)
    theirs = [layer for layer in layers if layer.library in _FOR_MEMORY and layer not in keeping(layers)]
    if not theirs:
        return NotApplicable("no layer is of a library that is made for memory")
    alone = [layer for layer in theirs if layer.multiplies in ("16-bit", "32-bit")]
    few = [layer for layer in alone if layer.rows and max(layer.rows) <= FEW_ROWS]
    told = [layer for layer in theirs if layer not in few]
    if not told:
        return None
    libraries = " and ".join(sorted({str(layer.library) for layer in told}))
    certain = any(layer.rows for layer in told if layer in alone) and not model.training
    rows = sorted({row for layer in told for row in layer.rows or ()})
    called = f"called with up to {rows[-1]:,} rows; " if rows else ""
    return Finding(
        title=f"{counted(told):,} layers of {libraries} are made to save memory, not time",
        evidence=(
            *named(told),
            Evidence(f"{called}known, not measured here: beyond a few rows BF16 is as fast or faster"),
        ),
        actions=(
            Action("If memory is the question and not time, leave it"),
            Action(
                "For speed keep BF16, or quantise weights and activations to FP8, and compile",
                "quantize_(model, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))",
            ),
        ),
        severity=Severity.WARNING if certain else Severity.INFO,
    )
