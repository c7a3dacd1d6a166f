"""What there is to look at: rows as their kind has them, bars that add up, nothing drawn that was not measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fp8doctor.checks.linear.facts import Ceiling, Ceilings, Linear
from fp8doctor.model import EXHIBIT_ROWS, Exhibit
from tests.linear_facts import LINEAR, NO_GPU, STEADY, case, changed, exhibits, only, us, without

COMPILED = "torchao-fp8-rowwise+compile"
ALL = {
    "linear-decomposition": "bars",
    "linear-ceilings": "table",
    "linear-break-even": "table",
    "linear-speedup": "heatmap",
    "linear-speedup-by-tokens": "lines",
    "linear-roofline": "roofline",
    "linear-cases": "table",
}


def bars(linear: Linear) -> dict[str, tuple[float, float]]:
    """Where each bar begins and ends."""
    rows = exhibits(linear)["linear-decomposition"].rows
    return {row["label"]: (row["start"], round(row["start"] + row["value"], 1)) for row in rows}


def cells(exhibit: Exhibit) -> list[dict[str, str]]:
    return [row["cells"] for row in exhibit.rows]


@pytest.mark.parametrize("linear", [LINEAR, without(COMPILED), only("torch-bf16", "torchao-fp8-rowwise")])
def test_rows_are_as_their_kind_has_them(linear: Linear) -> None:
    for exhibit in exhibits(linear).values():
        assert exhibit.kind == ALL[exhibit.id]
        columns = EXHIBIT_ROWS[exhibit.kind]
        for row in exhibit.rows:
            assert row.keys() == columns.keys()
            assert all(isinstance(row[name], types) for name, types in columns.items())
        if exhibit.kind == "table":
            assert len({tuple(row) for row in cells(exhibit)}) == 1, "each row has the same cells"
            assert all(isinstance(text, str) for row in cells(exhibit) for text in row.values())


def test_a_full_run_shows_all_and_a_run_without_a_gpu_nothing() -> None:
    assert set(exhibits(LINEAR)) == set(ALL)
    assert exhibits(NO_GPU) == exhibits(Linear()) == {}


def test_where_the_time_of_an_fp8_layer_goes() -> None:
    exhibit = exhibits(LINEAR)["linear-decomposition"]
    assert exhibit.title == "one linear layer, 4096x3072x3072 (MxKxN), us on the device"
    assert [(row["label"], row["value"], row["ratio"]) for row in exhibit.rows] == [
        ("BF16", 101.7, None),
        ("FP8 product alone", 55.4, 1.84),
        ("+ quantising, 8 kernels", 148.2, None),
        ("+ gaps and rest", 12.1, None),
        ("= FP8, eager", 215.7, 0.47),
        ("= FP8, compiled", 80.5, 1.26),
    ]


def test_a_part_begins_where_the_one_before_ended_and_the_parts_end_where_the_whole_does() -> None:
    drawn = bars(LINEAR)
    assert drawn["+ quantising, 8 kernels"][0] == drawn["FP8 product alone"][1]
    assert drawn["+ gaps and rest"][0] == drawn["+ quantising, 8 kernels"][1]
    assert drawn["+ gaps and rest"][1] == pytest.approx(drawn["= FP8, eager"][1], abs=0.11)
    assert all(drawn[whole][0] == 0 for whole in ("BF16", "FP8 product alone", "= FP8, eager", "= FP8, compiled"))


def test_parts_that_were_timed_longer_than_the_whole_do_not_take_it_apart() -> None:
    drawn = bars(changed("torchao-fp8-rowwise", other_us=163.0))
    assert list(drawn) == ["BF16", "FP8 product alone", "= FP8, eager", "= FP8, compiled"]


def test_without_a_profile_or_a_compiler_those_bars_are_left_out() -> None:
    unprofiled = changed("torchao-fp8-rowwise", other_us=None, other_kernels=None)
    assert list(bars(unprofiled)) == ["BF16", "FP8 product alone", "= FP8, eager", "= FP8, compiled"]
    assert "= FP8, compiled" not in bars(without(COMPILED, "torchao-fp8-tensorwise+compile"))


@pytest.mark.parametrize("config", ["torch-bf16", "torch-fp8-rowwise"])
def test_without_bf16_or_the_product_there_is_nothing_to_compare(config: str) -> None:
    assert "linear-decomposition" not in exhibits(without(config))


def test_the_best_rates_stand_beside_the_peak_of_exactly_this_board() -> None:
    bf16, fp8, copy, launch = cells(exhibits(LINEAR)["linear-ceilings"])
    assert (bf16["best"], bf16["of dense peak"]) == ("836 TFLOP/s", "85% of 989")
    assert (fp8["best"], fp8["of dense peak"]) == ("1,586 TFLOP/s", "80% of 1,979")
    assert bf16["clock and power then"] == "1,755 MHz, 690 W"
    assert (copy["best"], launch["best"]) == ("4,137 GB/s", "6.1 us")


def test_no_share_of_a_peak_and_no_shape_that_nobody_knows() -> None:
    assert cells(exhibits(LINEAR, None, None)["linear-ceilings"])[0]["of dense peak"] == "not known"
    bare = replace(LINEAR, ceilings=Ceilings(bf16=Ceiling(burst_tflops=836.0)))
    (row,) = cells(exhibits(bare, clocks=STEADY)["linear-ceilings"])
    assert row["at (MxKxN)"] == row["sustained"] == row["clock and power then"] == ""


def test_break_even_by_layer_on_both_clocks() -> None:
    (row,) = cells(exhibits(LINEAR)["linear-break-even"])
    assert row == {"layer": "Linear(3072, 3072)", "on the device": "M = 1,000", "at the call": "M = 7,600 to 8,000"}
    never = changed(COMPILED, device_us=us(500.0), call_us=us(600.0))
    rowwise = tuple(c for c in never.cases or () if "tensorwise" not in (c.config or ""))
    shown = cells(exhibits(replace(never, cases=rowwise))["linear-break-even"])
    assert shown[0]["on the device"] == shown[0]["at the call"] == "no measured M"
    always = cells(exhibits(changed(COMPILED, device_us=us(9.0)))["linear-break-even"])
    assert always[0]["on the device"] == "M = 16 (the smallest measured) or fewer"


def test_a_break_even_that_the_noise_leaves_open_says_so() -> None:
    close = changed(COMPILED, call_us=us(201.0, 0.03))
    assert cells(exhibits(close)["linear-break-even"])[0]["at the call"].endswith(" to no measured M")


def test_what_was_not_timed_is_no_break_even() -> None:
    uncalled = replace(LINEAR, cases=tuple(replace(c, call_us=None, host_us=None) for c in LINEAR.cases or ()))
    assert cells(exhibits(uncalled)["linear-break-even"])[0]["at the call"] == "not timed"
    assert "linear-break-even" not in exhibits(without("torch-bf16"))
    odd = case("torch-bf16", 8192, 300.0, k=4097, n=50257)
    with_odd = replace(LINEAR, cases=(odd, *(LINEAR.cases or ())))
    assert [row["layer"] for row in cells(exhibits(with_odd)["linear-break-even"])] == ["Linear(3072, 3072)"]


def test_the_map_has_each_size_that_was_timed_in_both_formats() -> None:
    exhibit = exhibits(LINEAR)["linear-speedup"]
    assert [(row["x"], row["y"], row["value"]) for row in exhibit.rows] == [
        ("16", "Linear(3072, 3072)", 0.767),
        ("1,024", "Linear(3072, 3072)", 1.0),
        ("4,096", "Linear(3072, 3072)", 1.263),
        ("8,192", "Linear(3072, 3072)", 1.313),
    ]
    assert "linear-speedup" not in exhibits(without(COMPILED, "torchao-fp8-tensorwise+compile"))


def test_the_same_factors_are_drawn_over_the_tokens_with_their_intervals() -> None:
    drawn, mapped = (exhibits(LINEAR)[id] for id in ("linear-speedup-by-tokens", "linear-speedup"))
    assert [(row["y"], row["low"], row["high"]) for row in drawn.rows] == [
        (row["value"], row["low"], row["high"]) for row in mapped.rows
    ]
    assert all(row["low"] <= row["y"] <= row["high"] for row in drawn.rows)
    assert (drawn.x_title, drawn.x_is_log) == ("tokens M", True)


def test_the_roofline_is_this_boxs_own() -> None:
    rows = exhibits(LINEAR)["linear-roofline"].rows
    bf16, fp8 = (row for row in rows if row["ceiling"])
    assert (bf16["tflops"], fp8["tflops"]) == (836.0, 1585.5)
    # Where both lines meet, memory brings just enough: 836 TFLOP/s over 4,137 GB/s.
    assert bf16["flop_per_byte"] == pytest.approx(836e12 / 4137e9, rel=1e-3)
    point = next(row for row in rows if row["label"] == "BF16 4096x3072x3072 (MxKxN)")
    assert point["tflops"] == pytest.approx(2 * 4096 * 3072 * 3072 / 101.7e-6 / 1e12, rel=1e-3)
    assert point["flop_per_byte"] == pytest.approx(4096 * 3072 / (2 * 4096 + 3072), rel=1e-3)


def test_a_layer_reads_bf16_activations_and_the_product_alone_reads_fp8() -> None:
    at = {row["label"]: row["flop_per_byte"] for row in exhibits(LINEAR)["linear-roofline"].rows}
    whole, alone, bf16 = (
        at[f"{name} 4096x3072x3072 (MxKxN)"] for name in ("FP8, compiled", "FP8 product alone", "BF16")
    )
    assert bf16 < whole < alone


def test_without_measured_ceilings_there_is_no_roofline() -> None:
    assert "linear-roofline" not in exhibits(replace(LINEAR, ceilings=None))
    unmeasured = replace(LINEAR.ceilings or Ceilings(), copy_gb_s=None)
    assert "linear-roofline" not in exhibits(replace(LINEAR, ceilings=unmeasured))


def test_every_timed_case_is_listed_with_its_kernel() -> None:
    listed = cells(exhibits(LINEAR)["linear-cases"])
    assert len(listed) == len(LINEAR.cases or ())
    assert listed[0]["device us"] == "195.8 [193.8, 197.8]"
    assert "torch-fp8-rowwise (product alone)" in {row["case"] for row in listed}
