"""What trials say of a model's layers, and what is shown of them: each where it speaks, and where it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fp8doctor.checks.model import advice, exhibits, trial_rules
from fp8doctor.model import Estimate, Exhibit, Finding, NotApplicable, Severity, Unknown
from fp8doctor.observed import AS_IT_IS, Check, LayerError, LayerGain, Model, StepRun, Trial
from tests.checks.test_model_plan import ENGINE, PLAIN, ROW, TENSOR, TORCHAO, model, ms, ok

LOSING = LayerGain(
    ("blocks.*.up",), 8, 4096, 4096, 14_336, "rowwise", bf16_us=ms(100), product_us=ms(105), layer_us=ms(400)
)
GAINING = replace(LOSING, names=("blocks.*.down",), product_us=ms(60), layer_us=ms(70))


def found(verdict: Any) -> Finding:
    assert isinstance(verdict, Finding), verdict
    return verdict


def cells(table: Exhibit | None) -> list[dict[str, str]]:
    assert table is not None
    return [row["cells"] for row in table.rows]


def compared(outcome: str, error: float | None, limit: float | None = 0.08) -> Model:
    one = model((TORCHAO,), 20)
    assert one.trials is not None
    return replace(one, trials=(replace(one.trials[0], outcome=outcome, relative_error=error, error_limit=limit),))


def test_blocks_that_are_off_their_own_weights_are_an_error() -> None:
    finding = found(trial_rules.as_it_is_wrong(compared("wrong", 0.9)))
    assert finding.title == "The model's blocks are off their own weights in BF16 by 0.90"
    assert finding.evidence[0].text == "relative error 0.90; 0.08 is the most that its format explains"
    assert "not a number" in found(trial_rules.as_it_is_wrong(compared("wrong", None))).title
    assert trial_rules.as_it_is_wrong(compared("ok", 0.03)) is None


def test_blocks_that_nobody_compared_are_not_called_right() -> None:
    assert isinstance(trial_rules.as_it_is_wrong(compared("ok", None, None)), Unknown)
    assert isinstance(trial_rules.as_it_is_wrong(Model(layers=(TORCHAO,))), Unknown)
    # A model in BF16 is what the others are compared with.
    assert isinstance(trial_rules.as_it_is_wrong(model((PLAIN,), 20)), NotApplicable)


def test_layers_that_fp8_is_too_coarse_for_are_named() -> None:
    kept = {"blocks.*.down": "inexact", "blocks.*.norm": "rows"}
    finding = found(trial_rules.inexact_layers(model((PLAIN,), 20, ok(f"{ROW}+compile", 8, kept=kept))))
    assert finding.title == "1 layers of each block lose more in FP8 than its format explains"
    assert [evidence.text for evidence in finding.evidence] == ["blocks.*.down"]
    assert finding.severity is None  # the rule's own: a lesson


def test_layers_that_stay_for_other_reasons_are_not_inexact() -> None:
    rows = ok(f"{ROW}+compile", 8, kept={"blocks.*.norm": "rows"})
    assert trial_rules.inexact_layers(model((PLAIN,), 20, rows)) is None
    worst = ok(f"{ROW}+compile", 8, worst=(LayerError("blocks.*.up", 30.0, 28.4),))
    assert trial_rules.inexact_layers(model((PLAIN,), 20, worst)) is None
    assert isinstance(trial_rules.inexact_layers(model((PLAIN,), 20, ok("torch-bf16", 18))), NotApplicable)


def test_fp8_layers_whose_product_is_no_faster_are_told_with_what_they_cost() -> None:
    # 8 layers that take 0.3 ms more of 20 ms.
    finding = found(trial_rules.losing_layers(model((TORCHAO,), 20, gains=(LOSING, GAINING))))
    assert finding.title == "8 FP8 layers are no faster in FP8"
    assert finding.evidence[0].text == (
        "blocks.*.up (4,096 rows, Linear(4096, 14336)): BF16 100.0 us, the FP8 product alone 105.0 us"
    )
    assert finding.severity is Severity.WARNING
    assert finding.gain is not None
    assert finding.gain.speedup == 1.14
    few = found(trial_rules.losing_layers(model((TORCHAO,), 200, gains=(LOSING,))))
    assert few.severity is Severity.INFO
    assert few.gain is None


def test_layers_that_are_not_converted_or_gain_lose_nothing() -> None:
    assert trial_rules.losing_layers(model((TORCHAO,), 20, gains=(replace(GAINING, names=("blocks.*.up",)),))) is None
    assert isinstance(trial_rules.losing_layers(model((PLAIN,), 20, gains=(LOSING,))), NotApplicable)
    assert isinstance(trial_rules.losing_layers(model((TORCHAO,), 20, gains=(GAINING,))), Unknown)
    assert isinstance(trial_rules.losing_layers(model((TORCHAO,), 20)), Unknown)


def test_no_gain_is_made_of_layers_that_take_more_by_themselves_than_the_step() -> None:
    finding = found(trial_rules.losing_layers(model((TORCHAO,), 2, gains=(LOSING,))))
    assert finding.severity is Severity.WARNING
    assert finding.gain is None


def test_a_recipe_that_is_slower_than_the_librarys_other_one_is_told() -> None:
    other = ok(f"{TENSOR}+compile", 16)
    finding = found(trial_rules.slower_recipe(model((TORCHAO,), 20, other, compiled=8)))
    assert finding.title == (
        "torchao float8 tensor-wise + torch.compile of each block would be faster than the recipe that the model has"
    )
    assert finding.gain is not None
    assert finding.gain.speedup == 1.25
    assert finding.gain.basis == "estimated"


def test_a_recipe_is_compared_with_its_librarys_other_one_alone_and_compiled() -> None:
    slower, same = ok(f"{TENSOR}+compile", 20), ok(f"{ROW}+compile", 10)
    assert trial_rules.slower_recipe(model((TORCHAO,), 20, slower, same, compiled=8)) is None
    noisy = ok(f"{TENSOR}+compile", Estimate(16, 12, 24, 12))
    assert trial_rules.slower_recipe(model((TORCHAO,), 20, noisy, compiled=8)) is None
    assert isinstance(trial_rules.slower_recipe(model((TORCHAO,), 20, same, compiled=8)), Unknown)
    assert isinstance(trial_rules.slower_recipe(model((TORCHAO,), 20, slower, compiled=0)), NotApplicable)
    assert isinstance(trial_rules.slower_recipe(model((ENGINE,), 20, slower, compiled=8)), NotApplicable)
    training = ok("torchao-fp8train-tensorwise+compile", 10)
    assert isinstance(trial_rules.slower_recipe(model((TORCHAO,), 20, training, compiled=8)), Unknown)


# --- What is shown ---


def test_what_fp8_gives_each_size_of_layer_stands_in_a_row() -> None:
    several = replace(GAINING, names=tuple(f"blocks.*.attn.to_{name}" for name in "qkvo"))
    untimed = LayerGain(("blocks.*.norm",), 8, 1, 4096, 4096)
    rows = cells(exhibits.gains_table(Model(gains=(several, untimed))))
    assert rows == [
        {
            "layers": "attn.to_q, attn.to_k, attn.to_v and 1 more",
            "count": "8",
            "rows": "4,096",
            "K, N": "4096, 14336",
            "BF16": "100.0 [99.0, 101.0]",
            "FP8 product": "60.0 [59.4, 60.6]",
            "gain": "1.67x",
            "with quantising": "70.0 [69.3, 70.7]",
            "gain with it": "1.43x",
        }
    ]
    without = cells(exhibits.gains_table(Model(gains=(replace(GAINING, layer_us=None),))))
    assert (without[0]["with quantising"], without[0]["gain with it"]) == ("", "")
    assert cells(exhibits.gains_table(Model(gains=(replace(GAINING, names=("*.up",)),))))[0]["layers"] == "up"


def test_without_times_there_is_no_table_of_gains() -> None:
    assert exhibits.gains_table(Model()) is None
    assert exhibits.gains_table(Model(gains=(LayerGain(("up",), 1, 1, 64, 64, detail="no time was left"),))) is None


def test_a_step_is_shown_with_what_is_known_of_it() -> None:
    run = StepRun(first_ms=900.0, step_ms=Estimate(20.0, 19.0, 21.0, 12), host_ms=5.0)
    rows = cells(exhibits.step_table(Model(run=run, outside_ms=Estimate(3.0, 2.9, 3.1, 20))))
    assert [tuple(row.values()) for row in rows] == [
        ("the first call", "900.0"),
        ("a step after it", "20.0 [19.0, 21.0]"),
        ("until the host has asked for a step", "5.0"),
        ("outside of the repeated blocks", "3.0 [2.9, 3.1]"),
    ]
    assert len(cells(exhibits.step_table(Model(run=replace(run, host_ms=None, first_ms=None))))) == 1
    assert exhibits.step_table(Model(run=StepRun(error="no"))) is None


def test_the_plan_stands_in_a_table_and_in_bars() -> None:
    found = model((PLAIN,), 20, ok("torch-bf16+compile", 12), ok(f"{ROW}+compile", 8))
    rows = cells(advice.plan_table(found))
    assert [row["change"] for row in rows] == [
        "1. Compile each repeated block",
        "2. Convert 8 linear layers: torchao float8 row-wise",
    ]
    assert rows[1] | {"change": ""} == {
        "change": "",
        "ms a step": "8.0 [7.9, 8.1]",
        "gain": "1.50x",
        "so far": "2.50x [2.45, 2.55]",
        "known by": "its blocks",
    }
    bars = advice.plan_bars(found)
    assert bars is not None
    assert [(row["label"], row["value"], row["start"], row["ratio"]) for row in bars.rows] == [
        ("as it is", 20.0, 0, None),
        ("1. compiled blocks", 12.0, 0, 1.667),
        ("2. torchao float8 row-wise", 8.0, 0, 2.5),
    ]


def test_without_a_plan_none_is_shown() -> None:
    as_it_is = model((PLAIN,), 20, ok(f"{ROW}+compile", 22))
    refused = replace(as_it_is, check=Check(outcome="refused", detail="nothing is faster"))
    for one in (as_it_is, refused, Model()):
        assert advice.plan_table(one) is None
        assert advice.plan_bars(one) is None


def test_all_that_was_tried_stands_in_a_table_with_how_it_ended() -> None:
    tried = (
        ok("torch-bf16+compile", 10, relative_error=0.002, error_limit=0.01),
        ok(f"{ROW}+compile", 8, outcome="wrong", relative_error=0.5),
        Trial(f"{TENSOR}+compile", "tensor-wise", "out-of-memory", "OutOfMemoryError: 2 GiB"),
        Trial("te-fp8-current", "TE", "refused"),
    )
    rows = cells(advice.tried_table(model((PLAIN,), 20, *tried)))
    assert [row["how it is known"] for row in rows] == [
        "measured", "by its blocks", "wrong", "OutOfMemoryError: 2 GiB", "refused",
    ]  # fmt: skip
    assert [row["over as it is"] for row in rows] == ["1.00x", "2.00x", "2.50x", "", ""]
    assert [row["error"] for row in rows][1:3] == ["0.002 of 0.01", "0.500 of 0.08"]
    assert advice.tried_table(model((PLAIN,), 20)) is None


def test_a_plan_that_could_not_be_measured_in_the_whole_model_says_why() -> None:
    found = model((PLAIN,), 20, ok("torch-bf16+compile", 10))
    assert "not measured" not in (advice.plan_bars(found) or Exhibit("", "bars", "", "", ())).title
    check = Check("torch-bf16+compile", "refused", "the model is in float32")
    bars = advice.plan_bars(replace(found, check=check))
    assert bars is not None
    assert bars.title.endswith("(not measured in the whole model: the model is in float32)")


def test_advice_is_estimated_but_for_the_model_as_it_is_whatever_was_checked() -> None:
    config = f"{ROW}+compile"
    found = model((PLAIN,), 20, ok("torch-bf16+compile", 12), ok(config, 8))
    checked = replace(found, check=Check(config, "ok", step_ms=ms(9), as_it_is_ms=ms(20)))
    for one in (found, checked):
        basis = {candidate.config: candidate.basis for candidate in advice.configurations(one)}
        assert basis == {AS_IT_IS: "measured", "torch-bf16+compile": "estimated", config: "estimated"}
        times = {candidate.config: candidate.call_us for candidate in advice.configurations(one)}
        assert (times[config] or ms(0)).median == 8000


def test_the_plan_is_shown_as_it_was_measured_in_the_whole_model() -> None:
    config = f"{ROW}+compile"
    found = model((PLAIN,), 20, ok("torch-bf16+compile", 12), ok(config, 8))

    def shown(check: Check) -> tuple[tuple[str, ...], tuple[object, ...]]:
        table, bars = (
            cells(advice.plan_table(replace(found, check=check))),
            advice.plan_bars(replace(found, check=check)),
        )
        assert bars is not None
        return tuple(table[-1].values()), tuple(bars.rows[-1][name] for name in ("label", "value", "start", "ratio"))

    check = Check(config, "ok", step_ms=ms(8.5), estimated_ms=ms(8), as_it_is_ms=ms(20))
    whole = "all of it in the whole model"
    assert shown(check) == (
        (whole, "8.5 [8.4, 8.6]", "", "2.35x [2.31, 2.40]", "measured"),
        ("all of it, measured", 8.5, 0, 2.353),
    )
    far, _ = shown(replace(check, step_ms=ms(9.1)))
    assert far[-1] == "measured; the estimate was 12 % off"
    # Where a part of the step is left out there is no ratio to the whole of it.
    detail = "its parameters are not the optimizer's, whose work is left out"
    assert shown(replace(check, detail=detail)) == (
        (whole, "8.5 [8.4, 8.6]", "", "", f"measured; {detail}"),
        ("all of it, measured", 8.5, 0, None),
    )
    failed, bars = shown(replace(check, outcome="wrong", detail="NaN"))
    assert failed == (whole, "", "", "", "wrong: NaN")
    assert bars[0] == "2. torchao float8 row-wise"


def test_the_layers_that_lose_most_stand_with_the_trial_and_what_they_are_compared_with() -> None:
    lost = (LayerError("blocks.*.down", 14.25, 28.0), LayerError("blocks.*.up", 25.0, None), LayerError("unknown"))
    trials = (
        Trial(config="torchao-fp8-rowwise+compile", outcome="ok", worst=lost),
        Trial(config="torch-bf16+compile", outcome="ok", worst=lost),
        Trial(config="torchao-fp8-tensorwise", outcome="ok"),
    )
    table = exhibits.sqnr_table(Model(trials=trials))
    assert table is not None
    assert (table.id, table.unit) == ("model-sqnr", "dB")
    assert table.title.endswith("against BF16 of the same weights")
    down, up = cells(table)
    assert list(down.values())[:3] == ["blocks.*.down", "14.2", "28.0"]
    assert down["tried"].startswith("torchao float8 row-wise")
    assert up["e4m3 explains"] == ""
    assert exhibits.sqnr_table(Model(trials=trials[1:])) is None
    assert exhibits.sqnr_table(Model()) is None
