"""How torchao's operators and kernels are called in a trace."""

from __future__ import annotations

from fp8doctor.model import Kernel

# Operators that torchao 0.17 registers (quant_primitives.py, prototype/blockwise_fp8_training/kernels.py,
# prototype/mx_formats/kernels.py) and those of mslk that its layers call (float8_tensor.py).
KERNELS = (
    Kernel(r"triton_fp8_gemm_1x128", "fp8-gemm", "torchao::triton_fp8_gemm_1x128_128x128"),
    Kernel(r"triton_fp8_gemm_1x128", "fp8-gemm", "torchao::triton_fp8_gemm_1x128_128x1"),
    Kernel(r"(?i)f8f8bf16_rowwise", "fp8-gemm", "mslk::f8f8bf16_rowwise"),
    Kernel(r"(?i)f8f8bf16_rowwise_batched", "fp8-gemm", "mslk::f8f8bf16_rowwise_batched"),
    Kernel(r"(?i)\bf8f8bf16\b", "fp8-gemm", "mslk::f8f8bf16"),
    Kernel(r"dequantize_affine_float8", "dequantize", "torchao::dequantize_affine_float8_non_decomposed"),
    Kernel(r"triton_mxfp8_dequant", "dequantize", "torchao::triton_mxfp8_dequant_dim0"),
    Kernel(r"(?<!de)quantize_affine_float8", "quantize", "torchao::quantize_affine_float8_non_decomposed"),
    Kernel(r"mxfp8_quantize", "quantize", "torchao::mxfp8_quantize"),
    Kernel(r"triton_to_mxfp8_dim0", "quantize", "torchao::triton_to_mxfp8_dim0"),
    Kernel(r"triton_to_mxfp8_dim1", "quantize", "torchao::triton_to_mxfp8_dim1"),
    Kernel(r"triton_fp8_blockwise_(act|weight)_quant", "quantize"),
    Kernel(r"mx_block_rearrange_2d", "scale-layout"),
)
