"""The rules on a model's layers: each on a model that it speaks of, and on one that it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fp8doctor.checks.model import exhibits, format_rules, use_rules
from fp8doctor.model import Estimate, Finding, NotApplicable, Severity, Unknown
from fp8doctor.observed import Blocks, Layer, LayerGain, Memory, Model, StepRun
from fp8doctor.traced import ProductTotal, Trace

BF16 = Layer(
    name="blocks.*.up", count=8, examples=("blocks.0.up",), class_name="torch.nn.modules.linear.Linear", kind="linear",
    k=4096, n=14_336, dtype="bfloat16", keeps="16-bit", multiplies="16-bit", device="cuda:0", compiled=False,
    misaligned=False, rows=(4096,),
)  # fmt: skip
STORED = replace(BF16, keeps="fp8", kept_dtype="float8_e4m3fn")
DYNAMIC = replace(STORED, library="torchao", multiplies="fp8", scaling="rowwise", compiled=True)
WEIGHT_ONLY = replace(STORED, library="torchao", scaling="rowwise")
ENGINE = replace(BF16, library="transformer-engine")
RAN = StepRun(first_ms=900.0, step_ms=Estimate(20.0, 19.0, 21.0, 12), host_ms=5.0)


def model(*layers: Layer, **more: Any) -> Model:
    return Model(layers=layers, run=more.pop("run", RAN), **more)


def found(verdict: Any) -> Finding:
    assert isinstance(verdict, Finding), verdict
    return verdict


def test_weights_kept_in_fp8_without_an_fp8_product_are_storage() -> None:
    finding = found(format_rules.kept_in_fp8(model(STORED)))
    assert finding.title == "8 layers keep FP8 weights and multiply in 16 bits"
    assert any("blocks.*.up: 8 of Linear(4096, 14336)" in e.text for e in finding.evidence)
    assert isinstance(format_rules.kept_in_fp8(model(DYNAMIC, WEIGHT_ONLY, BF16)), NotApplicable)


def test_quantised_weights_alone_are_slow_but_for_a_few_rows() -> None:
    assert found(format_rules.weights_alone(model(WEIGHT_ONLY))).severity is Severity.WARNING
    assert found(format_rules.weights_alone(model(replace(WEIGHT_ONLY, rows=(16,))))).severity is Severity.INFO
    assert isinstance(format_rules.weights_alone(model(DYNAMIC, STORED)), NotApplicable)


def test_wide_layers_beside_fp8_ones_are_left_out() -> None:
    trace = Trace()
    finding = found(format_rules.left_out(model(DYNAMIC, replace(BF16, name="other.*")), trace))
    assert "50 % of the linear layers' weights" in finding.title
    assert finding.severity is Severity.WARNING
    narrow = replace(BF16, n=1024)
    head = replace(BF16, n=128_256)
    modulation = replace(BF16, rows=(1,))
    assert format_rules.left_out(model(DYNAMIC, narrow, head, modulation), trace) is None
    assert isinstance(format_rules.left_out(model(BF16), trace), NotApplicable)


def test_the_rows_of_compiled_layers_are_those_of_the_recorded_products() -> None:
    hidden = replace(BF16, name="norm.*", compiled=True, rows=None)
    few = Trace(products=(ProductTotal(operator="aten::mm", kind="bf16-gemm", m=1, k=4096, n=14_336),))
    many = Trace(products=(ProductTotal(operator="aten::mm", kind="bf16-gemm", m=4096, k=4096, n=14_336),))
    assert format_rules.left_out(model(DYNAMIC, hidden), few) is None
    assert format_rules.left_out(model(DYNAMIC, hidden), Trace()) is None  # nothing says that it has more
    assert found(format_rules.left_out(model(DYNAMIC, hidden), many)).severity is Severity.WARNING
    assert found(format_rules.left_out(model(DYNAMIC, hidden), None)).severity is Severity.INFO


def test_sizes_that_fp8_does_not_take_are_told_beside_fp8_layers() -> None:
    odd = replace(BF16, n=14_330)
    assert "no multiple of 16" in found(format_rules.odd_sizes(model(DYNAMIC, odd))).title
    assert format_rules.odd_sizes(model(DYNAMIC, BF16)) is None
    assert isinstance(format_rules.odd_sizes(model(odd)), NotApplicable)


def test_what_padding_saves_is_told_where_it_was_timed() -> None:
    odd = replace(BF16, n=14_330)
    gain = LayerGain(
        (odd.name or "",),
        8,
        4096,
        odd.k,
        14_330,
        bf16_us=Estimate(400.0, 399.0, 401.0, 9),
        layer_us=Estimate(250.0, 249.0, 251.0, 9),
    )
    timed = found(format_rules.odd_sizes(model(DYNAMIC, odd, gains=(gain,))))
    assert [e.text for e in timed.evidence if e.fact == "model.gains"] == [
        "padding the weight once would save about 1.2 ms of a step of 20.0 ms, timed at the padded size"
    ]
    for nothing in (replace(gain, layer_us=Estimate(400.0, 399.0, 401.0, 9)), replace(gain, names=("other",))):
        told = found(format_rules.odd_sizes(model(DYNAMIC, odd, gains=(nothing,))))
        assert not [e for e in told.evidence if e.fact == "model.gains"]


def test_an_odd_address_is_the_cause_of_a_step_that_fails() -> None:
    odd = replace(DYNAMIC, misaligned=True, count=1)
    assert found(format_rules.odd_addresses(model(odd))).severity is Severity.WARNING
    failed = StepRun(error="RuntimeError: CUDA error: CUBLAS_STATUS_NOT_SUPPORTED", failed_at="the first call")
    assert found(format_rules.odd_addresses(model(odd, run=failed))).severity is Severity.ERROR
    assert format_rules.odd_addresses(model(DYNAMIC)) is None
    assert isinstance(format_rules.odd_addresses(model(BF16)), NotApplicable)


def test_layers_of_transformer_engine_that_ran_in_16_bits_were_not_reached() -> None:
    assert "none of them in FP8" in found(format_rules.never_in_fp8(model(ENGINE))).title
    assert format_rules.never_in_fp8(model(replace(ENGINE, multiplies="fp8"))) is None
    assert isinstance(format_rules.never_in_fp8(model(ENGINE, run=None)), NotApplicable)
    assert isinstance(format_rules.never_in_fp8(model(DYNAMIC)), NotApplicable)


def test_fp8_layers_in_fp32_need_an_autocast() -> None:
    wide = replace(DYNAMIC, dtype="float32", trains=True)
    slow = Trace(busy_us=100.0, us_by_kind={"fp32-gemm": 40.0})
    assert isinstance(format_rules.rest_in_fp32(model(wide, autocast="off"), None), Finding)
    assert isinstance(format_rules.rest_in_fp32(model(wide), slow), Finding)
    assert isinstance(format_rules.rest_in_fp32(model(wide), None), Unknown)
    assert format_rules.rest_in_fp32(model(wide, autocast="bfloat16"), slow) is None
    assert format_rules.rest_in_fp32(model(DYNAMIC, autocast="off"), slow) is None
    assert isinstance(format_rules.rest_in_fp32(model(BF16), slow), NotApplicable)


def test_torchaos_fp8_layers_are_to_be_compiled() -> None:
    eager = replace(DYNAMIC, compiled=False)
    lists = (Blocks("blocks", "Block", 8, 1, 0),)
    finding = found(use_rules.not_compiled(model(eager, blocks=lists)))
    assert finding.actions[0].command == "for block in model.blocks: block.compile()"
    assert use_rules.not_compiled(model(DYNAMIC)) is None
    assert isinstance(use_rules.not_compiled(model(replace(eager, library="transformer-engine"))), NotApplicable)


def test_what_is_compiled_in_part_is_told_once() -> None:
    half = model(DYNAMIC, replace(DYNAMIC, compiled=False), blocks=(Blocks("blocks", "Block", 8, 1, 4),))
    assert found(use_rules.partly_compiled(half)).title == "8 of 16 FP8 layers stand outside of what is compiled"
    assert isinstance(use_rules.not_compiled(half), NotApplicable)
    assert isinstance(use_rules.partly_compiled(model(DYNAMIC)), NotApplicable)


def test_an_adapter_beside_fp8_and_beside_16_bits_is_told_apart() -> None:
    on_fp8, beside = replace(STORED, adapter_rank=16), replace(BF16, adapter_rank=16)
    assert "rank 16" in found(use_rules.adapters_on_fp8(model(on_fp8))).title
    assert isinstance(use_rules.adapters(model(on_fp8)), NotApplicable)
    assert "unfused" in found(use_rules.adapters(model(beside))).title
    assert isinstance(use_rules.adapters_on_fp8(model(beside)), NotApplicable)
    assert isinstance(use_rules.adapters(model(beside, training=True)), NotApplicable)


def test_weights_away_from_the_gpu_are_told() -> None:
    assert "accelerate" in found(use_rules.offloaded(model(replace(BF16, offloaded_by="accelerate")))).title
    assert found(use_rules.offloaded(model(BF16, replace(BF16, device="cpu"))))
    assert use_rules.offloaded(model(BF16)) is None
    assert use_rules.offloaded(model(replace(BF16, device="cpu"))) is None  # all of it runs there


def test_a_first_call_is_long_if_it_hides_the_steps() -> None:
    long = replace(RAN, first_ms=6300.0)
    assert "6.3 s" in found(use_rules.long_first_call(model(run=long, compiled="parts"))).title
    for nothing in ("none", None):
        assert use_rules.long_first_call(model(run=long, compiled=nothing)) is None
    longer = replace(RAN, first_ms=31_000.0)
    assert "31.0 s" in found(use_rules.long_first_call(model(run=longer, compiled="none"))).title
    assert use_rules.long_first_call(model(run=RAN)) is None
    assert isinstance(use_rules.long_first_call(model(run=None)), NotApplicable)
    assert isinstance(use_rules.long_first_call(model(run=replace(RAN, first_ms=None))), Unknown)


def test_a_long_first_call_also_says_what_a_clock_reads_that_does_not_wait() -> None:
    on_gpu = {"cuda:0": 10, "meta": 1}
    long = replace(RAN, first_ms=6300.0)
    both = found(use_rules.long_first_call(model(parameters_by_device=on_gpu, run=long, compiled="whole")))
    assert [e.text for e in both.evidence][
        1
    ] == "a clock that does not wait for the GPU reads 5.0 ms for a step of 20.0 ms"
    # Of a model that is well it is no news.
    assert use_rules.long_first_call(model(parameters_by_device=on_gpu)) is None
    for elsewhere in ({"cpu": 10}, {"cuda:0": 10, "cpu": 10}, {"meta": 10}, None):
        there = model(parameters_by_device=elsewhere, run=long, compiled="whole")
        assert len(found(use_rules.long_first_call(there)).evidence) == 1


def test_checkpointing_is_told_where_memory_is_mostly_free() -> None:
    roomy = Memory(weights_gb=1.0, buffers_gb=0.0, gradients_gb=0.0, other_gb=4.0, step_gb=20.0, device_gb=141.0)
    trains = model(training=True, checkpointing=True, memory=roomy)
    told = found(use_rules.checkpointing_with_room(trains))
    assert "needs 25 of 141 GB with it" in told.title
    assert told.actions[0].text == "Try without, or for some blocks, and watch the peak"
    full = replace(roomy, step_gb=40.0)
    assert use_rules.checkpointing_with_room(replace(trains, memory=full)) is None
    assert isinstance(use_rules.checkpointing_with_room(replace(trains, memory=replace(full, other_gb=None))), Unknown)
    assert isinstance(use_rules.checkpointing_with_room(replace(trains, checkpointing=False)), NotApplicable)


def test_a_step_that_fails_is_an_error() -> None:
    failed = StepRun(error="ValueError: no", failed_at="the first call")
    assert found(use_rules.does_not_run(model(run=failed))).title == "The step failed in the first call"
    assert use_rules.does_not_run(model()) is None
    assert isinstance(use_rules.does_not_run(model(run=None)), NotApplicable)


def test_the_layers_stand_with_the_products_of_their_size() -> None:
    trace = Trace(
        steps=2,
        products=(
            ProductTotal(operator="aten::_scaled_mm", kind="fp8-gemm", m=4096, k=4096, n=14_336, count=16, us=9000.0),
            ProductTotal(operator="aten::mm", kind="bf16-gemm", m=1, k=4096, n=14_336, count=2, us=10.0),
        ),
    )
    table = exhibits.layers_table(model(DYNAMIC, replace(BF16, name="head", k=64)), trace)
    assert table is not None
    first, other = (row["cells"] for row in table.rows)
    assert (first["layers"], first["count"], first["ran as"], first["us a step"]) == (
        "blocks.*.up",
        "8",
        "FP8",
        "4,500",
    )
    assert first["multiplies"] == "fp8, rowwise"
    assert (other["ran as"], other["us a step"]) == ("", "")
    assert exhibits.layers_table(model(), trace) is None
