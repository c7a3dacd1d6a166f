"""The rules on a step's trace, one by one: where each speaks, where it is silent, where it cannot tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fp8doctor.checks.step import (
    attention_rules,
    ceiling,
    communication_rules,
    coverage_rules,
    exhibits,
    format_rules,
    host_rules,
    quantising_rules,
)
from fp8doctor.model import EXHIBIT_ROWS, Finding, NotApplicable, Severity, Unknown
from fp8doctor.observed import Model, Trial
from fp8doctor.registry import load
from fp8doctor.traced import RankTotal, Trace
from tests import step_situations as steps
from tests.step_facts import STEPS, gemms, head, kernel, layers, operator, product, trace


def found(verdict: Any) -> Finding:
    assert isinstance(verdict, Finding), verdict
    return verdict


# --- the host


def test_a_short_stall_is_none_and_a_longer_one_is_a_note() -> None:
    base = steps.eager_bf16()
    assert base.span_us
    assert host_rules.host_stalls(replace(base, idle_elsewhere_us=0.04 * base.span_us)) is None
    assert found(host_rules.host_stalls(replace(base, idle_elsewhere_us=0.1 * base.span_us))).severity is Severity.INFO
    assert isinstance(host_rules.host_stalls(replace(base, idle_elsewhere_us=None)), Unknown)


def test_python_between_two_operators_is_launching_and_no_stall() -> None:
    base = steps.eager_bf16()
    assert base.span_us
    slow = replace(base, idle_launching_us=0.3 * base.span_us, idle_elsewhere_us=0.25 * base.span_us)
    assert found(host_rules.host_stalls(slow)).severity is Severity.INFO  # stacks slow Python down
    assert found(host_rules.host_stalls(replace(slow, has_stacks=False))).severity is Severity.WARNING
    between = replace(slow, idle_between_us=0.25 * base.span_us)
    assert host_rules.host_stalls(between) is None
    assert "55 %" in found(host_rules.launch_bound(between)).title


def test_a_loader_that_is_waited_for_is_named() -> None:
    asleep = steps.host_asleep()
    evidence = found(host_rules.host_stalls(replace(asleep, idle_loading_us=50_000.0))).evidence
    assert any("data loader" in e.text for e in evidence)


def test_one_value_read_back_a_step_is_customary() -> None:
    many = steps.item_in_every_block()
    assert many.waits is not None
    once = tuple(replace(w, count=STEPS) for w in many.waits)
    assert host_rules.host_looks(replace(many, waits=once)) is None
    assert host_rules.host_looks(replace(many, idle_launching_us=0.0, idle_waiting_us=0.0)) is None
    assert isinstance(host_rules.host_looks(replace(many, waits=None)), Unknown)


def test_where_waiting_for_values_is_half_of_launching_it_is_told_instead() -> None:
    many = steps.item_in_every_block()
    assert many.span_us
    assert many.waits
    launching = 0.3 * many.span_us
    slow = replace(many, has_stacks=False, idle_launching_us=launching, idle_between_us=0.0)
    half, less = (replace(many.waits[0], us=share * launching) for share in (0.5, 0.4))
    another = replace(many.waits[0], operator="aten::copy_", us=launching)
    for waits in ((half,), (less,), (less, another)):
        assert isinstance(host_rules.host_looks(replace(slow, waits=waits)), Finding)
    assert isinstance(host_rules.launch_bound(replace(slow, waits=(half,))), NotApplicable)
    assert isinstance(host_rules.launch_bound(replace(slow, waits=(less, another))), Finding)


def test_launching_is_judged_milder_where_the_profiler_kept_stacks() -> None:
    base = steps.eager_bf16()
    assert base.span_us
    slow = replace(base, idle_launching_us=0.3 * base.span_us)
    assert found(host_rules.launch_bound(slow)).severity is Severity.INFO
    assert found(host_rules.launch_bound(replace(slow, has_stacks=False))).severity is Severity.WARNING


def test_a_compilation_counts_where_the_gpu_was_idle_for_it() -> None:
    base = steps.healthy_bf16()
    assert base.span_us
    busy = replace(base, compilations=1, compilation_us=0.5 * base.span_us)
    assert host_rules.compiles(busy) is None  # beside the GPU's work
    held = replace(busy, idle_us=0.5 * base.span_us)
    assert "compiled once" in found(host_rules.compiles(held)).title


def test_a_model_in_pieces_is_many_regions_of_few_kernels() -> None:
    base = steps.healthy_bf16()
    assert base.span_us
    pieces = replace(base, compiled_regions=STEPS * 60, launches=STEPS * 240, idle_launching_us=0.5 * base.span_us)
    assert "60 compiled regions" in found(host_rules.compiles(pieces)).title
    assert host_rules.compiles(replace(pieces, launches=STEPS * 3000)) is None


def test_copies_beside_other_work_are_not_counted() -> None:
    copying = steps.weights_from_host()
    assert found(host_rules.copied_from_host(copying)).severity is Severity.WARNING
    assert copying.us_by_kind is not None
    assert copying.busy_us is not None
    hidden = replace(copying, busy_us=copying.busy_us - copying.us_by_kind["copy-from-host"])
    assert host_rules.copied_from_host(hidden) is None


# --- communication


def _sending(name: str, count: int, us: float, exposed: float) -> Trace:
    te = steps.transformer_engine(1, 120.0, launching=50.0)
    sent = kernel("communication", name, None, count, us)
    return trace(
        [*(te.kernels or ()), sent],
        communication_us=STEPS * us,
        exposed_communication_us=STEPS * exposed,
        ranks=(RankTotal(0, 9000.0, 6000.0, STEPS * us, STEPS * exposed),),
    )


def test_exposed_communication_is_told_and_hidden_is_not() -> None:
    gathering = "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
    told = found(communication_rules.communicates(_sending(gathering, 4, 600.0, 500.0)))
    assert told.severity is Severity.WARNING
    assert any("rank 0" in e.text for e in told.evidence)
    assert communication_rules.communicates(_sending(gathering, 4, 600.0, 5.0)) is None
    assert isinstance(communication_rules.communicates(steps.healthy_fp8()), NotApplicable)


def test_small_all_reduces_of_maxima_are_scales() -> None:
    maximum = "ncclDevKernel_AllReduce_MinMax_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
    assert "scales" in found(communication_rules.reduces_scales(_sending(maximum, 12, 240.0, 240.0))).title
    gradients = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
    assert communication_rules.reduces_scales(_sending(gradients, 12, 240.0, 240.0)) is None
    large = communication_rules.reduces_scales(_sending(maximum, 2, 900.0, 900.0))
    assert large is None


# --- quantising


def test_fused_quantising_is_not_called_eager() -> None:
    assert quantising_rules.not_compiled(steps.healthy_fp8()) is None
    assert quantising_rules.not_compiled(steps.te_microbatches()) is None
    assert isinstance(quantising_rules.not_compiled(steps.healthy_bf16()), NotApplicable)


def test_eager_layers_in_a_compiled_model_are_looked_for() -> None:
    mixed = replace(steps.eager_fp8(), inductor_kernels=20)
    told = found(quantising_rules.not_compiled(mixed))
    assert "although other parts are compiled" in told.title
    assert "graph_breaks" in (told.actions[0].command or "")


def test_casts_that_take_half_of_the_products_are_a_note() -> None:
    healthy = steps.healthy_fp8()
    assert quantising_rules.quantise_overhead(healthy) is None
    assert healthy.us_by_kind is not None
    half = {**healthy.us_by_kind, "quantize": 0.6 * healthy.us_by_kind["fp8-gemm"]}
    assert found(quantising_rules.quantise_overhead(replace(healthy, us_by_kind=half))).severity is Severity.INFO


def test_weights_cast_once_a_step_are_right() -> None:
    many = steps.te_microbatches()
    assert found(quantising_rules.requantised(many)).title.endswith("8 times a step")
    assert quantising_rules.requantised(steps.te_small_layers()) is None
    assert many.kernels is not None
    kept = tuple(replace(k, count=2 * (k.count or 0) // 3) if k.kind == "quantize" else k for k in many.kernels)
    assert quantising_rules.requantised(replace(many, kernels=kept)) is None
    assert isinstance(quantising_rules.requantised(steps.healthy_fp8()), NotApplicable)


def test_few_rows_are_fine_where_nothing_else_costs() -> None:
    few = steps.sixteen_tokens()
    unsized = replace(few, products=None)
    assert isinstance(quantising_rules.small_shapes(unsized), Finding)  # microseconds each: small, whatever their sizes
    longer = {**(few.us_by_kind or {}), "fp8-gemm": 50.0 * (few.count_by_kind or {})["fp8-gemm"]}
    assert isinstance(quantising_rules.small_shapes(replace(unsized, us_by_kind=longer)), Unknown)
    assert quantising_rules.small_shapes(steps.eager_fp8()) is None
    graph = trace(gemms(layers("fp8-gemm", 16)), products=tuple(layers("fp8-gemm", 16)), launching=0.0)
    assert quantising_rules.small_shapes(graph) is None


# --- formats


def test_fp8_that_ran_answers_and_fp8_nobody_asked_for_does_not() -> None:
    assert format_rules.not_applied(steps.healthy_fp8()) is None
    assert isinstance(format_rules.not_applied(steps.healthy_bf16()), NotApplicable)
    assert isinstance(format_rules.not_applied(steps.storage_only()), NotApplicable)


def test_layers_of_an_fp8_library_in_16_bits() -> None:
    products = [product("bf16-gemm", 4096, 4096, 4096, 4, 760, "Float8Linear_0", "Float8Linear_1")]
    told = found(format_rules.not_applied(trace(gemms(products), products=tuple(products))))
    assert told.severity is None  # the rule's own: an error
    casts = kernel("quantize", "void transformer_engine::cast_transpose_kernel<x>", None, 4, 40)
    plain = [product("bf16-gemm", 4096, 4096, 4096, 4, 760)]
    assert found(format_rules.not_applied(trace([*gemms(plain), casts]))).severity is Severity.WARNING
    in_te = trace(gemms(plain), operators=(operator("_Linear", 4),))
    note = format_rules.not_applied(in_te)
    assert isinstance(note, list)
    assert found(note[0]).severity is Severity.INFO
    assert isinstance(note[1], Unknown)  # so that it does not answer whether FP8 runs


def test_a_kv_cache_in_fp8_is_no_fp8_product_asked_for() -> None:
    cache = kernel("quantize", "void vllm::reshape_and_cache_flash_kernel<fp8>", None, 2, 20)
    base = gemms(layers("bf16-gemm"))
    assert isinstance(format_rules.not_applied(trace([*base, cache])), NotApplicable)


def test_storage_and_weight_only_are_told_apart_by_what_they_are_cast_to() -> None:
    assert format_rules.storage_only(steps.weight_only()) is None
    assert format_rules.weight_only(steps.storage_only()) is None
    unsized = replace(steps.weight_only(), casts=None)  # then by the multiplications
    assert found(format_rules.weight_only(unsized))
    assert isinstance(format_rules.storage_only(steps.eager_bf16()), NotApplicable)


def test_products_that_dequantise_inside_are_a_note() -> None:
    marlin = kernel(
        "other-gemm", "void marlin::Marlin<1125899906909960l, 1099511627776l>", "_C::gptq_marlin_gemm", 8, 900
    )
    assert found(format_rules.weight_only(trace([marlin]))).severity is Severity.INFO


def test_a_head_narrow_layers_and_gradients_of_weights_are_rightly_no_fp8() -> None:
    in_fp8 = [product("fp8-gemm", 8192, 4096, 14336, 8, 5000)]
    for m, k, n, count in [(8192, 4096, 128_256, 8), (8192, 4096, 1024, 8), (64, 4096, 4096, 8), (4096, 4096, 4096, 1)]:
        products = [*in_fp8, product("bf16-gemm", m, k, n, count, 3000)]
        assert coverage_rules.partly_covered(trace(gemms(products), products=tuple(products))) is None
    gradient = [*in_fp8, product("bf16-gemm", 14336, 8192, 4096, 8, 6000)]
    assert coverage_rules.partly_covered(trace(gemms(gradient), products=tuple(gradient))) is None


def test_without_sizes_the_layers_that_stayed_are_not_known() -> None:
    half = replace(steps.half_converted(), products=None, has_shapes=False)
    verdict = coverage_rules.partly_covered(half)
    assert isinstance(verdict, Unknown)
    assert "record_shapes" in verdict.reason
    assert isinstance(coverage_rules.lora_unfused(half), Unknown)


def test_narrow_layers_of_a_model_are_no_adapters() -> None:
    products = [*layers("bf16-gemm"), product("bf16-gemm", 4096, 4096, 64, 2, 20)]  # a router
    assert coverage_rules.lora_unfused(trace(gemms(products), products=tuple(products))) is None


def test_a_router_in_fp32_is_no_model_in_fp32() -> None:
    base = steps.healthy_fp8()
    router = kernel("fp32-gemm", "sm80_xmma_gemm_f32f32_f32f32", "aten::mm", 2, 20, precision="32-bit")
    assert coverage_rules.rest_in_fp32(trace([*(base.kernels or ()), router])) is None


# --- attention and the ceiling


def test_fused_attention_in_16_bits_is_right() -> None:
    assert attention_rules.slow_attention(steps.healthy_bf16()) is None
    products = layers("bf16-gemm")
    assert isinstance(attention_rules.slow_attention(trace(gemms(products))), NotApplicable)


def test_a_loss_is_no_attention() -> None:
    name = "void at::native::cunn_SoftMaxForward<8, float, float, float, LogSoftMaxForwardEpilogue>"
    loss = kernel("elementwise", name, "aten::_log_softmax", 1, 3000)
    assert isinstance(attention_rules.slow_attention(trace([*gemms(head()), loss])), NotApplicable)


def test_the_efficient_kernel_in_16_bits_is_a_note() -> None:
    slow = steps.attention_efficient_fp32()
    assert slow.kernels is not None
    kernels = tuple(replace(k, precision="16-bit") if k.kind == "attention" else k for k in slow.kernels)
    assert found(attention_rules.slow_attention(replace(slow, kernels=kernels))).severity is Severity.INFO


def test_the_ceiling_is_amdahls() -> None:
    bf16 = ceiling.ceiling_of(steps.healthy_bf16())
    assert bf16 is not None
    assert bf16.factor == pytest.approx(1 / (1 - bf16.share + bf16.share / 2))
    assert bf16.recorded_us == bf16.bf16_us
    fp8 = ceiling.ceiling_of(steps.healthy_fp8())
    assert fp8 is not None
    assert fp8.fp8_us < fp8.recorded_us < fp8.bf16_us
    assert ceiling.ceiling_of(replace(steps.healthy_bf16(), compute_capabilities=("8.0",))) is None
    assert ceiling.only_products_gain(steps.healthy_fp8(), None) is None


def test_a_ceiling_is_not_told_where_fp8_was_tried() -> None:
    trace = steps.healthy_bf16()
    tried = Model(trials=(Trial(config="torchao-fp8-rowwise+compile", outcome="ok"),))
    assert isinstance(ceiling.only_products_gain(trace, tried), NotApplicable)
    assert ceiling.ceiling_table(trace, tried) is None
    for others in (
        Trial(config="torch-bf16+compile", outcome="ok"),
        Trial(config="torchao-fp8-rowwise", outcome="failed"),
    ):
        assert found(ceiling.only_products_gain(trace, Model(trials=(others,)))).gain is None
        assert ceiling.ceiling_table(trace, Model(trials=(others,))) is not None


def test_what_is_shown_keeps_to_its_kind_and_begins_with_the_largest() -> None:
    healthy = steps.healthy_fp8()
    made = [exhibits.where_time_went(healthy), exhibits.largest_kernels(healthy), exhibits.largest_products(healthy)]
    for exhibit in (*made, ceiling.ceiling_table(healthy, None)):
        assert exhibit is not None
        assert all(set(row) == set(EXHIBIT_ROWS[exhibit.kind]) for row in exhibit.rows)
    bars = made[0]
    assert bars is not None
    assert bars.rows[0]["label"].startswith("FP8 products, 64 %")
    assert bars.rows[-1]["label"].startswith("idle")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (
            "void vllm::dynamic_per_token_scaled_fp8_quant_kernel_strided<c10::BFloat16, c10::Float8_e4m3fn>(x)",
            "quantize",
        ),
        ("void per_token_group_quant_8bit_kernel<__nv_bfloat16, __nv_fp8_e4m3>(x)", "quantize"),
        ("void marlin::Marlin<vllm::kBFloat16.id(), vllm::kFE4M3fn.id()>(x)", "other-gemm"),
        ("triton_fp8_blockwise_act_quant_lhs_kernel", "quantize"),
        ("void deep_gemm::sm90_fp8_gemm_1d2d_impl<0u, 4096u>(x)", "fp8-gemm"),
        ("nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "bf16-gemm"),
    ],
)
def test_kernels_are_told_by_their_name(name: str, kind: str) -> None:
    import re

    assert next((k.kind for k in load(plugins=[]).kernels if re.search(k.pattern, name)), None) == kind
