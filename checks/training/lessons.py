"""What does FP8 training cost and gain here? Lessons; a healthy box gets them too."""

from __future__ import annotations

from fp8doctor.checks.linear.cases import gains
from fp8doctor.checks.training.advice import label
from fp8doctor.checks.training.cases import Trained, layer_text, line, scaling, unmeasured
from fp8doctor.checks.training.facts import Training
from fp8doctor.checks.training.recipes import RECIPES
from fp8doctor.measuring.statistics import speedup
from fp8doctor.model import Action, Evidence, Finding, Gain, NotApplicable, Severity, Unknown
from fp8doctor.registry import rule

Verdict = Finding | Unknown | NotApplicable | None
_EAGER = tuple(recipe.config for recipe in RECIPES if recipe.torchao and not recipe.compiled)


ROWWISE = "torchao-fp8train-rowwise+compile"


@rule("TRN001", "not-compiled", Severity.INFO, scope="usage")
def not_compiled(training: Training) -> Verdict:
    """FP8 training that is not compiled is slower than BF16.

    What it means: a training step of an FP8 layer casts six operands: input, weight and the gradient of the output,
    each for two products. Without torch.compile each cast is a row of separate kernels that read and write the whole
    tensor; compiled, they become one or two, and share what they read.

    Why it costs time: the casts take longer than the faster products save. That is how an FP8 run comes out at a
    quarter of BF16's tokens a second.

    What to do: compile the model, or each of its blocks, after `convert_to_float8_training`. The first step takes
    longer (tens of seconds for a model); leave it out of timings. Compiling is needed and is not enough: see
    `small-shapes`.

    Sources: measured here (device time of forward and backward, L2 cold). torchao's documentation asks for it
    (docs/source/eager_tutorials/pretraining.rst). Public cases: pytorch/ao#685, and 34,777 against 151,293 tokens a
    second in a report on a 454M model; on an H200 46,653, 166,891, and compiled FP8 177,135 (benchmarks/RESULTS.md).
    """
    if (missing := unmeasured(training)) is not None:
        return missing
    trained = Trained(training)
    for place in trained.places():
        times = [(config, trained.us(config, place), trained.us(f"{config}+compile", place)) for config in _EAGER]
        pairs = [(config, eager, compiled) for config, eager, compiled in times if eager and compiled]
        bf16 = trained.bf16(place)
        if not pairs or bf16 is None:
            continue
        config, eager, compiled = min(pairs, key=lambda pair: pair[2].median)
        if not gains(eager, compiled):
            return None
        slower, now = eager.median / bf16[1].median, speedup(bf16[1], compiled)
        pace = f"takes {slower:.1f}x the time of BF16" if slower > 1 else f"gains only {1 / slower:.2f}x over BF16"
        return Finding(
            title=f"Uncompiled FP8 training of {layer_text(place)} {pace}; compiled it runs at {now.median:.2f}x",
            evidence=(
                line(f"forward and backward, BF16{' compiled' if '+' in bf16[0] else ''}", bf16[1]),
                line(f"FP8 {scaling(config)}, not compiled", eager),
                line(f"FP8 {scaling(config)}, compiled", compiled, f", {now.median:.2f}x BF16"),
            ),
            actions=(Action("Compile the model after converting it", "model = torch.compile(model)"),),
            gain=Gain(speedup(eager, compiled).median, config, "measured", label(config)),
        )
    return Unknown("no FP8 training was timed both compiled and not")


@rule("TRN002", "small-shapes", Severity.INFO, scope="usage")
def small_shapes(training: Training) -> Verdict:
    """Some layers are too small to gain from FP8 in training.

    What it means: at these layers the best FP8 recipe, compiled, is no faster than BF16. Others may gain: what a
    training step gains is the mean over its layers, weighted with their time.

    Why it costs time: casting takes time that grows with the sizes of the operands, the products' time grows with
    M x K x N: narrow layers have little to hide the casts behind.

    What to do: leave these layers in BF16 with `module_filter_fn`, which is called with each layer and its name and
    says True for those to convert.

    Sources: measured here, compiled against compiled. On an H200 compiled FP8 training gained 1.06x at width 1,024 and
    1.38x at width 4,096 (benchmarks/RESULTS.md). torchao's own filter leaves out layers by size, from measurements on
    an H100 (_auto_filter_for_recipe in torchao/float8/float8_linear_utils.py). Public cases:
    meta-pytorch/float8_experimental#280.
    """
    if (missing := unmeasured(training)) is not None:
        return missing
    found = [item for item in Trained(training).gains() if item[1].endswith("+compile")]
    if not found:
        return Unknown("no compiled FP8 training was timed")
    losing = [place for place, _, _, gained in found if not gained]
    if not losing:
        return None
    widest = max((item for item in found if item[3]), key=lambda item: item[2].median, default=None)
    more = f"; {layer_text(widest[0])} gains {widest[2].median:.2f}x" if widest else ""
    left_out = sorted({(k, n) for _, k, n in losing})
    sizes = ", ".join(str(size) for size in left_out)
    keep = f"lambda layer, name: (layer.in_features, layer.out_features) not in [{sizes}]"
    return Finding(
        title=f"FP8 training gains nothing at {layer_text(losing[0])}{_and_more(losing)}{more}",
        evidence=tuple(
            Evidence(
                f"{layer_text(place)}: {config} runs at {ratio.median:.2f}x BF16 ({ratio.low:.2f} to {ratio.high:.2f})",
                ratio.median,
                "x",
                "training.cases",
            )
            for place, config, ratio, _ in found
        ),
        actions=(
            Action(
                "Leave these layers in BF16",
                f"convert_to_float8_training(model, config=config, module_filter_fn={keep})",
            ),
        ),
    )


def _and_more(places: list[tuple[int, int, int]]) -> str:
    return f" and {len(places) - 1} more" if len(places) > 1 else ""


@rule("TRN003", "rowwise-slower-than-tensorwise", Severity.INFO, scope="usage")
def rowwise_slower(training: Training) -> Verdict:
    """In training, one scale a row costs more than one scale a tensor.

    What it means: row-wise scaling keeps more accuracy where there are outliers. In training each operand is needed
    along two directions, so row-wise it is scaled and cast twice, with different scales, and tensor-wise once.

    Why it costs time: more casts; and where torchao's row-wise recipe multiplies without fast accumulation, which it
    does for both gradients, it multiplies unscaled and scales the whole result afterwards.

    What to do: where the loss allows, train with the tensor-wise recipe; `rowwise_with_gw_hp` stands between the two in
    accuracy and keeps the product that gives the weight's gradient in 16 bits.

    Sources: measured here, compiled against compiled. addmm_float8_unwrapped in torchao/float8/float8_ops.py (0.17.0).
    Public cases: pytorch/ao#1793, pytorch/pytorch#147971.
    """
    if (missing := unmeasured(training)) is not None:
        return missing
    trained = Trained(training)
    for place in trained.places():
        row = trained.us(ROWWISE, place)
        tensor = trained.us("torchao-fp8train-tensorwise+compile", place)
        if row is None or tensor is None:
            continue
        gain = speedup(row, tensor)
        if not gains(row, tensor):
            return None
        half = trained.us("torchao-fp8train-rowwise-gw-hp+compile", place)
        return Finding(
            title=f"Training {layer_text(place)} row-wise takes {gain.median:.2f}x the time of tensor-wise",
            evidence=(
                line("forward and backward, tensor-wise compiled", tensor),
                line("row-wise compiled", row),
                *((line("row-wise, weight's gradient in 16 bits, compiled", half),) if half else ()),
            ),
            actions=(
                Action(
                    "Where the loss allows, take one scale a tensor",
                    'Float8LinearConfig.from_recipe_name("tensorwise")',
                ),
            ),
            gain=Gain(gain.median, ROWWISE, "measured", label(ROWWISE)),
        )
    return Unknown("row-wise and tensor-wise training were not both timed compiled")
