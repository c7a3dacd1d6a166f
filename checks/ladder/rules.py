"""What the rungs of a workload teach."""

from __future__ import annotations

from fp8doctor.checks.ladder.advice import trains
from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.ladder.naming import capture, compile_each_block, fuse_lora, how, label, number_format
from fp8doctor.checks.ladder.per_step import find, gain, line, per_step, times
from fp8doctor.checks.ladder.slugs import BASELINE, config_of
from fp8doctor.checks.ladder.winners import (
    GRAPH_GAIN,
    SIXTEEN_BIT,
    advised,
    baseline,
    competing,
    forced_attentions,
    gains,
    ok,
    sixteen_bit,
    waits_for_host,
)
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, RuleResult, Severity, Unknown, Verdict
from fp8doctor.registry import rule

# A first call that takes as long as this many steps, and these seconds, is worth telling.
LONG_FIRST_CALL_STEPS, LONG_FIRST_CALL_S = 50, 5.0


@rule("LAD002", "not-compiled", Severity.INFO, scope="usage")
def eager_fp8(ladder: Ladder) -> RuleResult:
    """FP8 without torch.compile makes the whole step slower than BF16.

    What it means: the same model was run in FP8 eager and compiled. Eager, each layer finds its scales and casts with
    separate kernels that read and write the activation several times.

    Why it costs time: those passes take more than the faster product gives back.

    What to do: compile the model, or each of its repeated blocks (regional compilation: seconds instead of minutes).
    Where that alone does not make FP8 faster than the best 16-bit configuration, use the one that is named.

    Sources: measured here on whole steps. pytorch/ao says the same of its training path: "performance is best with
    torch.compile" (torchao/float8/README.md).
    """

    def judge(step: str) -> Verdict:
        bf16 = baseline(ladder, step)
        for base in ("torchao-fp8-rowwise", "torchao-fp8-tensorwise", "torchao-fp8train-tensorwise"):
            eager, compiled = find(ladder, step, base), find(ladder, step, f"{base}+compile")
            if bf16 and eager and compiled and gains(eager, bf16) and gains(eager, compiled):
                return _eager_and_compiled(ladder, step, bf16, eager, compiled)
        return None if bf16 else Unknown(f"{step}: BF16 was not measured")

    return per_step(ladder, judge)


def _eager_and_compiled(ladder: Ladder, step: str, bf16: Rung, eager: Rung, compiled: Rung) -> Finding:
    """Compiling is the cure only where it ends ahead of every 16-bit configuration."""
    twin = find(ladder, step, f"{BASELINE}+compile")
    factor = f"{times(bf16, compiled):.2f}x"
    beside = f"; BF16 compiled at {times(bf16, twin):.2f}x" if twin else ""
    best = advised(ladder, step)
    pays = all(gains(rival, compiled) for rival in sixteen_bit(ladder, step)) or best is None
    if best is None or pays:
        action, gained = Action("Compile each repeated block", compile_each_block(ladder.model_class)), compiled
    else:
        in_16_bit = number_format(best.config or "") in SIXTEEN_BIT
        behind = ", no faster than 16-bit" if in_16_bit else ""
        code = how(best.config or "", ladder.model_class, trains=trains(ladder.workload, step))
        action = Action(f"Compiling alone leaves it at {factor}{behind}: use {label(best.config or '')}", code)
        gained = best
    return Finding(
        title=f"{ladder.workload}, {step}: eager FP8 runs at {times(bf16, eager):.2f}x BF16, compiled at"
        f" {factor}{beside}",
        evidence=tuple(line(rung) for rung in dict.fromkeys(filter(None, (bf16, twin, eager, compiled, gained)))),
        actions=(action,),
        gain=gain(eager, compiled) if pays else None,
        about=f"step:{step}",
    )


@rule("LAD003", "cpu-launch-bound", Severity.INFO, scope="usage")
def held_by_host(ladder: Ladder) -> RuleResult:
    """The whole step waits for the host, and a CUDA graph is faster.

    What it means: the host needs as long to ask for a step as the step takes, and the same step captured as a CUDA
    graph takes less.

    Why it costs time: the GPU is idle between kernels. FP8 then gains nothing: it shortens kernels that do not hold
    the step.

    What to do: capture the step (torch.cuda.graph); enlarge the batch.

    Sources: measured here: the host's time for a step, and the same step replayed; a graph that gains less than 5 %
    is taken to show that the host did not hold the step. NVIDIA/TransformerEngine#445, #761.
    """

    def judge(step: str) -> Verdict:
        best = None
        for rung in ok(ladder, step):
            graph = find(ladder, step, f"{rung.config}+cudagraph")
            if graph is None or rung.host_ms is None or rung.step_ms is None:
                continue
            held = waits_for_host(rung) and gains(rung, graph) and times(rung, graph) >= GRAPH_GAIN
            if held and (best is None or times(rung, graph) > times(*best)):
                best = (rung, graph)
        if best is None:
            return None if baseline(ladder, step) else Unknown(f"{step}: BF16 was not measured")
        rung, graph = best
        assert rung.host_ms is not None
        host = rung.host_ms.median
        return Finding(
            title=f"{ladder.workload}, {step}: with {label(rung.config or '')} the step waits for the host;"
            f" as a CUDA graph it is {times(rung, graph):.2f}x as fast",
            evidence=(Evidence(f"host: {host:.2f} ms to ask for a step", host, "ms"), line(rung), line(graph)),
            actions=(
                Action(
                    "Capture the step as a CUDA graph",
                    capture(graph.config or "", trains=trains(ladder.workload, step)),
                ),
            ),
            gain=gain(rung, graph),
            about=f"step:{step}",
        )

    return per_step(ladder, judge)


@rule("LAD004", "lora-unfused", Severity.INFO, scope="usage")
def unfused_lora(ladder: Ladder) -> RuleResult:
    """A LoRA that is not fused into the weights slows every step down.

    What it means: each linear layer has two small layers beside it, and their results are added.

    Why it costs time: two more products and an addition for each layer, as many kernels more to launch.

    What to do: fuse it (`pipe.fuse_lora()`, or peft's `merge_and_unload()`), in BF16, before quantising; keep it
    unfused only where adapters are exchanged often.

    Sources: measured here with a rank of 16 on every linear layer of the blocks.
    """

    def judge(step: str) -> Verdict:
        loose, fused = find(ladder, step, "torch-bf16+lora"), find(ladder, step, "torch-bf16+lora-fused")
        if loose is None or fused is None:
            return NotApplicable(f"{step}: no LoRA was measured")
        if not gains(loose, fused):
            return None
        return Finding(
            title=f"{ladder.workload}, {step}: an unfused LoRA costs {1 - times(fused, loose):.0%} of the speed",
            evidence=(line(loose), line(fused)),
            actions=(
                Action("Fuse the LoRA into the weights, in BF16, before quantising", fuse_lora(ladder.model_class)),
            ),
            gain=gain(loose, fused),
            about=f"step:{step}",
        )

    return per_step(ladder, judge)


@rule("LAD005", "jit-warmup-counted", Severity.INFO, scope="usage")
def long_first_call(ladder: Ladder) -> RuleResult:
    """The first call of the compiled configuration that is advised takes as long as many steps.

    What it means: torch.compile compiles in the first call; a benchmark that counts it measures the compiler.

    Why it costs time: once per process and shape, and again where a guard fails. torchao's own Inductor settings make
    the compiler try many more variants.

    What to do: warm up before timing; keep the compile cache (TORCHINDUCTOR_CACHE_DIR) on a disk that lasts; compile
    blocks, not the whole model; pass set_inductor_config=False to torchao's configuration while you experiment.

    Sources: measured here: first call, steady step, and the number of steps after which compiling has paid.
    """

    def judge(step: str) -> Verdict:
        bf16, best = baseline(ladder, step), advised(ladder, step)
        if bf16 is None:
            return Unknown(f"{step}: BF16 was not measured")
        # A graph is captured of code that was compiled before, for the same configuration without it.
        best = best and (find(ladder, step, (best.config or "").removesuffix("+cudagraph")) or best)
        if best is None or not best.graphs or not best.first_call_s or best.step_ms is None or bf16.step_ms is None:
            return None
        at_once = 1e3 * best.first_call_s < LONG_FIRST_CALL_STEPS * best.step_ms.median
        if at_once or best.first_call_s < LONG_FIRST_CALL_S:
            return None
        saved_s = (bf16.step_ms.median - best.step_ms.median) / 1e3
        steps = f"{float(f'{best.first_call_s / saved_s:.2g}'):,.0f}" if saved_s > 0 else ""
        pays = f" and is earned back after about {steps} steps, against eager BF16" if gains(bf16, best) else ""
        return Finding(
            title=f"{ladder.workload}, {step}: compiling {label(config_of(best.config or '').base)} takes"
            f" {best.first_call_s:.0f} s once{pays}",
            evidence=(
                Evidence(f"first call: {best.first_call_s:.1f} s", best.first_call_s, "s", "ladder.rungs"),
                Evidence(f"graphs compiled: {best.graphs}, graph breaks: {best.graph_breaks}", best.graphs),
                line(best),
                line(bf16),
            ),
            actions=(Action("Leave the first call out of a comparison, and keep the compile cache"),),
            about=f"step:{step}",
        )

    return per_step(ladder, judge)


@rule("LAD006", "weight-only-dequant", Severity.INFO, scope="usage")
def stored_in_fp8(ladder: Ladder) -> RuleResult:
    """FP8 storage alone saves memory and costs time.

    What it means: weights lie in FP8 and are turned to BF16 before each product, which runs in BF16.

    Why it costs time: the conversion comes on top, and no product is faster.

    What to do: use it to make a model fit; for speed, let the products run in FP8 (dynamic scaling, compiled).

    Sources: measured here on whole steps, peak memory beside the time.
    """

    def judge(step: str) -> Verdict:
        bf16 = baseline(ladder, step)
        if bf16 is None:
            return Unknown(f"{step}: BF16 was not measured")
        stored = [
            rung
            for rung in ok(ladder, step)
            if rung.config in ("torchao-fp8-weightonly", "diffusers-fp8-storage") and gains(rung, bf16)
        ]
        if not stored:
            return None
        worst = max(stored, key=lambda rung: rung.step_ms.median if rung.step_ms else 0.0)
        saved = (
            f", and saves {bf16.peak_gb - worst.peak_gb:.1f} of {bf16.peak_gb:.1f} GB"
            if bf16.peak_gb and worst.peak_gb and bf16.peak_gb > worst.peak_gb
            else ""
        )
        return Finding(
            title=f"{ladder.workload}, {step}: {label(worst.config or '')} runs at {times(bf16, worst):.2f}x{saved}",
            evidence=(line(bf16), *(line(rung) for rung in stored)),
            actions=(Action("For speed use dynamic scaling with torch.compile; keep storage alone for fitting"),),
            about=f"step:{step}",
        )

    return per_step(ladder, judge)


@rule("LAD007", "small-shapes", Severity.INFO, scope="usage")
def nothing_gained(ladder: Ladder) -> RuleResult:
    """No FP8 configuration makes this workload's step faster than its best BF16.

    What it means: every FP8 configuration that ran was compared with the best BF16 one, compiled and captured.

    Why it costs time: the layers are too small, or too little of the step, for FP8 to pay for its quantising.

    What to do: stay with the BF16 configuration that won; enlarge the batch or the layers' width; keep FP8 for memory.

    Sources: measured here on whole steps.
    """

    def judge(step: str) -> Verdict:
        sixteen, chosen = sixteen_bit(ladder, step), advised(ladder, step)
        eight = [r for r in competing(ladder, step) if number_format(r.config or "") in ("fp8", "mxfp8", "nvfp4")]
        if not sixteen or not eight:
            return Unknown(f"{step}: not both BF16 and FP8 were measured")
        best, other = (min(some, key=lambda r: r.step_ms.median if r.step_ms else 0.0) for some in (sixteen, eight))
        if gains(best, other):
            return None
        shown = dict.fromkeys(filter(None, (chosen, best, other)))
        return Finding(
            title=f"{ladder.workload}, {step}: the best FP8 runs at {times(best, other):.2f}x the speed of the best"
            f" {number_format(best.config or '').upper()}",
            evidence=tuple(line(rung) for rung in shown),
            actions=(Action(f"Use {label((chosen or best).config or '')}"),),
            about=f"step:{step}",
        )

    return per_step(ladder, judge)


@rule("LAD009", "attention-backend-slow", Severity.INFO, scope="usage")
def forced_attention(ladder: Ladder) -> RuleResult:
    """An attention backend that people force makes the whole step slower than torch's own pick.

    What it means: the step was run with each of torch's attention backends forced, and as torch picks by itself.

    Why it costs time: an older kernel takes longer, in every layer.

    What to do: leave the choice to torch where its pick is the fastest; force the one that is faster here otherwise.

    Sources: measured here on whole steps.
    """

    def judge(step: str) -> Verdict:
        bf16 = baseline(ladder, step)
        if bf16 is None:
            return Unknown(f"{step}: BF16 was not measured")
        forced = forced_attentions(ladder, step)
        if any(waits_for_host(rung) for rung in (bf16, *forced)):
            return NotApplicable(f"{step}: the step waits for the host, not for attention")
        faster = [r for r in forced if gains(bf16, r)]
        slower = [r for r in forced if gains(r, bf16) and not (r.config or "").endswith("math")]
        if faster:
            best = min(faster, key=lambda r: r.step_ms.median if r.step_ms else 0.0)
            name = label(best.config or "").partition(" + ")[2]
            return Finding(
                title=f"{ladder.workload}, {step}: {name} makes the step {times(bf16, best):.2f}x as fast as torch's"
                " pick",
                evidence=(line(bf16), line(best)),
                actions=(Action(f"Force {name}", how(best.config or "", ladder.model_class)),),
                gain=gain(bf16, best),
                about=f"step:{step}",
            )
        if slower:
            names = ", ".join(f"{label(r.config or '').partition(' + ')[2]} {times(bf16, r):.2f}x" for r in slower)
            return Finding(
                title=f"{ladder.workload}, {step}: forcing another attention than torch's pick costs time ({names})",
                evidence=(line(bf16), *(line(r) for r in slower)),
                actions=(Action("Leave the choice of the attention backend to torch"),),
                about=f"step:{step}",
            )
        return None

    return per_step(ladder, judge)
