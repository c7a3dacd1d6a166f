"""Kernels that belong to no other subject: torch's math attention, serving engines' kernels."""

from __future__ import annotations

from fp8doctor.model import Kernel

KERNELS = (
    # vLLM's csrc/quantization (scaled_fp8_quant, per_token_group_quant) and what its compiled graphs call; SGLang's
    # per_token_group_quant kernels.
    Kernel(r"(dynamic_per_token_|static_|\b)scaled_fp8_quant_kernel", "quantize", "_C::static_scaled_fp8_quant"),
    Kernel(r"dynamic_per_token_scaled_fp8_quant", "quantize", "_C::dynamic_per_token_scaled_fp8_quant"),
    Kernel(r"scaled_fp8_quant_kernel", "quantize", "_C::dynamic_scaled_fp8_quant"),
    Kernel(r"per_token_group_quant_(fp8|8bit)", "quantize"),
    Kernel(r"segmented_max_reduction", "amax"),
    # Weights in 8 or 4 bits, products in 16: they dequantise inside.
    Kernel(r"\bmarlin(_moe_wna16)?::Marlin", "other-gemm"),
    Kernel(r"(?i)tinygemm_m16n8k16", "other-gemm", "aten::_weight_int4pack_mm"),
    Kernel(r"weight_int8pack_mm", "other-gemm", "aten::_weight_int8pack_mm"),
    # The grouped product of vLLM's and SGLang's experts (Triton), in whichever format they are.
    Kernel(r"\bfused_moe_kernel", "other-gemm"),
    # Torch's attention without a kernel of its own.
    Kernel(r"_scaled_dot_product_attention_math", "attention", "aten::_scaled_dot_product_attention_math"),
)
