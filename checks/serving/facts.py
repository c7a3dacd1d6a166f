"""What an inference engine printed while it started."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fp8doctor.model import Caption, Facts

NAMES = {"vllm": "vLLM", "sglang": "SGLang"}


@dataclass(frozen=True)
class Serving(Facts, key="serving"):
    """The start-up log of an inference engine. None = it printed nothing about that, or the line was not pasted."""

    engine: str | None = None  # "vllm" | "sglang"
    version: str | None = None
    # As the engine names it: "fp8", "compressed-tensors", "modelopt", "w8a8_fp8", ...; "none" where it says None.
    quantization: str | None = None
    # The engine found the method in the checkpoint itself, or would have: "none" then means 16-bit weights.
    quantization_resolved: bool | None = None
    # The model's own name ends in FP8; the name itself is not kept.
    model_named_fp8: bool | None = None
    dtype: str | None = None
    tensor_parallel_size: int | None = None
    # Kernels of linear layers with the method that they serve: "CutlassFP8ScaledMMLinearKernel for Fp8LinearMethod".
    linear_kernels: tuple[str, ...] | None = None
    # Of mixtures of experts in FP8: "TRITON", "MARLIN", "FLASHINFER_CUTLASS", ...
    moe_backends: tuple[str, ...] | None = None
    # True where the engine said that FP8 weights are unpacked for a 16-bit product (Marlin).
    weight_only: bool | None = None
    # True where it said so of FP4 weights (Marlin).
    fp4_weight_only: bool | None = None
    # True where a CUTLASS kernel ended in "Error Internal".
    cutlass_internal_error: bool | None = None
    # File names of the tuned kernel configurations that were looked for and are not there.
    missing_configs: tuple[str, ...] | None = None
    enforce_eager: bool | None = None
    cuda_graphs: bool | None = None
    cuda_graphs_off_because: str | None = None
    attention_backend: str | None = None
    # The release of FlashAttention that vLLM took: 2, 3, 4.
    flash_attention: int | None = None
    # Why vLLM gave FlashAttention up: "FP8 KV cache", ...
    flash_attention_refused: str | None = None
    kv_cache_dtype: str | None = None
    # True where scales of the FP8 KV cache were missing and 1.0 was taken.
    kv_scales_missing: bool | None = None
    # Triton kernels that were compiled while requests were already served.
    compiled_while_serving: tuple[str, ...] | None = None

    def caption(self) -> Caption | None:
        """The engine and its version."""
        if self.engine is None:
            return None
        return Caption(60, " ".join(filter(None, (NAMES.get(self.engine, self.engine), self.version))))


def says_fp8(method: str | None) -> bool:
    """Whether the name of a quantisation promises FP8; "compressed-tensors" and "modelopt" may be FP8 and may not."""
    return re.search(r"fp8|float8", method or "", re.IGNORECASE) is not None
