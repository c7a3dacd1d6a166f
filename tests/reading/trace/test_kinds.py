from __future__ import annotations

from pathlib import Path

import pytest

from fp8doctor.traced import KINDS
from tests.reading.trace.made import BF16, ELEMENTWISE, FLOAT, FP8, NVJET_BF16, NVJET_FP8, Made
from tests.reading.trace.reading_made import read, total


def kind(folder: Path, operators: list[str], kernel: str, types: list[str] | None = None) -> tuple[str | None, ...]:
    """What a kernel is told to be below these operators, the outermost first: (kind, operator, what told it)."""
    made = Made()
    external = 0
    for at, operator in enumerate(operators):
        dims = [[64, 32], [32, 16]] if types and at == len(operators) - 1 else None
        external = made.operator(operator, 10 + at, 100 - 2 * at, dims, types)
    correlation = made.call("cudaLaunchKernel", 50, 4, external=external)
    made.kernel(kernel, 200, 5, correlation, external)
    found = total(read(made, folder), kernel[:60])
    assert found.kind in KINDS
    return found.kind, found.operator, found.known_by


def test_the_operator_is_believed_before_the_name(tmp_path: Path) -> None:
    """cuBLAS names the output's type: an FP8 product with a BF16 result has "bf16" in its name."""
    name = "sm90_gemm_bf16_of_some_library"
    assert kind(tmp_path, ["aten::_scaled_mm"], name) == ("fp8-gemm", "aten::_scaled_mm", "operator")
    assert kind(tmp_path, [], name) == ("bf16-gemm", None, "name")


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ([BF16, BF16], "bf16-gemm"),
        (["c10::Half", "c10::Half"], "fp16-gemm"),
        ([FP8, FP8], "fp8-gemm"),
        (["signed char", "signed char"], "int8-gemm"),
    ],
)
def test_a_product_is_of_its_operands_types(tmp_path: Path, types: list[str], expected: str) -> None:
    assert kind(tmp_path, ["aten::mm"], "some_gemm_kernel", types)[0] == expected


def test_products_in_fp32_are_told_from_tf32_by_the_name(tmp_path: Path) -> None:
    types = [FLOAT, FLOAT]
    assert kind(tmp_path, ["aten::mm"], "ampere_sgemm_128x64_nn", types)[0] == "fp32-gemm"
    assert kind(tmp_path, ["aten::mm"], "cutlass_80_tensorop_s1688gemm_128x64", types)[0] == "tf32-gemm"
    assert kind(tmp_path, ["aten::mm"], "unheard_of", types)[0] == "other-gemm"


@pytest.mark.parametrize(
    ("operators", "kernel", "expected"),
    [
        ([], NVJET_FP8, "fp8-gemm"),
        (["_Linear"], NVJET_FP8, "fp8-gemm"),
        ([], NVJET_BF16, "bf16-gemm"),
        ([], "Cijk_Alik_Bljk_F8NBS_BH_MT128x128x64", "fp8-gemm"),
        ([], "Cijk_Ailk_Bljk_BBS_BH_MT256x128x32", "bf16-gemm"),
        (["aten::mm"], "void cublasLt::splitKreduce_kernel<32, 16, int, float>(int)", "other-gemm"),
        (
            ["aten::scaled_dot_product_attention", "aten::_scaled_dot_product_attention_math", "aten::bmm"],
            NVJET_BF16,
            "attention",
        ),
        (["FusedAttnFunc"], "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob", "attention"),
        (["FusedAttnFunc"], "void transformer_engine::cast_transpose_fp8_kernel<float>(int)", "quantize"),
        (["matmul_with_hp_or_float8_args", "aten::clamp"], ELEMENTWISE, "quantize"),
        (["matmul_with_hp_or_float8_args", "aten::amax"], "void at::native::reduce_kernel<512, 1>(int)", "amax"),
        (["matmul_with_hp_or_float8_args", "aten::_scaled_mm"], NVJET_FP8, "fp8-gemm"),
        (["aten::copy_"], "void at::native::unrolled<at::native::float8_copy_kernel_cuda>(int)", "quantize"),
        (
            ["Optimizer.step#AdamW.step", "aten::_foreach_mul_"],
            "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<int>(int)",
            "optimizer",
        ),
        (
            ["aten::layer_norm", "aten::native_layer_norm"],
            "void vectorized_layer_norm_kernel<float>(int)",
            "normalisation",
        ),
        (["aten::rms_norm", "aten::mul"], ELEMENTWISE, "normalisation"),
        (["aten::addmm"], ELEMENTWISE, "elementwise"),
        (["aten::cudnn_convolution"], "sm80_xmma_fprop_implicit_gemm_bf16bf16_bf16f32", "convolution"),
        (
            ["record_param_comms"],
            "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
            "communication",
        ),
        ([], "triton_poi_fused__to_copy_clamp_mul_3", "quantize"),
        ([], "triton_red_fused_abs_amax_0", "amax"),
        ([], "triton_per_fused__to_copy_abs_amax_clamp_native_layer_norm_1", "normalisation"),
        ([], "triton_poi_fused__to_copy_clamp_gelu_mul_2", "elementwise"),
        ([], "triton_tem_fused__scaled_mm_5", "fp8-gemm"),
        ([], "void fbgemm_gpu::permute_2D_data_kernel<float, c10::Half>(int)", "other"),
        ([], "_w8a8_block_fp8_matmul", "fp8-gemm"),
        ([], "void marlin::Marlin<__nv_bfloat16>(int)", "other-gemm"),
        ([], "void flashinfer::BatchPrefillWithPagedKVCacheKernel<int>()", "attention"),
        ([], "void vllm::act_and_mul_kernel<c10::BFloat16>()", "elementwise"),
        (["_C::dynamic_scaled_fp8_quant"], "void vllm::segmented_max_reduction<float>()", "quantize"),
        ([], "who_knows", "other"),
    ],
)
def test_kinds(tmp_path: Path, operators: list[str], kernel: str, expected: str) -> None:
    assert kind(tmp_path, operators, kernel)[0] == expected


def test_a_cast_is_told_by_its_types_where_its_kernel_does_not_say(tmp_path: Path) -> None:
    kernel = "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda>(int)"
    assert kind(tmp_path, ["aten::copy_"], kernel, [FP8, BF16])[0] == "quantize"
    assert kind(tmp_path, ["aten::copy_"], kernel, [BF16, FP8])[0] == "dequantize"
    assert kind(tmp_path, ["aten::copy_"], kernel, [BF16, FLOAT])[0] == "elementwise"


def test_copies_and_fills_are_told_by_their_category(tmp_path: Path) -> None:
    made = Made()
    made.copy("Memcpy HtoD (Pageable -> Device)", 10, 3)
    made.copy("Memcpy DtoH (Device -> Pinned)", 20, 4)
    made.copy("Memcpy DtoD (Device -> Device)", 30, 5)
    made._add("gpu_memset", "Memset (Device)", 0, 7, 40, 6)
    assert read(made, tmp_path).us_by_kind == {
        "copy-from-host": 3,
        "copy-to-host": 4,
        "copy-on-device": 5,
        "fill": 6,
    }


@pytest.mark.parametrize(
    ("operator", "kernel", "backend", "precision"),
    [
        (
            "aten::_scaled_dot_product_flash_attention",
            "void pytorch_flash::flash_fwd_kernel<cutlass::bfloat16_t>()",
            "flash",
            "16-bit",
        ),
        (
            "aten::_scaled_dot_product_cudnn_attention",
            "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_f16",
            "cudnn",
            None,
        ),
        ("FusedAttnFunc", "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_f16", "te", None),
        (
            "aten::_scaled_dot_product_efficient_attention",
            "fmha_cutlassF_bf16_aligned_64x64_sm80",
            "efficient",
            "16-bit",
        ),
        ("aten::_scaled_dot_product_attention_math", NVJET_BF16, "math", None),
        ("FlashAttnFunc", "void flash::flash_fwd_kernel<cutlass::half_t>()", "flash-attn-2", "16-bit"),
        (
            "flash_attn_3::fwd",
            "void cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnFwdSm90<cutlass::float_e4m3_t>>>()",
            "flash-attn-3",
            "fp8",
        ),
        ("FlashAttnFunc", "kernel_cutlass_FlashAttentionForwardSm90_object", "flash-attn-4", None),
    ],
)
def test_attention_says_which_implementation_ran(
    tmp_path: Path, operator: str, kernel: str, backend: str, precision: str | None
) -> None:
    made = Made()
    made.launch(operator, kernel, 10, 5)
    found = total(read(made, tmp_path), kernel[:40])
    assert (found.kind, found.backend, found.precision) == ("attention", backend, precision)


def test_kernels_of_a_cuda_graph_are_told_by_name_alone(tmp_path: Path) -> None:
    """The operator round the launch of a graph says nothing of the hundred kernels in it."""
    made = Made()
    external = made.operator("aten::native_layer_norm", 10, 50)
    correlation = made.call("cudaGraphLaunch", 12, 9, external=external)
    made.kernel(NVJET_FP8, 40, 5, correlation, external)
    made.kernel("who_knows", 50, 5, correlation, external)
    trace = read(made, tmp_path)
    assert trace.us_by_kind == {"fp8-gemm": 5, "other": 5}
    assert trace.graph_launches == 1
    assert total(trace, "who_knows").operator is None


def test_without_ids_the_operator_is_found_by_the_launch(tmp_path: Path) -> None:
    made = Made()
    made.operator("aten::_scaled_mm", 10, 50)
    correlation = made.call("cudaLaunchKernel", 12, 9)
    made.kernel("unheard_of", 40, 5, correlation)
    assert read(made, tmp_path).us_by_kind == {"fp8-gemm": 5}


def test_what_scales_and_clamps_directly_before_a_cast_to_fp8_is_quantising(tmp_path: Path) -> None:
    """Eager torchao: to float32, divided, clamped, cast; the layer's own product and activation stay what they are."""
    made = Made()
    operators = ("aten::silu", "aten::mul", "aten::copy_", "aten::div", "aten::clamp")
    for at, operator in enumerate(operators):
        made.launch(operator, f"void at::native::vectorized_elementwise_kernel<{at}>()", 20 * at, 5)
    made.launch("aten::copy_", "void at::native::float8_copy_kernel_cuda()", 100, 5, [[4], [4], []], [FP8, FLOAT, ""])
    made.launch("aten::abs", "void at::native::vectorized_elementwise_kernel<8>()", 120, 3)
    made.launch("aten::amax", "void at::native::reduce_kernel<512>()", 140, 3)
    trace = read(made, tmp_path)
    assert trace.us_by_kind == {"quantize": 20, "elementwise": 10, "amax": 6}
    assert trace.count_by_kind == {"quantize": 4, "elementwise": 2, "amax": 2}
    by_sequence = {row.operator for row in trace.kernels or () if row.known_by == "sequence"}
    assert by_sequence == {"aten::copy_", "aten::div", "aten::clamp", "aten::abs"}
