"""What do the trials on a model say of its layers: wrong results, layers that lose, a recipe that is slower?"""

from __future__ import annotations

from fp8doctor.checks.ladder.naming import label
from fp8doctor.checks.model.code import base_of
from fp8doctor.checks.model.layers import gains_nothing, linears, multiplying
from fp8doctor.checks.model.plan import Change, changes, gains, right, state_of
from fp8doctor.model import Action, Evidence, Finding, Gain, NotApplicable, Severity, Unknown, Verdict
from fp8doctor.observed import AS_IT_IS, LayerGain, Model, Trial
from fp8doctor.observing.looking import alike
from fp8doctor.registry import rule

# Of a step, from which on a layer that loses is worth a warning.
MUCH = 0.05
LISTED = 4


@rule("MOD040", "silent-wrong-result", Severity.ERROR, scope="usage")
def as_it_is_wrong(model: Model) -> Verdict:
    """The model's converted blocks give other results than their own weights do in BF16.

    What it means: one block was called with what the model calls it with, as it is and with its weights turned back to
    BF16. The results differ by more than the format of its products explains.

    Why it costs time: it costs results. Scales are wrong or missing, or a kernel is.

    What to do: compare the outputs of the whole model with its BF16 checkpoint; quantise anew from that.

    Sources: measured here: ||as it is - BF16|| / ||BF16|| of a block's output, against the error of the format on
    random operands, twice over, times the growth that BF16's own rounding shows in the block.
    huggingface/transformers#47030.
    """
    if not multiplying(linears(model)):
        return NotApplicable("no layer multiplies in FP8")
    trial = next((t for t in model.trials or () if t.config == AS_IT_IS), None)
    if trial is None or trial.error_limit is None:
        return Unknown("the blocks were not compared with BF16")
    if trial.outcome != "wrong":
        return None
    off = f"{trial.relative_error:.2f}" if trial.relative_error is not None else "not a number"
    return Finding(
        title=f"The model's blocks are off their own weights in BF16 by {off}",
        evidence=(
            Evidence(
                f"relative error {off}; {trial.error_limit:.2f} is the most that its format explains",
                trial.relative_error,
                fact="model.trials",
            ),
        ),
        actions=(Action("Quantise anew from the BF16 weights, and compare outputs before timing anything"),),
    )


@rule("MOD041", "layer-loses-in-fp8", Severity.INFO, scope="usage")
def inexact_layers(model: Model) -> Verdict:
    """Some layers lose more in FP8 than the format explains, on the model's own inputs.

    What it means: each layer was given the input that it has in BF16, and its FP8 output compared. Outliers in a row
    or in the weight stretch the scale, and all else is rounded to few values.

    Why it costs time: it costs quality; in 16 bits such a layer costs what it costs now.

    What to do: leave these layers in 16 bits; the code above does.

    Sources: measured here, as signal to quantisation noise (SQNR, -20 log10 of the relative error) on the model's own
    input; a layer is named from twice the error on that e4m3 has on random operands (28 dB).
    """
    tried = [t for t in model.trials or () if t.kept is not None or t.worst]
    if not tried:
        return NotApplicable("no layer was compared in FP8")
    lost = {name: None for t in tried for name, why in (t.kept or {}).items() if why == "inexact"}
    if not lost:
        return None
    return Finding(
        title=f"{len(lost)} layers of each block lose more in FP8 than its format explains",
        evidence=tuple(Evidence(name, fact="model.trials") for name in list(lost)[:LISTED]),
        actions=(Action("Leave them in 16 bits"),),
    )


@rule("MOD042", "small-n-or-k-layer", Severity.WARNING, scope="usage")
def losing_layers(model: Model) -> Verdict:
    """Layers multiply in FP8 whose products are no faster in it, timed here at their own sizes.

    What it means: the FP8 product alone, without quantising anything, takes as long as BF16's: the layer is too narrow
    or has too few rows.

    Why it costs time: quantising comes on top, and the result is less exact.

    What to do: leave them in 16 bits, by name.

    Sources: timed here with random operands of each layer's size: BF16, the FP8 product, and both with quantising,
    compiled. From a twentieth of a step on it is a warning. pytorch/ao#2262.
    """
    inside = {layer.name for layer in multiplying(linears(model))}
    timed = [gain for gain in model.gains or () if gain.bf16_us is not None and gain.product_us is not None]
    converted = [gain for gain in timed if inside & {alike(name) for name in gain.names or ()}]
    if not inside:
        return NotApplicable("no layer multiplies in FP8")
    if not converted:
        return Unknown("no FP8 layer of the model was timed by itself")
    losing = [gain for gain in converted if gains_nothing(gain)]
    if not losing:
        return None
    step_ms = model.run.step_ms.median if model.run and model.run.step_ms else None
    lost_ms = sum(_lost_ms(gain) for gain in losing)
    share = lost_ms / step_ms if step_ms else 0.0
    # Layers that take more by themselves than the step does are no measure of it.
    gain = Gain(round(1 / (1 - share), 2), AS_IT_IS, "estimated", "the model as it is") if MUCH <= share < 1 else None
    return Finding(
        title=f"{sum(gain.count or 0 for gain in losing):,} FP8 layers are no faster in FP8",
        evidence=tuple(_told(gain) for gain in losing[:LISTED]),
        actions=(Action("Leave them in 16 bits", f"# {', '.join(name for g in losing for name in g.names or ())}"),),
        gain=gain,
        severity=Severity.WARNING if share >= MUCH else Severity.INFO,
    )


def _lost_ms(gain: LayerGain) -> float:
    """What FP8 costs more than BF16 in a step's forward, where that is more."""
    if gain.layer_us is None or gain.bf16_us is None:
        return 0.0
    return (gain.count or 0) * max(0.0, gain.layer_us.median - gain.bf16_us.median) / 1e3


def _told(gain: LayerGain) -> Evidence:
    bf16 = gain.bf16_us.median if gain.bf16_us else 0.0
    product = gain.product_us.median if gain.product_us else 0.0
    size = f"{gain.rows:,} rows, Linear({gain.k}, {gain.n})"
    text = f"{(gain.names or ('?',))[0]} ({size}): BF16 {bf16:.1f} us, the FP8 product alone {product:.1f} us"
    return Evidence(text, gain.count, None, "model.gains")


@rule("MOD043", "recipe-hardcoded", Severity.INFO, scope="usage")
def slower_recipe(model: Model) -> Verdict:
    """The model's scaling is slower than the other one that its library has.

    What it means: torchao scales by row or by tensor; frameworks choose one for you, often without an option.

    Why it costs time: scaling by row needs a maximum for each row, and kernels that apply as many scales.

    What to do: take the faster recipe if its results are good enough: one scale a tensor is coarser where there are
    outliers.

    Sources: tried here on the model's blocks, both compiled. axolotl-ai-cloud/axolotl#3967, pytorch/ao#1793.
    """
    state = state_of(model)
    base = base_of(model)
    if base is None or not base.startswith("torchao-fp8") or not state.compiled:
        return NotApplicable("the model is not in one of torchao's recipes, compiled")
    trials = right(model)
    first = trials.get(AS_IT_IS)
    others = [t for t in trials.values() if _same_library(t, base)]
    if first is None or not others:
        return Unknown("no other recipe was tried")
    faster = [t for t in others if gains(t, first)]
    if not faster or first.step_ms is None:
        return None
    best = min(faster, key=lambda t: t.step_ms.median if t.step_ms else 0.0)
    speedup = first.step_ms.median / best.step_ms.median if best.step_ms else 1.0
    return Finding(
        title=f"{label(best.config or '')} would be faster than the recipe that the model has",
        evidence=(Evidence(f"{speedup:.2f}x by the model's blocks", round(speedup, 3), "x", "model.trials"),),
        actions=(Action("Ask the framework for this recipe, or convert the model yourself with the code above"),),
        gain=Gain(round(speedup, 3), AS_IT_IS, "estimated", "the model as it is"),
    )


def _same_library(trial: Trial, base: str) -> bool:
    other = (trial.config or "").partition("+")[0]
    return other != base and other.rpartition("-")[0] == base.rpartition("-")[0]


def _after(change: Change) -> Evidence:
    ms = change.step_ms.median
    return Evidence(f"{change.text}: {ms:,.1f} ms a step", round(ms, 3), "ms", "model.trials")


@rule("MOD044", "slower-than-alternatives", Severity.INFO, scope="usage")
def slower_than_tried(model: Model) -> Verdict:
    """Another configuration would make this model's step shorter.

    What it means: other configurations were tried on copies of the model's blocks, with what the model calls them with,
    and one of them was right and faster.

    Why it costs time: the step is longer than it need be.

    What to do: follow the plan, change by change; `check_plan=True` or `--check-plan` measures it in the whole model.

    Sources: the blocks timed here, all else of the step as it is; faster is what the noise does not explain.
    """
    if model.run is None or model.run.error is not None:
        return NotApplicable("no step ran")
    trials = right(model)
    first = trials.get(AS_IT_IS)
    if first is None or first.step_ms is None or len(trials) < 2:
        if not model.trials and not model.untried:
            return NotApplicable("nothing else was asked to be tried")
        return Unknown(model.untried or "no other configuration could be timed")
    steps = changes(model)
    if not steps:
        return Unknown(model.untried) if model.untried else None
    last = steps[-1]
    return Finding(
        title=f"{label(last.config)} would make the step {last.so_far.median:.2f}x as fast",
        evidence=tuple(_after(change) for change in steps),
        actions=(Action("Follow the plan above, one change after the other"),),
        gain=Gain(last.so_far.median, AS_IT_IS, "estimated", "the model as it is"),
    )
