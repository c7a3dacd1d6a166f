"""The limits of error are recomputed here, and the calls are made for real: on the CPU, which has some of them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fp8doctor.checks.torch_build.kernels import gemm_kind
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS, FORMAT_ERRORS, TOLERANCE

torch = pytest.importorskip("torch")
from fp8doctor.checks.torch_build import scaled_gemms  # noqa: E402
from fp8doctor.checks.torch_build.numerics import relative_error, worst_line_error  # noqa: E402

pytestmark = pytest.mark.torch
GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(512, 3072, generator=GENERATOR)
W = torch.randn(768, 3072, generator=GENERATOR)
EXACT = X @ W.t()


def in_int8(x: Any) -> Any:
    """`x` rounded to INT8 with one symmetric scale a row, and back in FP32."""
    step = x.abs().amax(dim=1, keepdim=True) / 127
    return (x / step).round() * step


def rounded(scaling_x: str, scaling_w: str, dtype: str = "float8_e4m3fn") -> Any:
    return scaled_gemms.quantise(X, scaling_x, dtype).values @ scaled_gemms.quantise(W, scaling_w, dtype).values.t()


@pytest.mark.parametrize(
    ("name", "product"),
    [
        ("bf16", lambda: (X.bfloat16().float() @ W.bfloat16().float().t()).bfloat16()),
        ("bf16-output", lambda: EXACT.bfloat16()),
        ("e4m3", lambda: rounded("tensorwise", "tensorwise")),
        ("e4m3", lambda: rounded("rowwise", "rowwise")),
        ("e4m3", lambda: rounded("1x128", "128x128")),
        ("e4m3", lambda: rounded("1x128", "1x128")),
        ("e4m3", lambda: rounded("tensorwise", "tensorwise", "float8_e4m3fnuz")),
        ("e4m3-one-operand", lambda: X @ scaled_gemms.quantise(W, "rowwise", "float8_e4m3fn").values.t()),
        (
            "e5m2-e4m3",
            lambda: (
                scaled_gemms.quantise(X, "tensorwise", "float8_e5m2").values
                @ scaled_gemms.quantise(W, "tensorwise", "float8_e4m3fn").values.t()
            ),
        ),
        ("int8", lambda: in_int8(X) @ in_int8(W).t()),
        ("mxfp8", lambda: rounded("mxfp8", "mxfp8")),
        ("nvfp4", lambda: rounded("nvfp4", "nvfp4")),
    ],
)
def test_format_errors_are_what_rounding_costs(name: Any, product: Any) -> None:
    result = product()
    assert relative_error(result, EXACT) == pytest.approx(FORMAT_ERRORS[name], rel=0.05)
    assert ERROR_LIMITS[name] == TOLERANCE * FORMAT_ERRORS[name]
    assert worst_line_error(result, EXACT) < ERROR_LIMITS[name], "no row of a right result may look wrong"


def test_int8_costs_an_eighth_more_in_long_rows() -> None:
    x, w = (torch.randn(128, 16384, generator=GENERATOR) for _ in range(2))
    error = relative_error(in_int8(x) @ in_int8(w).t(), x @ w.t())
    assert error / FORMAT_ERRORS["int8"] == pytest.approx(1.125, rel=0.03)


def test_relative_error_of_what_is_not_finite_is_infinite() -> None:
    bad = EXACT.clone()
    bad[3, 5] = math.nan
    assert relative_error(bad, EXACT) == math.inf
    assert worst_line_error(bad, EXACT) == math.inf
    assert relative_error(EXACT.bfloat16(), EXACT) < 0.002


def test_one_wrong_row_or_column_is_seen() -> None:
    for index in ((-1, slice(None)), (slice(None), 7)):
        bad = EXACT.clone()
        bad[index] = 0.0
        assert relative_error(bad, EXACT) < ERROR_LIMITS["e4m3"], "the whole does not show it"
        assert worst_line_error(bad, EXACT) == pytest.approx(1.0)


@pytest.mark.parametrize("case", scaled_gemms.cases(None)[:7] + scaled_gemms.cases("gfx942"), ids=lambda c: c.label)
def test_plain_fp8_products_on_the_cpu_are_right(case: Any) -> None:
    gemm = scaled_gemms.attempt(case, "cpu")
    if gemm.outcome == "absent":
        pytest.skip(f"this torch has no {case.api} on the CPU: {gemm.error}")
    assert gemm.outcome == "ok", gemm.error
    assert gemm.relative_error == pytest.approx(FORMAT_ERRORS["e4m3"], rel=0.04)
    assert case.is_record(gemm)


@pytest.mark.parametrize("scaling", ["mxfp8", "nvfp4", "blockwise-1x128", "blockwise-1x128-both"])
def test_block_scaled_operands_decode_to_what_was_quantised(scaling: Any) -> None:
    """Decodes what the call is given by the layout that the manual describes, element by element."""
    case = scaled_gemms.Case(scaling, "scaled_mm", False)
    given = scaled_gemms.operands(case)
    if scaling == "nvfp4":
        packed = given.a.view(torch.uint8)
        codes = torch.stack((packed & 15, packed >> 4), dim=-1).reshape(case.m, -1).long()
        grid = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
        a, block = torch.cat((grid, -grid))[codes], 16
    else:
        a, block = given.a.float(), 32 if scaling == "mxfp8" else 128
    scale = given.scale_a.float()
    if scaling in ("mxfp8", "nvfp4"):
        columns = a.shape[1] // block
        row = torch.arange(case.m)[:, None]
        column = torch.arange(columns)[None, :]
        tile = (row // 128) * (columns // 4) + column // 4
        scale = scale[tile * 512 + (row % 32) * 16 + (row % 128) // 32 * 4 + column % 4]
    else:
        assert given.scale_a.stride() == (1, case.m)
    decoded = a * scale.repeat_interleave(block, dim=1)
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(case.m, scaled_gemms.K, generator=generator)
    one_operand = FORMAT_ERRORS["nvfp4" if scaling == "nvfp4" else "mxfp8"] / math.sqrt(2)
    assert relative_error(decoded, wanted) < 1.05 * one_operand


def test_block_scales_lie_as_torch_checks_them() -> None:
    deep = scaled_gemms.operands(scaled_gemms.Case("blockwise-1x128", "_scaled_mm", False))
    assert (deep.scale_b.shape, deep.scale_b.stride()) == ((4, 2), (1, 4))
    both = scaled_gemms.operands(scaled_gemms.Case("blockwise-1x128-both", "scaled_mm", False))
    assert (both.scale_b.shape, both.scale_b.stride()) == ((scaled_gemms.N, 4), (1, scaled_gemms.N))
    assert deep.b.stride() == (1, scaled_gemms.K), "column-major"


def test_outcomes_of_real_refusals() -> None:
    """The CPU's own words for what it lacks, and a call that does not fit the signature."""
    unknown = scaled_gemms.attempt(scaled_gemms.Case("blockwise-1x128", "_scaled_mm", False), "cpu")
    assert unknown.outcome == "absent"
    no_type = scaled_gemms.attempt(scaled_gemms.Case("tensorwise", "_scaled_mm", True, fp8="float8_e9m9"), "cpu")
    assert no_type.outcome == "absent"
    nowhere = scaled_gemms.attempt(scaled_gemms.Case("tensorwise", "_scaled_mm", True), "meta")
    assert nowhere.outcome == "error"


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("RuntimeError: torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0", "refused"),
        ("RuntimeError: Rowwise scaling is not currently supported on your device", "refused"),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgo...`", "refused"),
        ("NotImplementedError: DeepSeek style (1x128, 128x128) scaling only supported in CUDA for SM90", "refused"),
        ("NotImplementedError: DeepSeek style (1x128, 128x128) scaling requires cublasLt >= 12.9", "refused"),
        ("ValueError: Expected b.dtype() == at::kFloat8_e4m3fnuz, got: Float8_e4m3fn", "refused"),
        ("ValueError: Invalid scaling configuration.", "absent"),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 MiB", "error"),
    ],
)
def test_messages_are_told_apart(text: Any, outcome: Any) -> None:
    case = scaled_gemms.Case("rowwise", "_scaled_mm", True)
    assert scaled_gemms._outcome_of(case, RuntimeError(text), text, lost=False) == outcome
    assert scaled_gemms._outcome_of(case, RuntimeError(text), text, lost=True) == "crashed"
    assert scaled_gemms._outcome_of(case, TypeError(text), text, lost=False) == "error"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_sm90_qqtst_128x128_128x6_1x2_h_bz_ovscale_TNT", "fp8-gemm"),
        ("nvjet_sm100_qqtst_128x256_128x4_2x1_v_bz_Avec32UE8M0_Bvec32UE8M0_TNT", "fp8-gemm"),
        ("sm90_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize64x64x128_cgasize1x1x1", "fp8-gemm"),
        ("sm89_xmma_gemm_e5m2e4m3f16_e5m2e4m3f32_f32_tn_n_tilesize128x128x64_stage3", "fp8-gemm"),
        ("cutlass3x_sm100_tensorop_s128x64x32gemm_f8_f8_f32_bf16_bf16_128x64x128_0_tnn_align16", "fp8-gemm"),
        ("void cutlass::device_kernel<at::cuda::detail::enable_3x_kernel_for_sm9x<float_e4m3_t>>", "fp8-gemm"),
        ("void deep_gemm::sm90_fp8_gemm_1d2d_impl<1u, 4096u>(float*)", "fp8-gemm"),
        ("triton_tem_fused__scaled_mm_3", "fp8-gemm"),
        ("nvjet_sm100_ootst_128x256_v_bz_Avec16UE4M3_Bvec16UE4M3_TNT", "fp4-gemm"),
        ("cutlass3x_sm100_bstensorop_s128gemm_block_scaled_ue4m3xf4_ue4m3xf4_f32_bf16_ue4m3xe2m1", "fp4-gemm"),
        ("nvjet_sm90_tst_128x256_64x4_1x2_h_bz_coopA_TNT", "bf16-gemm"),
        ("ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn", "bf16-gemm"),
        ("void gemv2T_kernel_val<int, int, __nv_bfloat16, __nv_bfloat16, __nv_bfloat16, float>", "bf16-gemm"),
        ("nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_NNT", "fp16-gemm"),
        ("sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64", "fp16-gemm"),
        ("ampere_h16816gemm_128x128_ldg8_stages_32x5_tn", "fp16-gemm"),
        ("cutlass_80_tensorop_s1688gemm_256x64_16x4_tn_align4", "tf32-gemm"),
        ("sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x128x16", "tf32-gemm"),
        ("ampere_sgemm_128x64_tn", "fp32-gemm"),
        ("sm90_xmma_gemm_i8i32_i8i32_i32_tn_n_tilesize64x64x64", "int8-gemm"),
        ("triton_tem_fused__int_mm__to_copy_mul_2", "int8-gemm"),
        # No product, though a type or an operator stands in the name.
        ("triton_poi_fused__scaled_mm__to_copy_0", None),
        ("triton_red_fused__scaled_mm_abs_amax_1", None),
        ("void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<float_e4m3_t>>>", None),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob", None),
        ("void at::native::vectorized_elementwise_kernel<4, float8_copy_kernel_cuda>", None),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>", None),
    ],
)
def test_kernels_are_told_by_name(name: Any, kind: Any) -> None:
    assert gemm_kind(name) == kind


def test_fnuz_reads_the_same_byte_as_half() -> None:
    byte = torch.tensor([0x38], dtype=torch.uint8)
    assert byte.view(torch.float8_e4m3fn).float() == 2 * byte.view(torch.float8_e4m3fnuz).float()
