"""What the rungs of a workload teach, and which of them went wrong."""

from __future__ import annotations

from collections.abc import Callable

from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.ladder.naming import label, number_format
from fp8doctor.checks.ladder.winners import (
    baseline,
    competing,
    fastest,
    forced_attentions,
    gains,
    ok,
    waits_for_host,
)
from fp8doctor.checks.workload.catalogue import BUILT_IN
from fp8doctor.model import Action, Evidence, Finding, Gain, NotApplicable, RuleResult, Severity, Unknown, Verdict
from fp8doctor.registry import rule

# A first call that takes as long as this many steps, and these seconds, is worth telling.
LONG_FIRST_CALL_STEPS, LONG_FIRST_CALL_S = 50, 5.0


def _per_step(ladder: Ladder, judge: Callable[[str], Verdict]) -> RuleResult:
    if ladder.measurable is False:
        return NotApplicable(ladder.why_not or "no step was measured")
    verdicts = [judge(step) for step in ladder.tokens or {}]
    return verdicts or Unknown("no step was measured")


def _find(ladder: Ladder, step: str, config: str) -> Rung | None:
    return next((rung for rung in ok(ladder, step) if rung.config == config), None)


def _times(slow: Rung, fast: Rung) -> float:
    assert slow.step_ms is not None
    assert fast.step_ms is not None
    return round(slow.step_ms.median / fast.step_ms.median, 3)


def _line(rung: Rung) -> Evidence:
    assert rung.step_ms is not None
    ms = rung.step_ms.median
    return Evidence(f"{rung.config}: {ms:.2f} ms a step", ms, "ms", "ladder.rungs")


def _gain(slow: Rung, fast: Rung) -> Gain:
    return Gain(_times(slow, fast), slow.config or "", "measured")


@rule("LAD002", "not-compiled", Severity.INFO, scope="usage")
def eager_fp8(ladder: Ladder) -> RuleResult:
    """FP8 without torch.compile makes the whole step slower than BF16.

    What it means: the same model was run in FP8 eager and compiled. Eager, each layer finds its scales and casts with
    separate kernels that read and write the activation several times.

    Why it costs time: those passes take more than the faster product gives back.

    What to do: compile the model, or each of its repeated blocks (regional compilation: seconds instead of minutes).

    Sources: measured here on whole steps. pytorch/ao says the same of its training path: "performance is best with
    torch.compile" (torchao/float8/README.md).
    """

    def judge(step: str) -> Verdict:
        bf16 = baseline(ladder, step)
        for base in ("torchao-fp8-rowwise", "torchao-fp8-tensorwise", "torchao-fp8train-tensorwise"):
            eager, compiled = _find(ladder, step, base), _find(ladder, step, f"{base}+compile")
            if bf16 and eager and compiled and gains(eager, bf16) and gains(eager, compiled):
                return Finding(
                    title=f"{ladder.workload}, {step}: eager FP8 runs at {_times(bf16, eager):.2f}x BF16;"
                    f" compiled at {_times(bf16, compiled):.2f}x",
                    evidence=(_line(bf16), _line(eager), _line(compiled)),
                    actions=(Action("Compile each repeated block", "for block in blocks: block.compile()"),),
                    gain=_gain(eager, compiled),
                    about=f"step:{step}",
                )
        return None if bf16 else Unknown(f"{step}: BF16 was not measured")

    return _per_step(ladder, judge)


@rule("LAD003", "cpu-launch-bound", Severity.INFO, scope="usage")
def held_by_host(ladder: Ladder) -> RuleResult:
    """The whole step waits for the host, and a CUDA graph is faster.

    What it means: the host needs as long to ask for a step as the step takes, and the same step captured as a CUDA
    graph takes less.

    Why it costs time: the GPU is idle between kernels. FP8 then gains nothing: it shortens kernels that do not hold
    the step.

    What to do: capture the step (torch.cuda.graph, or torch.compile with mode="reduce-overhead"); enlarge the batch.

    Sources: measured here: the host's time for a step, and the same step replayed. NVIDIA/TransformerEngine#445, #761.
    """

    def judge(step: str) -> Verdict:
        best = None
        for rung in ok(ladder, step):
            graph = _find(ladder, step, f"{rung.config}+cudagraph")
            if graph is None or rung.host_ms is None or rung.step_ms is None:
                continue
            if waits_for_host(rung) and gains(rung, graph) and (best is None or _times(rung, graph) > _times(*best)):
                best = (rung, graph)
        if best is None:
            return None if baseline(ladder, step) else Unknown(f"{step}: BF16 was not measured")
        rung, graph = best
        assert rung.host_ms is not None
        host = rung.host_ms.median
        return Finding(
            title=f"{ladder.workload}, {step}: with {label(rung.config or '')} the step waits for the host;"
            f" as a CUDA graph it is {_times(rung, graph):.2f}x as fast",
            evidence=(Evidence(f"host: {host:.2f} ms to ask for a step", host, "ms"), _line(rung), _line(graph)),
            actions=(Action("Capture the step as a CUDA graph", 'torch.compile(model, mode="reduce-overhead")'),),
            gain=_gain(rung, graph),
            about=f"step:{step}",
        )

    return _per_step(ladder, judge)


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
        loose, fused = _find(ladder, step, "torch-bf16+lora"), _find(ladder, step, "torch-bf16+lora-fused")
        if loose is None or fused is None:
            return NotApplicable(f"{step}: no LoRA was measured")
        if not gains(loose, fused):
            return None
        return Finding(
            title=f"{ladder.workload}, {step}: an unfused LoRA costs {1 - _times(fused, loose):.0%} of the speed",
            evidence=(_line(loose), _line(fused)),
            actions=(Action("Fuse the LoRA into the weights, in BF16, before quantising", "pipe.fuse_lora()"),),
            gain=_gain(loose, fused),
            about=f"step:{step}",
        )

    return _per_step(ladder, judge)


@rule("LAD005", "jit-warmup-counted", Severity.INFO, scope="usage")
def long_first_call(ladder: Ladder) -> RuleResult:
    """The first call of a compiled model takes as long as many steps.

    What it means: torch.compile compiles in the first call; a benchmark that counts it measures the compiler.

    Why it costs time: once per process and shape, and again where a guard fails. torchao's own Inductor settings make
    the compiler try many more variants.

    What to do: warm up before timing; keep the compile cache (TORCHINDUCTOR_CACHE_DIR) on a disk that lasts; compile
    blocks, not the whole model; pass set_inductor_config=False to torchao's configuration while you experiment.

    Sources: measured here: first call, steady step, and the number of steps after which compiling has paid.
    """

    def judge(step: str) -> Verdict:
        bf16, best = baseline(ladder, step), None
        for rung in ok(ladder, step):
            if rung.first_call_s and rung.graphs and rung.step_ms and rung.first_call_s >= LONG_FIRST_CALL_S:
                steps = 1e3 * rung.first_call_s / rung.step_ms.median
                if steps >= LONG_FIRST_CALL_STEPS and (best is None or rung.first_call_s > (best.first_call_s or 0)):
                    best = rung
        if best is None or bf16 is None or best.first_call_s is None:
            return None if bf16 else Unknown(f"{step}: BF16 was not measured")
        assert best.step_ms is not None
        assert bf16.step_ms is not None
        saved_s = (bf16.step_ms.median - best.step_ms.median) / 1e3
        pays = f"; it has paid after {best.first_call_s / saved_s:,.0f} steps" if saved_s > 0 else ""
        return Finding(
            title=f"{ladder.workload}, {step}: the first call of {label(best.config or '')} takes"
            f" {best.first_call_s:.0f} s{pays}",
            evidence=(
                Evidence(f"first call: {best.first_call_s:.1f} s", best.first_call_s, "s", "ladder.rungs"),
                Evidence(f"graphs compiled: {best.graphs}, graph breaks: {best.graph_breaks}", best.graphs),
                _line(best),
                _line(bf16),
            ),
            actions=(Action("Leave the first call out of a comparison, and keep the compile cache"),),
            about=f"step:{step}",
        )

    return _per_step(ladder, judge)


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
            title=f"{ladder.workload}, {step}: {label(worst.config or '')} runs at {_times(bf16, worst):.2f}x{saved}",
            evidence=(_line(bf16), *(_line(rung) for rung in stored)),
            actions=(Action("For speed use dynamic scaling with torch.compile; keep storage alone for fitting"),),
            about=f"step:{step}",
        )

    return _per_step(ladder, judge)


@rule("LAD007", "small-shapes", Severity.INFO, scope="usage")
def nothing_gained(ladder: Ladder) -> RuleResult:
    """No FP8 configuration makes this workload's step faster than its best BF16.

    What it means: every FP8 configuration that ran was compared with the best BF16 one, compiled and captured.

    Why it costs time: the layers are too small, or too little of the step, for FP8 to pay for its quantising.

    What to do: stay with the BF16 configuration that won; enlarge the batch or the layers' width; keep FP8 for memory.

    Sources: measured here on whole steps.
    """

    def judge(step: str) -> Verdict:
        sixteen = [r for r in competing(ladder, step) if number_format(r.config or "") in ("bf16", "fp16")]
        eight = [r for r in competing(ladder, step) if number_format(r.config or "") in ("fp8", "mxfp8", "nvfp4")]
        if not sixteen or not eight:
            return Unknown(f"{step}: not both BF16 and FP8 were measured")
        best, other = (min(some, key=lambda r: r.step_ms.median if r.step_ms else 0.0) for some in (sixteen, eight))
        if gains(best, other):
            return None
        return Finding(
            title=f"{ladder.workload}, {step}: the best FP8 runs at {_times(best, other):.2f}x the speed of"
            f" {label(best.config or '')}",
            evidence=(_line(best), _line(other)),
            actions=(Action(f"Use {label(best.config or '')}"),),
            about=f"step:{step}",
        )

    return _per_step(ladder, judge)


@rule("LAD008", "silent-wrong-result", Severity.WARNING, scope="usage")
def wrong_rungs(ladder: Ladder) -> RuleResult:
    """A configuration ran, and its result is further from BF16 than its format explains.

    What it means: the step's output differs from BF16's by more than twice what rounding to this format costs a
    layer, as far as this model makes rounding grow; or it holds values that are not finite.

    Why it costs time: a fast wrong result is worth nothing; it is never advised.

    What to do: leave this configuration alone on this model, or find the layers that it hurts.

    Sources: the formats' errors are recomputed by a test (checks/torch_build/numerics.py); how rounding grows in this
    model is measured as BF16's own distance from blocks that compute in FP32.
    """

    def judge(step: str) -> Verdict:
        wrong = [rung for rung in ladder.rungs or () if rung.step == step and rung.outcome == "wrong"]
        if not wrong:
            return None if ok(ladder, step) else Unknown(f"{step}: nothing was measured")
        return Finding(
            title=f"{ladder.workload}, {step}: wrong results from"
            f" {', '.join(label(rung.config or '') for rung in wrong)}",
            evidence=tuple(
                Evidence(
                    f"{rung.config}: "
                    + (rung.error or f"error {rung.relative_error} against BF16, at most {rung.relative_error_limit}"),
                    rung.relative_error,
                    None,
                    "ladder.rungs",
                )
                for rung in wrong
            ),
            actions=(Action("Do not use it for this model as it is"),),
            about=f"step:{step}",
        )

    return _per_step(ladder, judge)


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
                title=f"{ladder.workload}, {step}: {name} makes the step {_times(bf16, best):.2f}x as fast as torch's"
                " pick",
                evidence=(_line(bf16), _line(best)),
                actions=(Action(f"Force it: {(best.config or '').rpartition('+')[2]}"),),
                gain=_gain(bf16, best),
                about=f"step:{step}",
            )
        if slower:
            names = ", ".join(f"{label(r.config or '').partition(' + ')[2]} {_times(bf16, r):.2f}x" for r in slower)
            return Finding(
                title=f"{ladder.workload}, {step}: forcing another attention than torch's pick costs time ({names})",
                evidence=(_line(bf16), *(_line(r) for r in slower)),
                actions=(Action("Leave the choice of the attention backend to torch"),),
                about=f"step:{step}",
            )
        return None

    return _per_step(ladder, judge)


@rule("LAD010", "rungs-not-measured", Severity.INFO, scope="usage")
def left_out(ladder: Ladder) -> RuleResult:
    """Some configurations could not be measured.

    What it means: a library is not there or refused, memory did not suffice, a rung took longer than its share, or the
    time budget was spent. Each is listed with its reason.

    Why it costs time: it does not; but the best configuration may be among them.

    What to do: give more time (--budget), keep what is done (--resume), install what is missing, or free memory.

    Sources: what the libraries themselves said.
    """
    if ladder.measurable is False:
        return NotApplicable(ladder.why_not or "no step was measured")
    failed = [r for r in ladder.rungs or () if r.outcome not in ("ok", "wrong", None)]
    serious = [r for r in failed if r.outcome in ("out-of-memory", "crashed", "too-long", "error")]
    left = ladder.not_measured or ()
    if not serious and not left:
        return None
    best = [fastest(ladder, step) for step in ladder.tokens or {}]
    command = f"fp8doctor bench {ladder.workload} -o results --resume" if ladder.workload in BUILT_IN else None
    return Finding(
        title=f"{len(serious) + len(left)} configurations of {ladder.workload} were not measured",
        evidence=(
            *(Evidence(f"{r.config} @ {r.step}: {r.outcome}, {r.error}", r.outcome) for r in serious),
            *(Evidence(words) for words in left),
        ),
        actions=(Action("Run it again with more time; --resume keeps the finished rungs that -o wrote", command),)
        if any(best)
        else (Action("See what the libraries said"),),
    )
