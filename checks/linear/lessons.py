"""What does running FP8 cost here: quantising, launching, small shapes? Lessons; a healthy box gets them too."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.checks.linear.advice import label
from fp8doctor.checks.linear.cases import (
    Cases,
    Layer,
    gains,
    gemm_of,
    line,
    not_measured,
    shape_text,
    time_of,
    typical,
    us,
    waits_for_host,
)
from fp8doctor.checks.linear.facts import Case, Linear
from fp8doctor.measuring.statistics import break_even, speedup
from fp8doctor.model import Action, Evidence, Finding, Gain, NotApplicable, Severity, Unknown
from fp8doctor.registry import rule

Verdict = Finding | Unknown | NotApplicable | None
# Quantising under a tenth of the layer is not what holds it back.
LEAST_SHARE = 0.10

_COMPILE = Action("Compile the model, or each of its blocks", "model = torch.compile(model)")


@rule(
    "CMP002",
    "not-compiled",
    Severity.INFO,
    scope="usage",
    explains=("quantize-overhead",),
)
def not_compiled(linear: Linear) -> Verdict:
    """Eager FP8 is slower than compiled FP8.

    What it means: without torch.compile, quantising an activation is a row of separate kernels (absolute value,
    maximum, division, clamp, cast), and each reads and writes the whole tensor. Compiled, they become one or two.

    Why it costs time: the FP8 matrix product is faster than BF16's, but eager quantisation takes longer than the
    product saves. A report's figures are of its own box: the same layer, eager and compiled, beside BF16.

    What to do: compile the model (`model = torch.compile(model)`), or its repeated blocks one by one, which compiles
    faster. The first call takes longer; leave it out of timings.

    Sources: measured here (device time, L2 cold). PyTorch's own recommendation is in torchao's documentation
    (docs/source/eager_tutorials/pretraining.rst). Public cases: pytorch/ao#685, pytorch/ao#1199.
    """
    if (missing := not_measured(linear)) is not None:
        return missing
    cases, config, m, layer = typical(linear)
    eager, bf16 = cases.get(config, m, layer), cases.device_us("torch-bf16", m, layer)
    compiled = cases.device_us(f"{config}+compile", m, layer)
    if eager is None or eager.device_us is None or compiled is None or bf16 is None:
        return Unknown(f"eager and compiled FP8 were not both timed at {shape_text(m, layer)}")
    gain = speedup(eager.device_us, compiled)
    if not gains(eager.device_us, compiled):
        return None
    slower, now = eager.device_us.median / bf16.median, speedup(bf16, compiled)
    share = f"spends {eager.other_us / eager.device_us.median:.0%} of its time quantising" if eager.other_us else ""
    pace = f"takes {slower:.1f}x BF16's time" if slower > 1 else f"gains only {1 / slower:.2f}x"
    return Finding(
        title=f"At {m}x{layer[0]}x{layer[1]} eager FP8 {f'{share} and {pace}' if share else pace}; compiled it runs "
        f"at {now.median:.2f}x",
        evidence=(
            line(f"{shape_text(m, layer)}, BF16", bf16),
            line("FP8 eager", eager.device_us, _parts(eager)),
            line("FP8 compiled", compiled, f", {now.median:.2f}x BF16"),
        ),
        actions=(_COMPILE,),
        gain=Gain(gain.median, config, "measured", label(config)),
    )


def _parts(case: Case) -> str:
    if case.gemm_us is None or case.other_us is None:
        return ""
    return f" ({us(case.gemm_us)} in the GEMM, {us(case.other_us)} in {case.other_kernels} other kernels)"


@rule("LIN003", "quantize-overhead", Severity.INFO, scope="usage")
def quantize_overhead(linear: Linear) -> Verdict:
    """Quantising the activation takes back part of what the FP8 product gains.

    What it means: the input of an FP8 layer must be scaled and cast at every call. The matrix product alone, from
    operands that are FP8 already, shows what the hardware gives; the difference to the whole layer is this overhead.

    Why it costs time: the work of quantising grows with M x K, that of the product with M x K x N. Narrow layers
    (small N) give it little to hide behind.

    What to do: keep it compiled; share one quantised input between layers that read the same one (query, key and
    value as a single matrix); let the operation before it (norm, activation) write FP8; or, for inference, calibrate
    a static scale, which needs no maximum.

    Sources: measured here. The split into product and quantisation is the one of torchao's roofline estimate
    (torchao/testing/training/roofline_utils.py). Public cases: NVIDIA-NeMo/Megatron-Bridge#2842.
    """
    if (missing := not_measured(linear)) is not None:
        return missing
    cases, eager, m, layer = typical(linear)
    compiled = f"{eager}+compile"
    config = compiled if cases.get(compiled, m, layer) else eager
    whole, alone = cases.device_us(config, m, layer), cases.device_us(gemm_of(eager), m, layer, "gemm")
    bf16 = cases.device_us("torch-bf16", m, layer)
    if whole is None or alone is None or bf16 is None:
        return Unknown(f"the FP8 product alone was not timed at {shape_text(m, layer)}")
    overhead = whole.median - alone.median
    if overhead < LEAST_SHARE * whole.median or not gains(whole, alone):
        return None
    static = cases.device_us("torch-fp8-tensorwise-static+compile", m, layer)
    gain = speedup(whole, static) if static else None
    how = "compiled" if config == compiled else "eager"
    evidence = [
        line(f"{shape_text(m, layer)}, BF16", bf16),
        line("FP8 product alone", alone, f", {speedup(bf16, alone).median:.2f}x"),
        line(f"FP8 layer, {how}", whole, f", {speedup(bf16, whole).median:.2f}x"),
    ]
    if static:
        evidence.append(
            line("with one static scale a tensor, compiled", static, f", {speedup(bf16, static).median:.2f}x")
        )
    return Finding(
        title=f"Quantising takes {overhead / whole.median:.0%} of an FP8 layer, {how}",
        evidence=tuple(evidence),
        actions=(
            Action("For inference, calibrate one static scale a tensor and check the quality"),
            Action("Quantise an input once for all layers that read it (fuse query, key and value)"),
        ),
        gain=Gain(gain.median, config, "measured", label(config)) if gain and static and gains(whole, static) else None,
    )


@rule("LIN001", "small-shapes", Severity.INFO, scope="usage")
def small_shapes(linear: Linear) -> Verdict:
    """Below a number of tokens, FP8 gains nothing here.

    What it means: for each layer (K x N) there is a number of tokens M, the break-even, from which the best FP8
    configuration is faster than BF16. Below it, fixed costs (quantising, launching) outweigh the faster product.

    Why it costs time: a small product takes a few microseconds in either format; FP8 adds a kernel before it.

    What to do: use BF16 below the break-even, give the layer more tokens (a larger batch, packed sequences), or leave
    the smallest layers in BF16 (`filter_fn` of torchao's quantize_).

    Sources: measured here at several M, interpolated between neighbours on the logarithm of M; "device" is kernel
    time, "call" is what a Python loop over this one layer sees. Public cases: meta-pytorch/float8_experimental#280.
    """
    if (missing := not_measured(linear)) is not None:
        return missing
    cases, eager, _, _ = typical(linear)
    rows = [row for row in break_evens(cases, eager) if cases.compared(row[0])]
    if not rows:
        return Unknown("no layer was timed both in FP8 and in BF16")
    losing = [row for row in rows if row[1].device is None or row[1].device > row[1].smallest]
    if not losing:
        return None
    words = [f"Linear({k}, {n}) {_gains_from(even.device)}" for (k, n), even in losing[:2]]
    return Finding(
        title=f"Small shapes: {' and '.join(words)}",
        evidence=tuple(
            Evidence(
                f"Linear({k}, {n}): break-even at {even.device_words()} on the device, {even.call_words()} at the call",
                even.device,
                "tokens",
                "linear.cases",
            )
            for (k, n), even in rows
        ),
        actions=(Action("Use BF16 below the break-even; batch or pack tokens to get above it"),),
    )


def _gains_from(tokens: int | None) -> str:
    return "gains nothing at any measured size" if tokens is None else f"gains only from about {_round(tokens)} tokens"


@dataclass(frozen=True)
class BreakEven:
    """From which M on compiled FP8 gains, and the smallest M measured; None where it gains at no measured M.

    At the call it is a range: from the M at which the intervals allow a gain to the one at which they demand it.
    """

    smallest: int
    device: int | None
    call_from: int | None
    call_to: int | None
    calls_timed: bool = True

    def device_words(self) -> str:
        """The break-even on the device in words."""
        return self._words(self.device)

    def call_words(self) -> str:
        """The break-even at the call in words."""
        if not self.calls_timed:
            return "not timed"
        if self.call_from is None or self.call_from == self.call_to:
            return self._words(self.call_from)
        upper = "no measured M" if self.call_to is None else _round(self.call_to)
        return f"{self._words(self.call_from)} to {upper}"

    def _words(self, tokens: int | None) -> str:
        if tokens is None:
            return "no measured M"
        return f"M = {_round(tokens)}" if tokens > self.smallest else f"M = {tokens} (the smallest measured) or fewer"


def break_evens(cases: Cases, eager: str) -> list[tuple[Layer, BreakEven]]:
    """The break-even of each layer that was timed both in FP8 and in BF16: one that refuses FP8 has none."""
    return [
        (layer, break_even_of(cases, eager, layer))
        for layer in cases.layers()
        if any(any(cases.speedups(f"{eager}{how}", "torch-bf16", layer)) for how in ("+compile", ""))
    ]


def break_even_of(cases: Cases, eager: str, layer: Layer) -> BreakEven:
    """The break-even of compiled FP8 (eager where nothing was compiled), on the device and at the call."""
    config = f"{eager}+compile"
    if not any(cases.get(config, m, layer) for m in cases.tokens(layer)):
        config = eager
    on_device = [(m, ratio.median) for m, ratio in cases.speedups(config, "torch-bf16", layer)]
    at_call = []
    for m in cases.tokens(layer):
        fp8, bf16 = cases.get(config, m, layer), cases.get("torch-bf16", m, layer)
        fast, slow = time_of(fp8.call_us if fp8 else None), time_of(bf16.call_us if bf16 else None)
        if fast and slow:
            at_call.append((m, speedup(slow, fast)))
    return BreakEven(
        smallest=min(cases.tokens(layer)),
        device=break_even(on_device),
        call_from=break_even([(m, ratio.high) for m, ratio in at_call]),
        call_to=break_even([(m, ratio.low) for m, ratio in at_call]),
        calls_timed=bool(at_call),
    )


def _round(tokens: int) -> str:
    """Two significant digits: the break-even is interpolated."""
    return f"{float(f'{tokens:.2g}'):,.0f}"


@rule("LIN004", "cpu-launch-bound", Severity.INFO, scope="usage")
def cpu_launch_bound(linear: Linear) -> Verdict:
    """The host launches FP8 work more slowly than the GPU does it.

    What it means: the same call takes longer on the host's clock than on the device, and the host spends that time
    asking for work: the GPU waits between kernels.

    Why it costs time: each operation costs the host several microseconds, an FP8 layer has more of them than a BF16
    layer, and a compiled function checks its guards at every call. Small shapes finish before the next one is asked
    for.

    What to do: record the work as a CUDA graph (`torch.compile(model, mode="reduce-overhead")`, or
    torch.cuda.CUDAGraph), which launches everything at once. Compile whole blocks rather than single layers: the
    guards are then paid once a block. Or give each call more tokens.

    Sources: measured here: the call in a Python loop, the same call's device time, and its replay as a CUDA graph.
    How much a model gains depends on how much of it becomes one graph, so no gain is promised. Public cases:
    NVIDIA/TransformerEngine#836, NVIDIA/TransformerEngine#445.
    """
    if (missing := not_measured(linear)) is not None:
        return missing
    cases, eager, _, layer = typical(linear)
    config = f"{eager}+compile"
    compiled = [c for m in cases.tokens(layer) if (c := cases.get(config, m, layer))]
    if not compiled:
        return Unknown("no compiled FP8 layer was timed")
    if not any(c.call_us and c.host_us for c in compiled):
        return Unknown("the calls of the compiled FP8 layer were not timed")
    bound = [c for c in compiled if waits_for_host(c)]
    if not bound:
        return None
    worst = bound[-1]
    assert worst.m is not None
    bf16 = cases.get("torch-bf16", worst.m, layer)
    graph = cases.get(f"{config}+cudagraph", worst.m, layer)
    evidence = [
        Evidence(
            f"{shape_text(worst.m, layer)}, FP8 compiled: {us(worst.call_us)} a call for {us(worst.device_us)} of work",
            worst.call_us.median if worst.call_us else None,
            "us",
            "linear.cases",
        )
    ]
    if bf16 and bf16.call_us:
        evidence.append(line("BF16, the same loop", bf16.call_us, " a call"))
    if graph and graph.call_us:
        evidence.append(line("FP8 compiled, as a CUDA graph", graph.call_us, " a call"))
    launch = linear.ceilings.launch_us if linear.ceilings else None
    if launch:
        evidence.append(Evidence(f"one launched operation costs this host {us(launch)}", launch.median, "us"))
    return Finding(
        title=f"Called alone with {worst.m:,} tokens or fewer, a compiled FP8 layer waits for the host",
        evidence=tuple(evidence),
        actions=(
            Action(
                "Replay the work as a CUDA graph, and compile whole blocks",
                'model = torch.compile(model, mode="reduce-overhead")',
            ),
        ),
    )
