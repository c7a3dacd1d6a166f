"""Which number format does a GPU kernel multiply in? Read from its name.

Nothing but the standard library: imported in children by several subjects.
"""

from __future__ import annotations

import re
from functools import lru_cache

from fp8doctor.model import Kernel

# No GEMM, whatever else stands in the name: attention, and Inductor's element-wise and reduction kernels, which carry
# the name of the operator whose operands they prepare.
# "fbgemm" is the name of a library that has other kernels, too.
_GEMM = r"(?i)^(?!.*(?:flash|fmha|attention|sdpa|triton_(?:poi|red|per)_)).*"

# The first hit wins, so FP8 stands before BF16 (`sm90_xmma_gemm_e4m3bf16_e4m3f32_...` names its output type, too) and
# FP4 before FP8 (NVFP4's scales are e4m3).
# Sources: the strings of libcublasLt 13.4.3 (xmma, cutlass, ampere, ...); RowwiseScaledMM.cu in PyTorch
# (kernel_for_sm, f8f8bf16_rowwise) and torch/_inductor/kernel/mm.py (templates of scaled_mm and int_mm); DeepGEMM's
# impls folder.
# nvjet names are put together at run time and documented nowhere: that they spell the types of A, B and the result
# (q e4m3, r e5m2, t BF16, h FP16, s FP32, o FP4) is inferred from traces, where the operator with its types stands
# beside them; q and r from an H200's (tests/traces).
KERNELS = (
    Kernel(_GEMM + r"nvjet_(sm\d+_)?oo[a-z]+_", "fp4-gemm"),
    Kernel(_GEMM + r"(cutlass|(?<!fb)gemm).*x(e2m1|f4)_", "fp4-gemm"),
    Kernel(_GEMM + r"(cutlass|(?<!fb)gemm).*float_e2m1_t", "fp4-gemm"),
    Kernel(_GEMM + r"nvjet_(sm\d+_)?[qr]{2}[a-z]+_", "fp8-gemm", "aten::_scaled_mm"),
    Kernel(_GEMM + r"(f8f8bf16_rowwise|triton_.*scaled_mm|scaled_mm_device_tma)", "fp8-gemm", "aten::_scaled_mm"),
    Kernel(_GEMM + r"(cutlass|(?<!fb)gemm|kernel_for_sm).*(e4m3|e5m2|_f8_)", "fp8-gemm", "aten::_scaled_mm"),
    Kernel(_GEMM + r"fp8(_fp4)?_gemm", "fp8-gemm"),
    # The same kernels below operators that came later; all four are registered in torch 2.13.
    *(
        Kernel(_GEMM + r"nvjet_(sm\d+_)?[qr]{2}[a-z]+_", "fp8-gemm", operator)
        for operator in ("aten::_scaled_mm_v2", "aten::_scaled_grouped_mm", "aten::_scaled_grouped_mm_v2")
    ),
    Kernel(
        _GEMM + r"(triton_tem_.*_int_mm|xmma_gemm_i8|i\d+gemm_s8|tensorop_i\d+x|gemm_int8)",
        "int8-gemm",
        "aten::_int_mm",
    ),
    Kernel(_GEMM + r"nvjet_(sm\d+_)?t(st|ss|tt)_", "bf16-gemm"),
    Kernel(_GEMM + r"((?<!fb)gemm|cutlass|gemv).*(bf16|bfloat16)", "bf16-gemm"),
    Kernel(_GEMM + r"nvjet_(sm\d+_)?h(sh|ss|hh)_", "fp16-gemm"),
    Kernel(_GEMM + r"((?<!fb)gemm|cutlass|gemv).*(?<!b)(f16|fp16|half)", "fp16-gemm"),
    Kernel(_GEMM + r"_h\d+gemm", "fp16-gemm"),
    Kernel(_GEMM + r"((?<!fb)gemm.*tf32|cutlass.*tf32|s1688gemm)", "tf32-gemm"),
    Kernel(_GEMM + r"(xmma_gemm_f32f32_f32f32|(?<!bla)sgemm)", "fp32-gemm"),
)


@lru_cache(maxsize=1)
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(kernel.pattern), kernel.kind) for kernel in KERNELS)


def gemm_kind(kernel_name: str) -> str | None:
    """The kind of GEMM that a kernel's demangled name tells, such as "fp8-gemm"; None for any other kernel."""
    return next((kind for pattern, kind in _patterns() if pattern.search(kernel_name)), None)
