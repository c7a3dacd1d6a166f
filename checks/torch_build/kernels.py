"""Which number format does a GPU kernel multiply in? Read from its name.

Nothing but the standard library: imported in children by several subjects.
"""

from __future__ import annotations

import re

from fp8doctor.model import Kernel

# Names that a pattern below would take for a GEMM: attention, and Inductor's element-wise and reduction kernels, which
# carry the name of the operator whose operands they prepare.
_NOT_A_GEMM = r"(?i)^(?!.*(flash|fmha|attention|sdpa|triton_(poi|red|per)_))"

# The first hit wins, so FP8 stands before BF16: `sm90_xmma_gemm_e4m3bf16_e4m3f32_...` names its output type, too.
# cuBLAS's nvjet names spell the types of A, B and the result: q 8-bit float, t BF16, h FP16, s FP32, o FP4. That is
# inferred from names seen under known operators; cuBLAS documents none of them.
# Sources: strings in libcublasLt 13.4.3 (xmma, cutlass, nvjet), RowwiseScaledMM.cu in PyTorch (kernel_for_sm),
# torch/_inductor/kernel/mm.py (scaled_mm templates), DeepGEMM's impls folder, and public traces.
KERNELS = (
    Kernel(_NOT_A_GEMM + r".*nvjet_(sm\d+_)?oo[a-z]+_", "fp4-gemm"),
    Kernel(_NOT_A_GEMM + r".*(cutlass|gemm).*(e2m1|_f4_|xf4)", "fp4-gemm"),
    Kernel(_NOT_A_GEMM + r".*nvjet_(sm\d+_)?qq[a-z]+_", "fp8-gemm", "aten::_scaled_mm"),
    Kernel(_NOT_A_GEMM + r".*xmma_gemm_e[45]m[23]", "fp8-gemm", "aten::_scaled_mm"),
    Kernel(_NOT_A_GEMM + r".*f8f8bf16_rowwise", "fp8-gemm", "aten::_scaled_mm"),
    Kernel(_NOT_A_GEMM + r".*triton_.*scaled_mm", "fp8-gemm", "aten::_scaled_mm"),
    Kernel(_NOT_A_GEMM + r".*scaled_mm_device_tma", "fp8-gemm", "aten::_scaled_mm"),
    Kernel(_NOT_A_GEMM + r".*fp8(_fp4)?_gemm", "fp8-gemm"),
    Kernel(_NOT_A_GEMM + r".*(cutlass|gemm|kernel_for_sm).*(e4m3|e5m2)", "fp8-gemm"),
    Kernel(_NOT_A_GEMM + r".*(xmma_gemm_i8|imma|i16832gemm_s8)", "int8-gemm", "aten::_int_mm"),
    Kernel(_NOT_A_GEMM + r".*nvjet_(sm\d+_)?t(st|ss|tt)_", "bf16-gemm"),
    Kernel(_NOT_A_GEMM + r".*(gemm|cutlass|gemv).*(bf16|bfloat16)", "bf16-gemm"),
    Kernel(_NOT_A_GEMM + r".*nvjet_(sm\d+_)?h(sh|ss|hh)_", "fp16-gemm"),
    Kernel(_NOT_A_GEMM + r".*(xmma_gemm_f16f16|16816gemm_f16|gemm_fp16|h?gemm.*half_t|gemv.*__half)", "fp16-gemm"),
    Kernel(_NOT_A_GEMM + r".*(tf32f32|s1688(tf32)?gemm)", "tf32-gemm"),
    Kernel(_NOT_A_GEMM + r".*(xmma_gemm_f32f32_f32f32|sgemm|simt)", "fp32-gemm"),
)

_PATTERNS = tuple((re.compile(kernel.pattern), kernel.kind) for kernel in KERNELS)


def gemm_kind(kernel_name: str) -> str | None:
    """The kind of GEMM that a kernel's demangled name tells, such as "fp8-gemm"; None for any other kernel."""
    return next((kind for pattern, kind in _PATTERNS if pattern.search(kernel_name)), None)
