"""The rules on what layers are set to, beside what ran: each on a model that it speaks of, and on one it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fp8doctor.checks.model import attention_rules, choice_rules, kernel_rules
from fp8doctor.checks.step import quantising_rules
from fp8doctor.model import Finding, NotApplicable, Severity, Unknown
from fp8doctor.observed import Layer, Model, StepRun
from fp8doctor.traced import ProductTotal, Trace
from tests import step_facts as facts
from tests.checks.test_model_rules import BF16, DYNAMIC, ENGINE, STORED, WEIGHT_ONLY, found, model

CALLED = replace(DYNAMIC, compiled=False, rows=(4096,))
HIDDEN = replace(DYNAMIC, compiled=True, rows=None)


def of_size(kind: str, k: int, n: int, *, count: int = 8, us: float = 650.0) -> ProductTotal:
    return facts.product(kind, 4096, k, n, count, us)


def step(*products: ProductTotal, kernels: tuple[Any, ...] = (), **more: Any) -> Trace:
    return facts.trace([*facts.gemms(list(products)), *kernels], products=products, **more)


IN_16_BITS = step(of_size("bf16-gemm", 4096, 14_336))
ATTENTION = facts.kernel("attention", facts.CUDNN, None, 8, 200.0, backend="cudnn")


def test_layers_set_to_fp8_that_multiply_in_16_bits_fell_back() -> None:
    finding = found(kernel_rules.fell_back(model(CALLED), IN_16_BITS))
    assert finding.title == "8 layers are set to multiply in FP8, and their products ran in 16 bits"
    assert any("compute capability 9.0" in e.text for e in finding.evidence)
    assert isinstance(kernel_rules.fell_back(model(HIDDEN), IN_16_BITS), Finding)
    without_sizes = replace(IN_16_BITS, products=(), has_shapes=False)
    assert isinstance(kernel_rules.fell_back(model(CALLED), without_sizes), Finding)


def test_nothing_fell_back_where_a_product_ran_in_fp8() -> None:
    both = step(of_size("bf16-gemm", 4096, 14_336), of_size("fp8-gemm", 4096, 4096, count=1))
    assert kernel_rules.fell_back(model(CALLED), both) is None


def test_a_fallback_is_none_where_the_gpu_cannot_or_nothing_asks_for_fp8() -> None:
    ampere = replace(IN_16_BITS, compute_capabilities=("8.0",))
    assert isinstance(kernel_rules.fell_back(model(CALLED), ampere), NotApplicable)
    assert isinstance(kernel_rules.fell_back(model(replace(CALLED, multiplies="fp4")), IN_16_BITS), NotApplicable)
    assert isinstance(kernel_rules.fell_back(model(BF16, STORED, WEIGHT_ONLY), IN_16_BITS), NotApplicable)
    assert isinstance(kernel_rules.fell_back(model(CALLED, ENGINE), IN_16_BITS), NotApplicable)
    assert isinstance(kernel_rules.fell_back(model(CALLED), replace(IN_16_BITS, accelerator="rocm")), NotApplicable)
    in_full = step(kernels=(facts.kernel("fp32-gemm", "sgemm", "aten::mm", 8, 5000.0),))
    assert isinstance(kernel_rules.fell_back(model(CALLED), in_full), NotApplicable)


@pytest.mark.parametrize(
    ("layer", "trace"),
    [
        (replace(CALLED, rows=None), IN_16_BITS),  # not called, as far as was seen
        (CALLED, step(of_size("bf16-gemm", 4096, 4096))),  # another layer's product
        (CALLED, replace(IN_16_BITS, compute_capabilities=None)),
        (CALLED, replace(IN_16_BITS, missing=("no table of kernels",))),
        (
            CALLED,
            step(of_size("bf16-gemm", 4096, 14_336), kernels=(facts.kernel("other-gemm", "gemm", None, 8, 90.0),)),
        ),
        (CALLED, step(of_size("bf16-gemm", 4096, 14_336), kernels=(facts.kernel("other", "mine", None, 8, 9000.0),))),
        (CALLED, Trace(accelerator="cpu")),
    ],
)
def test_a_fallback_stays_open_where_it_is_not_certain(layer: Layer, trace: Trace) -> None:
    assert isinstance(kernel_rules.fell_back(model(layer), trace), Unknown)


def test_the_product_of_a_compiled_layer_is_its_own_only_where_no_other_layer_has_its_size() -> None:
    beside = replace(BF16, name="other.*", rows=(4096,))
    assert isinstance(kernel_rules.fell_back(model(HIDDEN, beside), IN_16_BITS), Unknown)


def attention(implementation: str | None, **more: Any) -> Layer:
    known = {"name": "blocks.*.attn", "count": 8, "kind": "attention", "class_name": "a.Attention"}
    return Layer(**{**known, "implementation": implementation, **more})


INSIDE = replace(BF16, name="blocks.*.attn.to_q", rows=(4096,))


@pytest.mark.parametrize(
    ("asked", "imports"),
    [
        ("flash_attention_2", "flash_attn"),
        ("flash_attention_3", "flash_attn_interface"),
        ("paged|flash_attention_3", "flash_attn_interface"),
        ("_flash_3_hub", "flash_attn_interface"),
        ("kernels-community/vllm-flash-attn3", "flash_attn_interface"),
        ("flash", "flash_attn"),
        ("sage", "sageattention"),
        ("_sage_qk_int8_pv_fp8_cuda_sm90", "sageattention"),
    ],
)
def test_an_attention_asked_for_by_name_that_is_none_of_what_ran_is_told(asked: str, imports: str) -> None:
    finding = found(attention_rules.another_attention_ran(model(attention(asked), INSIDE), step(kernels=(ATTENTION,))))
    assert finding.title.endswith("and what ran is cuDNN's attention")
    assert finding.actions[0].command == f'python -c "import {imports}"'


@pytest.mark.parametrize(
    ("asked", "kernel"),
    [
        ("flash_attention_2", {"name": "void flash::flash_fwd_kernel", "backend": "flash-attn-2"}),
        ("flash_attention_2", {"name": "flash::enable_sm90<flash::FlashAttnFwdSm90", "backend": "flash-attn-3"}),
        ("_flash_varlen_3", {"name": "flash::enable_sm90<flash::FlashAttnFwdSm90", "backend": "flash-attn-3"}),
        ("sage_hub", {"name": "void qk_int_sv_f8_attn_kernel<128u>"}),
        ("sage", {"name": "qk_int8_sv_f8_attn_kernel", "kind": "other"}),
    ],
)
def test_an_attention_that_ran_as_asked_is_right(asked: str, kernel: dict[str, str]) -> None:
    ran = facts.kernel(kernel.get("kind", "attention"), kernel["name"], None, 8, 200.0, backend=kernel.get("backend"))
    assert (
        attention_rules.another_attention_ran(model(attention(asked), INSIDE), step(kernels=(ran, ATTENTION))) is None
    )


def test_whoever_leaves_the_choice_to_torch_asks_for_nothing() -> None:
    trace = step(kernels=(ATTENTION,))
    for name in ("sdpa", "eager", "_native_flash", "transformer-engine", "paged|sdpa", None):
        assert isinstance(attention_rules.another_attention_ran(model(attention(name)), trace), NotApplicable)
    not_called = (attention("flash_attention_2"), replace(INSIDE, rows=None), replace(BF16, rows=(4096,)))
    assert isinstance(attention_rules.another_attention_ran(model(*not_called), trace), NotApplicable)


@pytest.mark.parametrize(
    ("layers", "trace"),
    [
        ((attention("flex_attention"), INSIDE), step(kernels=(ATTENTION,))),
        ((attention("flash_attention_2"), attention("sdpa")), step(kernels=(ATTENTION,))),
        ((attention("flash_attention_2"),), step(kernels=(ATTENTION, replace(ATTENTION, backend=None)))),
        ((attention("flash_attention_2"),), step(kernels=(replace(ATTENTION, count=3),))),
        ((attention("flash_attention_2"),), step(kernels=(ATTENTION,), accelerator="rocm")),
        ((attention("flash_attention_2"),), step(kernels=(ATTENTION,), kernels_left_out_us=1e6)),
        ((attention("flash_attention_2"),), step(of_size("bf16-gemm", 4096, 4096))),
    ],
)
def test_which_attention_ran_stays_open_where_it_is_not_certain(layers: tuple[Layer, ...], trace: Trace) -> None:
    assert isinstance(attention_rules.another_attention_ran(model(*layers), trace), Unknown)


def test_an_attention_of_little_time_is_a_note() -> None:
    trace = step(of_size("bf16-gemm", 4096, 14_336, us=20_000.0), kernels=(ATTENTION,))
    finding = found(attention_rules.another_attention_ran(model(attention("flash_attention_3")), trace))
    assert finding.severity is Severity.INFO


CONVOLUTION = replace(STORED, name="conv_in", kind="convolution", count=1, class_name="torch.nn.modules.conv.Conv2d")


def failed(error: str) -> StepRun:
    return StepRun(error=error, failed_at="the first call")


@pytest.mark.parametrize(
    ("error", "named"),
    [
        ("NotImplementedError: \"addmm_cuda\" not implemented for 'Float8_e4m3fn'", "blocks.*.up: 8 of Linear"),
        ("RuntimeError: mat1 and mat2 must have the same dtype, but got BFloat16 and Float8_e4m3fn", "blocks.*.up"),
        (
            "RuntimeError: expected m1 and m2 to have the same dtype, but got: c10::BFloat16 != c10::Float8_e4m3fn",
            "blocks.*.up",
        ),
        ("RuntimeError: getCudnnDataTypeFromScalarType() not supported for Float8_e4m3fn", "conv_in: 1 of Conv2d"),
        ("NotImplementedError: \"slow_conv2d_cpu\" not implemented for 'Float8_e4m3fn'", "conv_in"),
        (
            "RuntimeError: Input type (CUDABFloat16Type) and weight type (CUDAFloat8_e4m3fnType) should be the same",
            "conv_in",
        ),
    ],
)
def test_the_layers_that_an_operator_does_not_take_are_named(error: str, named: str) -> None:
    finding = found(kernel_rules.no_operator(model(STORED, CONVOLUTION, DYNAMIC, run=failed(error))))
    assert "float8 weights of" in finding.title
    assert finding.evidence[1].text.startswith(named)
    assert len(finding.evidence) == 2


def test_a_float8_tensor_that_is_no_weight_is_told_without_a_layer() -> None:
    error = "RuntimeError: Promotion for Float8 Types is not supported, attempted to promote BFloat16 and Float8_e5m2"
    finding = found(kernel_rules.no_operator(model(BF16, DYNAMIC, run=failed(error))))
    assert finding.title == "An operator met a float8 tensor that it does not take"
    assert len(finding.evidence) == 1


@pytest.mark.parametrize(
    "error",
    [
        "ValueError: no",
        "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_SUPPORTED",
        "RuntimeError: \"addmm_cuda\" not implemented for 'Int'",
        "RuntimeError: a and b must have the same dtype, but got c10::Float8_e5m2 and c10::Float8_e4m3fn",
    ],
)
def test_another_error_is_none_of_float8(error: str) -> None:
    assert isinstance(kernel_rules.no_operator(model(STORED, run=failed(error))), NotApplicable)


def test_a_step_that_runs_has_its_operators() -> None:
    assert kernel_rules.no_operator(model(STORED)) is None
    assert isinstance(kernel_rules.no_operator(model(STORED, run=None)), NotApplicable)


def test_wide_layers_that_are_narrow_on_each_rank_are_told() -> None:
    column = replace(BF16, k=8192, n=1024, ranks=8, cut="n")
    row = replace(column, name="blocks.*.down", k=1024, n=8192, cut="k", count=4)
    finding = found(choice_rules.narrow_shards(model(column, row)))
    assert finding.title == "Cut over 8 ranks, 12 wide layers are too narrow for FP8 on each"
    assert "Linear(8192, 8192), of which a rank multiplies 8192 x 1024" in finding.evidence[0].text
    assert "Linear(8192, 8192), of which a rank multiplies 1024 x 8192" in finding.evidence[1].text


def test_layers_that_stay_wide_or_were_narrow_before_are_not_cut_too_small() -> None:
    wide = replace(BF16, k=8192, n=7168, ranks=4, cut="n")
    narrow = replace(BF16, k=8192, n=128, ranks=8, cut="n")
    head = replace(BF16, k=4096, n=2048, ranks=64, cut="n")
    assert choice_rules.narrow_shards(model(wide, narrow, head)) is None
    assert isinstance(choice_rules.narrow_shards(model(BF16)), NotApplicable)
    assert isinstance(choice_rules.narrow_shards(model(replace(wide, n=512, cut=None))), Unknown)


EXPERTS = Layer(
    name="layers.*.mlp.experts", count=8, kind="experts", experts=64, k=2048, n=1536, class_name="a.Experts"
)


def test_padding_of_experts_that_takes_time_is_told() -> None:
    padding = facts.kernel("other", "fused_pad_token_groups_kernel", "torchao::fused_pad_token_groups", 8, 400.0)
    trace = step(of_size("fp8-gemm", 2048, 1536), kernels=(padding,))
    finding = found(kernel_rules.padded_experts(model(EXPERTS), trace))
    assert finding.title.startswith("Padding the experts' groups takes")
    assert finding.gain is not None
    grouped = replace(ENGINE, class_name="transformer_engine.pytorch.module.grouped_linear.GroupedLinear")
    theirs = replace(padding, name="void multi_padding_kernel<8, __nv_bfloat16>", operator="_Fp8Padding")
    trace = step(of_size("fp8-gemm", 2048, 1536), kernels=(theirs,))
    assert isinstance(kernel_rules.padded_experts(model(grouped), trace), Finding)


def test_padding_that_is_not_seen_stays_open_and_a_little_of_it_is_no_overhead() -> None:
    products = of_size("fp8-gemm", 2048, 1536)
    assert isinstance(kernel_rules.padded_experts(model(EXPERTS), step(products)), Unknown)
    little = facts.kernel("other", "fused_unpad_token_groups_kernel", None, 1, 10.0)
    assert kernel_rules.padded_experts(model(EXPERTS), step(products, kernels=(little,))) is None
    assert isinstance(kernel_rules.padded_experts(model(BF16), step(products)), NotApplicable)
    assert isinstance(kernel_rules.padded_experts(model(EXPERTS), IN_16_BITS), NotApplicable)


def test_an_operator_that_the_compiler_cannot_look_into_is_told_beside_compiled_layers() -> None:
    name = "void vllm::dynamic_per_token_scaled_fp8_quant_kernel<c10::BFloat16>"
    opaque = facts.kernel("quantize", name, "_C::dynamic_per_token_scaled_fp8_quant", 8, 400.0)
    products = of_size("fp8-gemm", 4096, 14_336, us=300.0)
    trace = step(products, kernels=(opaque,))
    finding = found(kernel_rules.opaque_quantising(model(HIDDEN), trace))
    assert finding.title.startswith("Quantising by an operator that is not fused takes")
    # What it costs beside the products is told by the trace's own rule, of which this is the reason.
    assert isinstance(quantising_rules.quantise_overhead(trace), Finding)
    assert not isinstance(quantising_rules.not_compiled(trace), Finding)


def test_what_the_compiler_wrote_or_was_never_given_is_not_opaque() -> None:
    products = of_size("fp8-gemm", 4096, 14_336)
    by_inductor = facts.kernel("quantize", "triton_red_fused__to_copy_abs_clamp_0", None, 8, 900.0)
    eager = facts.kernel("quantize", "at::native::float8_copy_kernel", "torchao::quantize", 8, 900.0)
    own = facts.kernel("amax", "at::native::reduce_kernel<512>", "aten::amax", 8, 900.0)
    for kernel in (by_inductor, eager, own):
        assert kernel_rules.opaque_quantising(model(HIDDEN), step(products, kernels=(kernel,))) is None
    assert isinstance(kernel_rules.opaque_quantising(model(CALLED, HIDDEN), step(products)), NotApplicable)
    assert isinstance(kernel_rules.opaque_quantising(model(BF16), step(products)), NotApplicable)
    assert isinstance(kernel_rules.opaque_quantising(model(HIDDEN), IN_16_BITS), NotApplicable)


BNB = replace(BF16, library="bitsandbytes", keeps="int4", multiplies="16-bit", dtype="uint8")


def test_layers_made_for_memory_are_told_as_known() -> None:
    finding = found(choice_rules.made_for_memory(model(BNB)))
    assert finding.severity is Severity.WARNING
    assert any("known, not measured here" in e.text and "4,096 rows" in e.text for e in finding.evidence)
    unseen = found(choice_rules.made_for_memory(model(replace(BNB, rows=None))))
    assert unseen.severity is Severity.INFO
    eight = found(choice_rules.made_for_memory(model(replace(BNB, keeps="int8", multiplies="int8"))))
    assert eight.severity is Severity.INFO
    assert found(choice_rules.made_for_memory(model(BNB, training=True))).severity is Severity.INFO


def test_weights_alone_pay_for_a_few_rows_and_fp8_ones_are_told_elsewhere() -> None:
    assert choice_rules.made_for_memory(model(replace(BNB, rows=(1,)))) is None
    quanto = replace(STORED, library="quanto", multiplies="16-bit")
    assert isinstance(choice_rules.made_for_memory(model(quanto, BF16)), NotApplicable)
    assert isinstance(choice_rules.made_for_memory(Model(layers=None)), NotApplicable)
