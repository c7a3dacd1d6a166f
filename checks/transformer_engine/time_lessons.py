"""What does FP8 with te.Linear cost here: the host's time, casting the weight, small shapes, the recipe? Lessons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fp8doctor.checks.linear.cases import gains, time_of, us, waits_for_host
from fp8doctor.checks.transformer_engine.cases import (
    FACT,
    Times,
    compared,
    factor,
    fastest,
    host_parts,
    is_faster,
    line,
    listed,
    quickest_to_ask_for,
    shape_of,
    told,
    what_counts,
)
from fp8doctor.checks.transformer_engine.configurations import (
    BF16,
    CACHED,
    GRAPH,
    STORED,
    TE_BF16,
    label,
    scaling_of,
    short_label,
)
from fp8doctor.checks.transformer_engine.facts import ABOUT
from fp8doctor.checks.transformer_engine.times import (
    FORWARD,
    TRAINING,
    LayerTime,
    TransformerEngineTimes,
    not_timed,
    passes_of,
)
from fp8doctor.checks.workload import WorkloadSeen
from fp8doctor.measuring.statistics import speedup
from fp8doctor.model import Action, Estimate, Evidence, Finding, Gain, NotApplicable, Severity, Shape, Unknown
from fp8doctor.registry import rule

Verdict = Finding | Unknown | NotApplicable | None

_TO_GRAPHS = Action(
    "Replay the work as a CUDA graph: the whole model, or each of its layers",
    "model = te.make_graphed_callables(model, (x,), enabled=True, recipe=recipe)",
)


@dataclass(frozen=True)
class Pair:
    """FP8 beside nn.Linear in BF16, called in the same way: both eager, or both as a CUDA graph."""

    words: str
    bf16: LayerTime
    fp8: LayerTime

    def __str__(self) -> str:
        slow, fast, _ = compared(self.bf16, self.fp8)
        recipe = short_label(self.fp8.config or "")
        return f"{self.words} BF16 {us(slow)}, FP8 {us(fast)} ({recipe}), {slow.median / fast.median:.2f}x"


@dataclass(frozen=True)
class Against:
    """FP8 beside nn.Linear in BF16 at one shape, forward and backward, in each way that was timed."""

    shape: Shape
    pairs: tuple[Pair, ...]

    @property
    def bf16(self) -> LayerTime:
        """BF16 as it is fastest."""
        return min((pair.bf16 for pair in self.pairs), key=lambda case: what_counts(case).median)

    @property
    def fp8(self) -> LayerTime:
        """FP8 as it is fastest."""
        return min((pair.fp8 for pair in self.pairs), key=lambda case: what_counts(case).median)

    @property
    def wins(self) -> bool:
        """Whether the best of FP8 is faster than the best of BF16 beyond the noise."""
        return is_faster(self.fp8, self.bf16)

    @property
    def ratio(self) -> float:
        """How many times as fast the best of FP8 is."""
        return factor(self.bf16, self.fp8).median


def against_bf16(times: Times) -> list[Against]:
    """FP8 beside BF16 at each shape where both were timed, the one with the least work first."""
    found = []
    for shape in times.by_work():
        eager = times.get(BF16, shape)
        pairs = [
            Pair(words, bf16, fp8)
            for words, bf16, suffixes in (
                ("eager:", eager, ()),
                ("as a CUDA graph:", times.get(f"{BF16}+{GRAPH}", shape) or eager, (GRAPH,)),
            )
            if bf16 is not None and (fp8 := fastest(times.recipes(shape, TRAINING, *suffixes))) is not None
        ]
        if pairs:
            found.append(Against(shape, tuple(pairs)))
    return found


def _runs(seen: WorkloadSeen | None) -> tuple[str, ...]:
    return passes_of(seen.workload if seen else None)


def _no_training(seen: WorkloadSeen | None) -> NotApplicable | None:
    return None if TRAINING in _runs(seen) else NotApplicable("the workload that was named does not train")


@rule("TE004", "cpu-launch-bound", Severity.INFO, scope="usage")
def cpu_launch_bound(times: TransformerEngineTimes, seen: WorkloadSeen | None) -> Verdict:
    """Training with te.Linear waits for the host.

    What it means: the host needs longer to ask for one forward and backward of the layer than the GPU needs to do it.
    In between the GPU is idle.

    Why it costs time: te.Linear is Python code. In FP8 it casts its input, its weight and the gradient that comes in,
    updates scales, and asks for three products, each with checks of its own: many small calls instead of nn.Linear's
    few. FP8 makes the products shorter, and this part longer. The evidence takes it apart.

    What to do: record the work as a CUDA graph, which launches everything at once (te.make_graphed_callables). Give
    each call more tokens. Where FP8 loses to BF16 even as a graph, which the evidence says, train these layers in
    BF16.

    Sources: measured here: the call in a Python loop, the same call's work on the device, and its replay as a CUDA
    graph. The gain is that of the call of one layer; a model that does more between its layers waits less. Public
    cases: NVIDIA/TransformerEngine#445, #761, #836.
    """
    if (missing := _no_training(seen) or not_timed(times)) is not None:
        return missing
    found = Times(times)
    called = {shape: case for shape in found.shapes if (case := quickest_to_ask_for(found.recipes(shape)))}
    if not called:
        return Unknown("no call of te.Linear's forward and backward in FP8 was timed")
    waiting = [shape for shape, case in called.items() if waits_for_host(case)]
    if not waiting:
        return None
    shape, case = waiting[0], called[waiting[0]]
    config = case.config or ""
    graph = found.get(f"{config}+{GRAPH}", shape) or fastest(found.recipes(shape, TRAINING, GRAPH))
    saved = _call_gain(case, graph)
    evidence = [line(f"{shape} (MxKxN), te.Linear in FP8 ({short_label(config)})", case)]
    for words, other in (("te.Linear in BF16", TE_BF16), ("nn.Linear in BF16", BF16)):
        if (twin := found.get(other, shape)) is not None:
            evidence.append(line(words, twin))
    if (parts := host_parts(found, shape, config)) is not None:
        base, forward, backward = (us(part) for part in parts)
        text = (
            f"the host asks for {us(sum(parts))} a call: {base} as in BF16, {forward} more for FP8 in the forward and"
        )
        evidence.append(Evidence(f"{text} {backward} more in the backward", sum(parts), "us", FACT))
    if graph is not None:
        sooner = f" ({saved.median:.1f}x as fast)" if saved else ""
        evidence.append(line(f"FP8 as a CUDA graph ({short_label(graph.config or '')})", graph, sooner))
    evidence.append(Evidence(_where(waiting, [s for s in called if s not in waiting]), fact=FACT))
    rows = against_bf16(found)
    if behind := [row for row in rows if row.shape in waiting and not row.wins]:
        still = ", also as a CUDA graph," if all(len(row.pairs) > 1 for row in behind) else ""
        winning = [f"{row.ratio:.2f}x as fast at {row.shape}" for row in rows if row.wins]
        ahead = f"; it is {listed(winning)}" if winning else ""
        at = listed(row.shape for row in behind)
        text = f"FP8 gains nothing over nn.Linear in BF16{still} at {at}{ahead}"
        evidence.append(Evidence(text, fact=FACT))
    actions = [_TO_GRAPHS] if graph is None or saved else []
    actions.append(Action("Give each call more tokens; where FP8 stays behind BF16, train the layer in BF16"))
    return Finding(
        title=f"Training with te.Linear waits for the host: {us(case.call_us)} a call for {us(case.device_us)} of work "
        f"at {shape}",
        evidence=tuple(evidence),
        actions=tuple(actions),
        gain=Gain(saved.median, config, "measured", label(config)) if saved else None,
        about=ABOUT,
    )


def _call_gain(eager: LayerTime, graph: LayerTime | None) -> Estimate | None:
    """How many times as fast the graph's call is, None if it is not."""
    slow, fast = time_of(eager.call_us), time_of(graph.call_us) if graph else None
    return speedup(slow, fast) if slow and fast and gains(slow, fast) else None


def _where(waiting: Sequence[Shape], working: Sequence[Shape]) -> str:
    text = f"it waits for the host at {listed(waiting)}"
    return f"{text}; at {listed(working)} the work takes longer than asking for it" if working else text


_CAST_ONCE = {
    TRAINING: Action(
        "With gradient accumulation, cast once for all microbatches", "model(x, is_first_microbatch=first)"
    ),
    FORWARD: Action(
        "For inference, make the model with its weights in FP8",
        "with torch.no_grad(), te.quantized_model_init(recipe=recipe): model = build_model()",
    ),
}


@rule("TE016", "weight-requantized-every-microbatch", Severity.INFO, scope="usage")
def weight_cast_every_time(times: TransformerEngineTimes, seen: WorkloadSeen | None) -> Verdict:
    """te.Linear casts its weight at every call.

    What it means: the weight is kept in BF16, and each forward casts it to FP8 anew, although it changes only when the
    optimizer has taken a step. With gradient accumulation that is once a microbatch, in inference once a call.

    Why it costs time: casting reads and writes the whole weight, however few tokens there are; for a backward a
    transposed copy is written as well.

    What to do: when training with gradient accumulation, pass `is_first_microbatch=True` in the first microbatch after
    a step of the optimizer and `False` in the others. For inference, make the model inside `quantized_model_init`, so
    that the weight is FP8 from the start and takes half the memory.

    Sources: measured here: the same call with the weight cast before, and with a weight that is FP8 alone. The
    arguments are described in transformer_engine/pytorch/module/linear.py and quantization.py (2.20.2). Public cases:
    NVIDIA/TransformerEngine#44, NVIDIA-NeMo/Speech#8121.
    """
    if (missing := not_timed(times)) is not None:
        return missing
    found, runs = Times(times), _runs(seen)
    pairs = [
        (plain, other)
        for shape in found.shapes
        for passes, suffix in ((TRAINING, CACHED), (FORWARD, STORED), (FORWARD, CACHED))
        if passes in runs
        for plain in found.recipes(shape, passes)
        if (other := found.get(f"{plain.config}+{suffix}", shape, passes))
    ]
    if not pairs:
        return Unknown("no call with a weight that was cast before was timed")
    paying = [(plain, other) for plain, other in pairs if is_faster(other, plain)]
    if not paying:
        return None
    plain, other = max(paying, key=lambda pair: factor(*pair).median)
    gain = factor(plain, other)
    here = [pair for pair in pairs if (shape_of(pair[0]), pair[0].config) == (shape_of(plain), plain.config)]
    where = f"{plain.m}x{plain.k}x{plain.n}"
    return Finding(
        title=f"Casting the weight anew takes {1 - 1 / gain.median:.0%} of te.Linear's {_passes(plain)} at {where}",
        evidence=tuple(
            line(f"{where}, {short_label(p.config or '')}, {_passes(p)}", p, f"; {_kept(o)}: {told(o)}")
            for p, o in here
        ),
        actions=tuple(action for passes, action in _CAST_ONCE.items() if passes in runs),
        gain=Gain(gain.median, plain.config or "", "measured", label(plain.config or "")),
        about=ABOUT,
    )


def _passes(case: LayerTime) -> str:
    return "forward + backward" if case.passes == TRAINING else "forward"


def _kept(case: LayerTime) -> str:
    return "weight stored in FP8" if STORED in (case.config or "") else "weight cast before"


@rule("TE017", "small-shapes", Severity.INFO, scope="usage")
def small_shapes(times: TransformerEngineTimes, seen: WorkloadSeen | None) -> Verdict:
    """Training with te.Linear in FP8 gains nothing at small shapes.

    What it means: at these shapes forward and backward of te.Linear, in its best recipe, eager or as a CUDA graph, is
    not faster than nn.Linear in BF16.

    Why it costs time: casting input, weight and gradient, and asking for it, takes longer than the faster products
    save. The products grow with M x K x N, the casting only with M x K, K x N and M x N.

    What to do: train such layers in BF16 (nn.Linear, or te.Linear outside of te.autocast), or give them more tokens: a
    larger batch, packed sequences.

    Sources: measured here. Eager calls count with the host's time where they wait for it, CUDA graphs with the
    device's. Public cases: huggingface/transformers#25333, verl-project/verl#7519.
    """
    if (missing := _no_training(seen) or not_timed(times)) is not None:
        return missing
    rows = against_bf16(Times(times))
    if not rows:
        return Unknown("forward and backward were not timed both in FP8 and in BF16")
    losing = [row for row in rows if not row.wins]
    if not losing:
        return None
    return Finding(
        title=_losing_title(rows, losing),
        evidence=tuple(
            Evidence(f"{row.shape}, {'; '.join(map(str, row.pairs))}", round(row.ratio, 3), "x", FACT) for row in rows
        ),
        actions=(Action("Train layers below the break-even in BF16, or give each call more tokens"),),
        about=ABOUT,
    )


def _losing_title(rows: Sequence[Against], losing: Sequence[Against]) -> str:
    winning = [row for row in rows if row.wins]
    said = "Training with te.Linear in FP8 gains nothing over nn.Linear in BF16"
    if not winning:
        return f"{said} at any measured shape, up to {rows[-1].shape}"
    if rows.index(winning[0]) < rows.index(losing[-1]):
        return f"{said} at {listed(row.shape for row in losing)}"
    return f"{said} up to {losing[-1].shape}; from {winning[0].shape} on it is {winning[0].ratio:.2f}x as fast"


@rule("TE018", "default-recipe-slower", Severity.INFO, scope="usage")
def default_recipe_slower(times: TransformerEngineTimes, seen: WorkloadSeen | None) -> Verdict:
    """Transformer Engine's default recipe is not its fastest here.

    What it means: `te.autocast` without a recipe takes the one that Transformer Engine thinks best for this GPU. At
    the shapes in the evidence another one that it allows trains the layer faster.

    Why it costs time: delayed scaling updates its scales after each forward and each backward, which the host has to
    ask for; current scaling reads each tensor twice; block scaling writes a scale a block. What is dearest depends on
    the shape and on the host.

    What to do: name the recipe (`te.autocast(recipe=...)`). Speed is not all: recipes with more scales keep more
    accuracy where a tensor has outliers, so compare the loss, too.

    Sources: measured here, forward and backward, eager. get_default_recipe and the recipes' own descriptions in
    transformer_engine/pytorch/quantization.py and common/recipe/__init__.py (2.20.2).
    """
    if (missing := _no_training(seen) or not_timed(times)) is not None:
        return missing
    default = times.default_config
    if default is None:
        return Unknown("which recipe is the default was not seen, or it is none of those that run here")
    found = Times(times)
    rows = [(shape, own, others) for shape in found.by_work() for own, others in _beside(found, shape, default)]
    if not rows:
        return Unknown("the default recipe was not timed beside another one")
    beaten = [
        (factor(own, other), shape, other) for shape, own, others in rows for other in others if is_faster(other, own)
    ]
    if not beaten:
        return None
    gain, shape, best = max(beaten, key=lambda row: row[0].median)
    return Finding(
        title=f"Transformer Engine's default, {short_label(default)}, takes {gain.median:.2f}x the time of "
        f"{short_label(best.config or '')} at {shape}",
        evidence=tuple(_recipes_at(shape, (own, *others)) for shape, own, others in rows),
        actions=(Action("Name the faster recipe", f"te.autocast(recipe={_class(best)}())"),),
        gain=Gain(gain.median, default, "measured", label(default)),
        about=ABOUT,
    )


def _beside(times: Times, shape: Shape, default: str) -> list[tuple[LayerTime, list[LayerTime]]]:
    """The default recipe's eager call at a shape and those of the others; nothing if either is missing."""
    own = times.get(default, shape)
    others = [case for case in times.recipes(shape) if case.config != default]
    return [(own, others)] if own is not None and others else []


def _recipes_at(shape: Shape, cases: Sequence[LayerTime]) -> Evidence:
    at_the_call = all(case.call_us for case in cases) and any(map(waits_for_host, cases))
    said = [f"{short_label(c.config or '')} {us(c.call_us if at_the_call else c.device_us)}" for c in cases]
    return Evidence(f"{shape}, {'a call' if at_the_call else 'work on the device'}: {', '.join(said)}", fact=FACT)


def _class(case: LayerTime) -> str:
    scaling = scaling_of(case.config)
    assert scaling is not None
    return scaling.recipe
