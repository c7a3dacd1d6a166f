"""The plan leads in steps to the configuration that the report advises, and to none where the model is there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fp8doctor import api
from fp8doctor.checks.ladder.naming import label
from fp8doctor.checks.model import advice, plan
from fp8doctor.checks.model.code import code
from fp8doctor.checks.model.layers import padded_gain
from fp8doctor.judging import advice as judging
from fp8doctor.model import Estimate
from fp8doctor.observed import AS_IT_IS, Blocks, Check, Layer, LayerGain, Model, StepRun, Trial

PLAIN = Layer(
    name="blocks.*.up", count=8, class_name="torch.nn.modules.linear.Linear", kind="linear", k=4096, n=14_336,
    dtype="bfloat16", keeps="16-bit", multiplies="16-bit", device="cuda:0", compiled=False,
)  # fmt: skip
STORED = replace(PLAIN, keeps="fp8", kept_dtype="float8_e4m3fn")
TORCHAO = replace(STORED, library="torchao", multiplies="fp8", scaling="rowwise")
ENGINE = replace(PLAIN, library="transformer-engine", multiplies="fp8", scaling="delayed")
WIDE = replace(PLAIN, dtype="float32", keeps="32-bit", multiplies="32-bit")
EAGER_ATTENTION = Layer(
    name="blocks.*.attn", count=8, kind="attention", class_name="transformers.models.llama.LlamaAttention",
    implementation="eager",
)  # fmt: skip
ROW, TENSOR = "torchao-fp8-rowwise", "torchao-fp8-tensorwise"


def ms(median: float, within: float = 0.01) -> Estimate:
    """An estimate that is sure of one part in a hundred."""
    return Estimate(median, median * (1 - within), median * (1 + within), 12)


def ok(config: str, step: float | Estimate, **more: Any) -> Trial:
    found = {"relative_error": 0.03, "error_limit": 0.08, **more}
    outcome = found.pop("outcome", "ok")
    return Trial(config, label(config), outcome, step_ms=step if isinstance(step, Estimate) else ms(step), **found)


def model(layers: tuple[Layer, ...], now: float | Estimate, *trials: Trial, compiled: int = 0, **more: Any) -> Model:
    step = now if isinstance(now, Estimate) else ms(now)
    first = Trial(AS_IT_IS, "as it is", "ok", step_ms=step, relative_error=0.0, error_limit=0.08)
    found: dict[str, Any] = {"trials": (first, *trials), "run": StepRun(step_ms=step), "autocast": "off"}
    found |= {"blocks": (Blocks("blocks", "Block", 8, 1, compiled),), "class_name": "mine.Model"}
    return Model(layers=layers, **(found | more))


def used(found: Model) -> str | None:
    """The configuration that the report says to use."""
    use = api.read_report(api.knowledge(), {Model.key: found}, "model").use
    return use[0].config if use else None


def texts(found: Model) -> list[str]:
    return [change.text for change in plan.changes(found)]


def test_a_model_in_fp8_storage_with_a_lora_goes_to_bf16_then_is_compiled_then_converted() -> None:
    lora = replace(STORED, adapter_rank=16)
    found = model(
        (lora,),
        20,
        ok("torch-bf16", 15),
        ok("torch-bf16+compile", 12),
        ok(f"{ROW}+compile", 8),
        ok("te-fp8-current", 9),
    )
    assert texts(found) == [
        "Fuse the LoRA into 8 layers; keep the weights of 8 layers in BF16, not in FP8",
        "Compile each repeated block",
        "Convert 8 linear layers: torchao float8 row-wise",
    ]
    steps = plan.changes(found)
    assert [step.config for step in steps] == ["torch-bf16", "torch-bf16+compile", f"{ROW}+compile"]
    assert [round(step.gain.median, 2) for step in steps] == [1.33, 1.25, 1.5]
    assert [round(step.so_far.median, 2) for step in steps] == [1.33, 1.67, 2.5]
    assert used(found) == f"{ROW}+compile"


def test_a_lora_is_fused_after_its_layers_were_in_bf16_where_that_was_tried() -> None:
    lora = replace(STORED, adapter_rank=16)
    beside, fast = ok("torch-bf16+lora", 17), ok("torch-bf16+compile", 12)
    found = model((lora,), 20, beside, ok("torch-bf16", 15), fast)
    assert texts(found) == [
        "Keep the weights of 8 layers in BF16, not in FP8",
        "Fuse the LoRA into 8 layers",
        "Compile each repeated block",
    ]
    assert [step.short for step in plan.changes(found)] == ["weights in BF16", "fused LoRA", "compiled blocks"]
    # Where it gives nothing it is told with what does; it is never advised, however fast it is.
    nothing = model((lora,), 20, ok("torch-bf16+lora", 20), ok("torch-bf16", 15))
    assert texts(nothing) == ["Keep the weights of 8 layers in BF16, not in FP8; fuse the LoRA into 8 layers"]
    alone = model((lora,), 20, replace(beside, step_ms=ms(5)), fast)
    assert used(alone) == "torch-bf16+compile"
    assert used(model((lora,), 20, beside)) == AS_IT_IS


def test_a_model_in_the_best_configuration_has_no_plan_and_is_used_as_it_is() -> None:
    found = model((TORCHAO,), 8, ok("torch-bf16", 15), ok("torch-bf16+compile", 12), ok(f"{TENSOR}+compile", 8.1))
    assert plan.best(found) is None
    assert plan.changes(found) == []
    assert advice.plan_table(found) is None
    assert advice.plan_bars(found) is None
    use = api.read_report(api.knowledge(), {Model.key: found}, "model").use[0]
    assert (use.config, use.label) == (AS_IT_IS, "the model as it is")
    # It gains with FP8, and that is said.
    assert use.speedup is not None
    assert use.speedup.low == 1.5
    assert use.versus_label == "BF16 + torch.compile of each block"


def test_of_a_model_in_fp8_alone_nobody_knows_whether_it_gains() -> None:
    assert used(model((TORCHAO,), 8)) is None
    assert used(model((TORCHAO,), 8, ok("torch-bf16+compile", 8))) == AS_IT_IS


def test_torchaos_eager_layers_are_compiled_by_one_change() -> None:
    found = model((TORCHAO,), 20, ok("torch-bf16", 15), ok("torch-bf16+compile", 12), ok(f"{ROW}+compile", 8))
    assert texts(found) == ["Compile each repeated block"]
    assert used(found) == f"{ROW}+compile"


def test_what_is_converted_is_compiled_before_anything_else_is_changed() -> None:
    own, plain, compiled = ok(f"{TENSOR}+compile", 10), ok("torch-bf16", 15), ok("torch-bf16+compile", 12)
    layer = replace(TORCHAO, scaling="tensorwise")
    other = model((layer,), 20, plain, compiled, ok(f"{ROW}+compile", 8), own)
    compile_it = "Compile each repeated block"
    assert texts(other) == [compile_it, "Convert 8 linear layers: torchao float8 row-wise"]
    # Of two that are as good as each other the one that it has.
    assert texts(model((layer,), 20, plain, compiled, ok(f"{ROW}+compile", 9.8), own)) == [compile_it]
    back = model((layer,), 20, plain, replace(compiled, step_ms=ms(8)), own)
    assert texts(back) == [compile_it, "Go back from torchao float8 tensor-wise to BF16"]
    # FP8 that gives nothing is not gone through.
    same = model((layer,), 20, plain, replace(compiled, step_ms=ms(10)), own)
    assert texts(same) == ["Go back from torchao float8 tensor-wise to BF16", compile_it]


def test_the_same_recipe_in_fewer_layers_is_a_change() -> None:
    trial = ok(f"{ROW}+compile", 8, kept={"blocks.*.up": "slower"})
    (only,) = plan.changes(model((TORCHAO,), 20, trial, compiled=8))
    assert only.text == (
        "Convert 0 linear layers alone (not 1 of each block's: the FP8 product is not faster, measured here)"
    )
    assert only.short == "other layers"


def test_what_is_compiled_stays_so_on_the_way() -> None:
    storage = model(
        (STORED,), 20, ok("torch-bf16", 25), ok("torch-bf16+compile", 12), ok(f"{ROW}+compile", 8), compiled=8
    )
    assert texts(storage) == [
        "Keep the weights of 8 layers in BF16, not in FP8",
        "Convert 8 linear layers: torchao float8 row-wise",
    ]
    engine = model((PLAIN,), 20, ok("te-fp8-current", 10), compiled=8)
    (only,) = plan.changes(engine)
    assert only.text == ("Convert 8 linear layers: Transformer Engine FP8, current scaling; do not compile the blocks")
    assert only.short == "Transformer Engine FP8, current scaling, not compiled"
    slower = model((PLAIN,), 20, ok("torch-bf16", 10), compiled=8)
    assert texts(slower) == ["Do not compile the blocks"]


def test_another_recipe_is_reached_through_bf16() -> None:
    found = model((ENGINE,), 20, ok("torch-bf16", 18), ok("torch-bf16+compile", 12), ok(f"{ROW}+compile", 8))
    assert texts(found) == [
        "Go back from Transformer Engine FP8, delayed scaling to BF16",
        "Compile each repeated block",
        "Convert 8 linear layers: torchao float8 row-wise",
    ]


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (replace(TORCHAO, scaling="block"), "Go back to BF16"),  # no configuration that is tried
        (replace(TORCHAO, scaling=None), "Go back to BF16"),
        (replace(PLAIN, library="torchao", keeps="int8", multiplies="int8"), "Go back to BF16"),
        (WIDE, "Run in BF16 (model.to(torch.bfloat16))"),
    ],
)
def test_from_whatever_it_is_in_the_way_to_bf16_is_said(layer: Layer, said: str) -> None:
    assert texts(model((layer,), 20, ok("torch-bf16", 10))) == [said]


def test_fp32_weights_under_autocast_are_said_to_be_cast_at_each_call() -> None:
    found = model((WIDE,), 20, ok("torch-bf16", 10), autocast="bfloat16")
    assert texts(found) == ["Run in BF16 (model.to(torch.bfloat16)): autocast casts them at each call"]
    said = "import torch\nmodel.to(torch.bfloat16)  # and what it is called with"
    assert code(found, plan.best(found) or Trial()) == said


def test_what_trains_keeps_its_weights_in_fp32_and_runs_under_autocast() -> None:
    found = model((WIDE,), 20, ok("torch-bf16", 15), ok("torch-bf16+compile", 10), training=True)
    said = 'un the forward under torch.autocast("cuda", dtype=torch.bfloat16)'
    assert texts(found) == [f"R{said}", "Compile each repeated block"]
    assert [step.short for step in plan.changes(found)] == ["autocast", "compiled blocks"]
    assert f"# r{said}\nwith {said[21:]}: model(...)" in code(found, plan.best(found) or Trial())
    te = code(found, Trial("te-fp8-current"))
    assert f"with {said[21:]}, te.autocast(enabled=True, recipe=recipe): model(...)" in te
    cast = replace(found, autocast="bfloat16")
    assert texts(cast) == ["Compile each repeated block"]
    assert code(cast, plan.best(cast) or Trial()) == "for block in model.blocks:\n    block.compile()"


def test_attention_by_hand_is_a_change_of_its_own() -> None:
    found = model(
        (PLAIN, EAGER_ATTENTION),
        20,
        ok("torch-bf16+attention-sdpa", 15),
        ok("torch-bf16+attention-sdpa+compile", 12),
        ok(f"{ROW}+attention-sdpa+compile", 8),
    )
    assert texts(found) == [
        "Let it attend by torch's scaled_dot_product_attention",
        "Compile each repeated block",
        "Convert 8 linear layers: torchao float8 row-wise",
    ]


def test_a_gain_within_the_noise_is_no_change() -> None:
    sure, unsure = ms(18, 0.01), ms(18, 0.2)
    assert texts(model((PLAIN,), 20, ok("torch-bf16+compile", sure))) == ["Compile each repeated block"]
    assert texts(model((PLAIN,), 20, ok("torch-bf16+compile", unsure))) == []
    # What gives nothing by itself is told with what is built on it.
    both = model((PLAIN,), 20, ok("torch-bf16+compile", unsure), ok(f"{ROW}+compile", 10))
    assert texts(both) == ["Compile each repeated block; convert 8 linear layers: torchao float8 row-wise"]
    # Of a model in FP8, too.
    noisy = Estimate(10.0, 7.0, 14.0, 12)
    in_fp8 = model((TORCHAO,), noisy, ok(f"{TENSOR}+compile", Estimate(9.0, 6.5, 12.0, 12)))
    assert plan.best(in_fp8) is None
    assert used(in_fp8) in (AS_IT_IS, None)


def test_a_gain_of_less_than_a_thirtieth_is_none() -> None:
    assert plan.best(model((PLAIN,), ms(20, 0), ok("torch-bf16+compile", ms(19.5, 0)))) is None
    # 1.0296 is no 1.03, however it is rounded.
    assert plan.best(model((PLAIN,), ms(10.296, 0), ok("torch-bf16+compile", ms(10, 0)))) is None


def test_what_was_wrong_or_did_not_run_never_appears() -> None:
    for outcome in ("wrong", "refused", "out-of-memory", "failed"):
        found = model(
            (PLAIN,), 20, ok("torch-bf16+compile", 12, outcome=outcome), ok(f"{ROW}+compile", 8, outcome=outcome)
        )
        assert plan.changes(found) == []
        assert used(found) == AS_IT_IS
    skipped = model((PLAIN,), 20, ok("torch-bf16+compile", 12, outcome="wrong"), ok(f"{ROW}+compile", 8))
    assert [change.config for change in plan.changes(skipped)] == [f"{ROW}+compile"]


def test_a_model_that_is_wrong_as_it_is_is_led_to_the_best_that_is_right() -> None:
    found = model((TORCHAO,), 8, ok("torch-bf16", 15), ok("torch-bf16+compile", 12))
    assert found.trials is not None
    wrong = replace(found, trials=(replace(found.trials[0], outcome="wrong", relative_error=0.9), *found.trials[1:]))
    assert used(wrong) == "torch-bf16+compile"
    (only,) = plan.changes(wrong)
    assert only.config == "torch-bf16+compile"
    assert round(only.so_far.median, 2) == 0.67


def test_a_model_in_fp8_that_nobody_could_compare_is_beaten_by_what_is_faster_alone() -> None:
    found = model((TORCHAO,), 10, ok(f"{TENSOR}+compile", 15))
    assert found.trials is not None
    unknown = replace(found.trials[0], relative_error=None, error_limit=None)
    assert used(replace(found, trials=(unknown, found.trials[1]))) in (AS_IT_IS, None)
    faster = replace(found, trials=(unknown, ok(f"{TENSOR}+compile", 8)))
    assert used(faster) == f"{TENSOR}+compile"


def test_what_was_checked_is_shown_and_judged_by_what_was_estimated_as_all_else_is() -> None:
    config = f"{ROW}+compile"
    found = model((PLAIN,), 20, ok("torch-bf16+compile", 12), ok(config, 10))
    check = Check(config, "ok", step_ms=ms(9.5), estimated_ms=ms(10), as_it_is_ms=ms(19))
    (use,) = api.read_report(api.knowledge(), {Model.key: replace(found, check=check)}, "model").use
    assert (use.config, use.basis) == (config, "estimated")
    assert use.speedup is not None
    assert use.speedup.low == 1.2  # an estimate over an estimate
    # It did not keep its promise: that is said beside the estimates, and with how far they were off.
    broken = replace(found, check=replace(check, step_ms=ms(30)))
    assert used(broken) == config
    tried = advice.tried_table(broken)
    assert tried is not None
    assert tried.rows[2]["cells"]["how it is known"] == "by its blocks"
    assert tried.rows[2]["cells"]["ms a step"] == "10.00"


def test_a_check_that_failed_is_told_below_the_plan() -> None:
    config = f"{ROW}+compile"
    found = model((PLAIN,), 20, ok(config, 8), check=Check(config, "out-of-memory", "OutOfMemoryError: no"))
    table = advice.plan_table(found)
    assert table is not None
    assert table.rows[-1]["cells"]["known by"] == "out-of-memory: OutOfMemoryError: no"
    assert used(found) == config


def test_the_converted_layers_are_counted_without_those_that_stay() -> None:
    layers = (
        replace(PLAIN, name="stages.*.blocks.*.up", count=6),
        replace(PLAIN, name="stages.*.blocks.*.experts.*.down", count=24),
        replace(PLAIN, name="head", count=1),
    )
    lists = (Blocks("stages.0.blocks", "Block", 2, 1, 0), Blocks("stages.1.blocks", "Block", 4, 1, 0))
    kept = {"stages.0.blocks.*.up": "rows", "stages.1.blocks.*.experts.0.down": "inexact"}
    found = model(layers, 20, ok(f"{ROW}+compile", 8, kept=kept), blocks=lists)
    assert "convert 24 linear layers" in texts(found)[-1]
    assert (
        "(not 2 of each block's: FP8 is further off than its format explains; called with fewer than 16 rows)"
        in (texts(found)[-1])
    )
    sequential = model(
        (replace(PLAIN, name="*.up"),), 20, ok(f"{ROW}+compile", 8, kept={"*.up": "rows"}),
        blocks=(Blocks("", "Block", 8, 1, 0),),
    )  # fmt: skip
    assert "convert 0 linear layers" in texts(sequential)[-1]
    single = model(
        (replace(PLAIN, name="up", count=1), replace(PLAIN, name="down", count=1)), 20,
        ok(f"{ROW}+compile", 8, kept={"up": "rows"}), blocks=(),
    )  # fmt: skip
    assert texts(single)[-1].startswith("Compile the model; convert 1 linear layers")


def test_padding_is_told_where_it_saves_time() -> None:
    odd = LayerGain(("blocks.*.up",), 8, 4096, 4096, 14_330, bf16_us=ms(100), layer_us=ms(60))
    assert padded_gain(odd) == pytest.approx(0.32)
    for nothing in (replace(odd, n=14_336), replace(odd, layer_us=ms(120)), LayerGain()):
        assert padded_gain(nothing) is None


# --- Whatever was tried, the plan leads to what the report advises ---

CONFIGS = ("torch-bf16", "torch-bf16+compile", f"{ROW}+compile", f"{TENSOR}+compile", "te-fp8-current")
# Steps of a few lengths near one another, so that thresholds are met: a gain of 3 %, what is as good as the best.
TIMES = st.one_of(
    st.floats(5.0, 20.0).map(lambda value: round(value, 3)),
    st.sampled_from([10.0, 10.3, 10.296, 9.8, 9.71, 9.5, 10.5, 7.0, 7.21, 0.04, 0.0412, 0.044]),
)
ESTIMATES = st.builds(ms, TIMES, st.sampled_from([0.0, 0.001, 0.01, 0.03, 0.2]))
WAYS = st.sampled_from([(PLAIN,), (STORED,), (TORCHAO,), (ENGINE,), (replace(STORED, adapter_rank=4),),
                        (WIDE,)])  # fmt: skip
# How it ended, its error and the limit of that.
ENDED = st.sampled_from(
    [("ok", 0.03, 0.08), ("ok", 0.0, 0.01), ("ok", None, None), ("wrong", 0.5, 0.08), ("failed", None, None)]
)


@st.composite
def anything(draw: Any) -> Model:
    layers, compiled = draw(WAYS), draw(st.sampled_from([0, 8]))
    # A model that is in plain BF16 already is not tried so.
    training, autocast = draw(st.booleans()), draw(st.sampled_from(["off", "bfloat16"]))
    is_plain = layers == (PLAIN,) or (layers == (WIDE,) and training and autocast != "off")
    listed = [config for config in CONFIGS if config != "torch-bf16" or not is_plain or compiled]
    listed += ["torch-bf16+lora"] if layers[0].adapter_rank and not training else []
    trials = []
    for config in (AS_IT_IS, *draw(st.lists(st.sampled_from(listed), unique=True))):
        outcome, error, limit = draw(ENDED)
        step = draw(ESTIMATES) if outcome in ("ok", "wrong") else None
        trials.append(Trial(config, config, outcome, step_ms=step, relative_error=error, error_limit=limit))
    check = None
    if draw(st.booleans()):
        config = draw(st.sampled_from(CONFIGS))
        check = Check(config, draw(st.sampled_from(["ok", "failed"])), step_ms=draw(ESTIMATES), as_it_is_ms=ms(10))
    blocks = (Blocks("blocks", "Block", 8, 1, compiled),)
    run = StepRun(step_ms=draw(ESTIMATES))
    found = Model(class_name="mine.Model", layers=layers, blocks=blocks, run=run, trials=tuple(trials), check=check)
    return replace(found, training=training, autocast=autocast)


@given(anything())
@example(model((TORCHAO,), ms(10, 0), ok("torch-bf16+compile", ms(9.9, 0)), ok(f"{TENSOR}+compile", ms(9.6, 0))))
@example(model((PLAIN,), ms(10, 0.1), ok("torch-bf16+compile", ms(9, 0.011)), ok(f"{ROW}+compile", ms(8.8, 0.006))))
def test_the_plan_leads_to_what_the_report_advises(found: Model) -> None:
    use = judging.advise(advice.configurations(found))
    advised = None if not use or use[0].config == AS_IT_IS else use[0].config
    best = plan.best(found)
    assert (best.config if best else None) == advised
    steps = plan.changes(found)
    if best is None:
        assert steps == []
        return
    assert steps[-1].config == advised
    assert all(step.text and step.short for step in steps)
    assert not {step.config for step in steps} - {t.config for t in found.trials or () if t.outcome == "ok"}
    pasted = code(found, best)
    assert pasted
    compile(pasted, "pasted", "exec")
    assert not (found.training and "model.to(" in pasted)


@given(anything())
def test_a_change_of_the_plan_that_is_not_the_last_gains(found: Model) -> None:
    for step in plan.changes(found)[:-1]:
        assert step.gain.low > 1
