"""The ladder to look at: tables that a terminal has room for, and that hold every figure together."""

from __future__ import annotations

from dataclasses import fields, replace

from fp8doctor.checks.ladder.facts import MemoryPoint, Rung, SkippedStep
from fp8doctor.reporting.exhibits import draw
from tests.ladder_facts import FLUX, STEP, changed, exhibits, failed, more, ms, rung

SPREAD = {"mean_ms": 175.5, "least_ms": 171.5, "p90_ms": 178.5, "p99_ms": 179.5}
MEMORY = tuple(
    MemoryPoint(phase, at, gb)
    for phase, at, gb in (("build", 0.1, 2.0), ("build", 0.2, 1.5), ("steps", 4.0, 2.5), ("convert", 1.0, 3.0))
)
FULL = changed("torch-bf16", ladder=FLUX, memory=MEMORY, weights_gb=23.8, gradient_error=0.0625, **SPREAD)


def test_bars_and_table_say_the_same() -> None:
    shown = exhibits(FLUX)
    bars, table = shown["ladder-denoise"], shown["ladder-denoise-figures"]
    assert [row["label"] for row in bars.rows][:2] == [
        "torchao-fp8-rowwise+compile+cudagraph",
        "torchao-fp8-rowwise+compile",
    ]
    ratios = {row["cells"]["config"]: row["cells"]["x BF16"] for row in table.rows}
    assert all(row["ratio"] == ratios[row["label"]] for row in bars.rows)


def test_where_the_fastest_is_not_advised_the_reader_learns_why() -> None:
    why = "; of those about as fast the simplest is advised"
    assert exhibits(FLUX)["ladder-denoise"].title.endswith(why)
    fastest = changed("torchao-fp8-rowwise+compile", 90.0)
    assert exhibits(fastest)["ladder-denoise"].title.endswith("speed over BF16 as it is")


def test_what_decides_fits_into_eighty_columns_with_the_configuration_in_full() -> None:
    found = exhibits(FULL)["ladder-denoise-figures"]
    exhibit = {"kind": found.kind, "rows": found.rows, "title": found.title, "unit": found.unit}
    text = [line.plain for line in draw(exhibit, 78)]
    assert all(max(map(len, text)) <= 78 for _ in text)
    for row in found.rows:
        if len(row["cells"]["config"]) <= 36:
            assert any(line.startswith(row["cells"]["config"] + " ") for line in text)


def test_no_figure_of_a_rung_is_lost() -> None:
    cells = [cell for shown in exhibits(FULL).values() if shown.kind == "table" for cell in shown.rows]
    of_bf16 = [cell["cells"] for cell in cells if cell["cells"].get("config") == "torch-bf16"]
    told = {value for one in of_bf16 for value in one.values()}
    (bf16,) = (one for one in FULL.rungs or () if one.config == "torch-bf16")
    left_out = {"step", "outcome", "relative_error_limit", "graphs", "graph_breaks"}
    for field in fields(Rung):
        value = getattr(bf16, field.name)
        if value is not None and field.name not in {"step_ms", "host_ms", "memory", *left_out}:
            assert value in told, field.name
    assert {bf16.step_ms.median if bf16.step_ms else None, bf16.host_ms.median if bf16.host_ms else None} <= told
    assert {"low", "high", "tokens/s", "steps"} < {name for one in of_bf16 for name in one}


def test_memory_is_the_most_of_each_phase_in_its_order() -> None:
    (row,) = exhibits(FULL)["ladder-memory"].rows
    assert row["cells"] == {"config": "torch-bf16", "build": 2.0, "convert": 3.0, "steps": 2.5, "weights": 23.8}


def test_a_step_is_named_where_there_are_several() -> None:
    decode = replace(rung("torch-bf16", 12.0), step="decode")
    shown = exhibits(replace(more(decode), tokens={STEP: 4608, "decode": 16}))
    assert [row["cells"]["step"] for row in shown["ladder"].rows][-1] == "decode"
    assert [row["cells"]["config"] for row in shown["ladder-decode-figures"].rows] == ["torch-bf16"]
    assert "step" not in exhibits(FLUX)["ladder"].rows[0]["cells"]


def test_what_did_not_run_has_a_table_with_its_reason() -> None:
    shown = exhibits(more(failed("te-bf16", "not-measured", "transformer_engine is not installed")))
    (row,) = shown["ladder-not-measured"].rows
    assert row["cells"]["why not"] == "transformer_engine is not installed"
    assert "te-bf16" not in str(shown["ladder"].rows)
    assert "ladder-not-measured" not in exhibits(FLUX)


def test_a_step_cache_stands_in_its_own_table_alone() -> None:
    skipping = SkippedStep(ms(175.0), ms(9.0), 0.03)
    shown = exhibits(more(rung("torch-bf16+cache-first-block", None, skipping=skipping)))
    assert [name for name, one in shown.items() if "cache-first-block" in str(one.rows)] == ["ladder-step-caches"]
