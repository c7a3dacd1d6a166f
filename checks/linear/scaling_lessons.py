"""What does the way of scaling cost here: a scale a row, accurate accumulation, FP8 for storage only? Lessons."""

from __future__ import annotations

from fp8doctor.checks.linear.advice import label
from fp8doctor.checks.linear.cases import cases_of, gains, gemm_of, line, not_measured, shape_text, typical
from fp8doctor.checks.linear.facts import Linear
from fp8doctor.measuring.statistics import speedup
from fp8doctor.model import Action, Finding, Gain, NotApplicable, Severity, Unknown
from fp8doctor.registry import rule

Verdict = Finding | Unknown | NotApplicable | None


@rule("LIN005", "rowwise-slower-than-tensorwise", Severity.INFO, scope="usage")
def rowwise_slower(linear: Linear) -> Verdict:
    """One scale a row costs more than one scale a tensor.

    What it means: row-wise scaling keeps more accuracy, because an outlier spoils its own row only. On some GPUs its
    product, or its quantisation, is slower than with one scale for the whole tensor.

    Why it costs time: row-wise products may take another kernel (CUTLASS instead of cuBLAS on Blackwell), and their
    scales are read in the inner loop.

    What to do: where accuracy allows, use one scale a tensor (`granularity=PerTensor()`).

    Sources: measured here, compiled against compiled. Public cases: pytorch/ao#1793, pytorch/pytorch#147971.
    """
    if (missing := not_measured(linear)) is not None:
        return missing
    cases, eager, m, layer = typical(linear)
    library = eager.partition("-")[0]
    config = f"{library}-fp8-rowwise+compile"
    row = cases.device_us(config, m, layer)
    tensor = cases.device_us(f"{library}-fp8-tensorwise+compile", m, layer)
    if row is None or tensor is None:
        return Unknown("row-wise and tensor-wise layers were not both timed compiled")
    gain = speedup(row, tensor)
    if not gains(row, tensor):
        return None
    return Finding(
        title=f"At {m:,} tokens row-wise FP8 takes {gain.median:.2f}x the time of tensor-wise FP8",
        evidence=(
            line(f"{shape_text(m, layer)}, row-wise compiled", row),
            line("tensor-wise compiled", tensor),
        ),
        actions=(Action("Where accuracy allows, use one scale a tensor", "granularity=PerTensor()"),),
        gain=Gain(gain.median, config, "measured", label(config)),
    )


@rule("LIN006", "fast-accum-off", Severity.INFO, scope="usage")
def fast_accum_off(linear: Linear) -> Verdict:
    """Accurate accumulation makes FP8 products slower here.

    What it means: Hopper's FP8 tensor cores add up with fewer bits than FP32. With `use_fast_accum=False`, the
    default of `torch._scaled_mm`, partial sums are moved to full FP32 registers every few steps.

    Why it costs time: the moves take issue slots from the product.

    What to do: pass `use_fast_accum=True` for the forward pass (torchao's inference configs do); keep accurate
    accumulation for gradients.

    Sources: measured here, the product alone. The flag is described in PyTorch's documentation of
    torch.nn.functional.scaled_mm ("Hopper-GPUs only"). Public cases: pytorch/ao#1325, pytorch/pytorch#144809.
    """
    if (missing := not_measured(linear)) is not None:
        return missing
    cases, eager, m, layer = typical(linear)
    fast = cases.device_us(gemm_of(eager), m, layer, "gemm")
    slow = cases.device_us(f"{gemm_of(eager)}-slowaccum", m, layer, "gemm")
    if fast is None or slow is None:
        return Unknown("the two ways of accumulating were not both timed")
    gain = speedup(slow, fast)
    if not gains(slow, fast):
        return None
    return Finding(
        title=f"use_fast_accum=False makes the FP8 product take {gain.median:.2f}x the time",
        evidence=(
            line(f"{shape_text(m, layer)}, fast accumulation", fast),
            line("accurate accumulation", slow),
        ),
        actions=(Action("Use fast accumulation in the forward pass", "use_fast_accum=True"),),
        gain=Gain(gain.median, f"{gemm_of(eager)}-slowaccum", "measured", "accurate accumulation"),
    )


@rule("LIN007", "weight-only-dequant", Severity.INFO, scope="usage")
def weight_only(linear: Linear) -> Verdict:
    """Eager weight-only FP8 multiplies in BF16.

    What it means: with weight-only FP8 the weight is stored in 8 bits and turned back to BF16 at every call. The
    product is BF16's. It saves memory, not time.

    Why it costs time: turning the weight back reads and writes it several times, whatever the number of tokens.

    What to do: for speed, use dynamic FP8 (activation and weight in FP8), compiled. Keep weight-only for what must
    fit into memory, or use a library with a fused kernel for it at small batch (Marlin, in vLLM).

    Sources: measured here, eager. torchao calls its weight-only path a reference that multiplies in the original
    precision (pytorch/ao#3288, #4094).
    """
    if linear.measurable is False:
        return NotApplicable(linear.why_not or "nothing could be timed")
    cases = cases_of(linear)
    where = cases.typical()
    configs = ("torchao-fp8-weightonly", "torch-fp8-weightonly")
    config = next((c for c in configs if where and cases.get(c, *where)), None)
    stored = cases.device_us(config, *where) if config and where else None
    bf16 = cases.device_us("torch-bf16", *where) if where else None
    if where is None or stored is None or bf16 is None:
        return Unknown("weight-only FP8 was not timed")
    if not gains(stored, bf16):
        return None
    return Finding(
        title=f"At {where[0]:,} tokens eager weight-only FP8 runs at {speedup(bf16, stored).median:.2f}x BF16's speed: "
        "it saves memory, not time",
        evidence=(line(f"{shape_text(*where)}, BF16", bf16), line("FP8 weight-only, eager", stored)),
        actions=(Action("For speed use dynamic FP8, compiled; keep weight-only where memory is short"),),
    )
