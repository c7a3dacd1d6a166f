"""How is torch's scaled matrix product called, scaling by scaling, and what came of the call?

Operands are quantised on the CPU, so that on the GPU nothing but the product itself runs: a kernel that fails is then
the product's, and no other kernel has to be loaded.

Layouts of scales: ScaledBlas.cpp in PyTorch (`get_joint_scaling`, `_scaled_block1x128_block128x128`, ...) and cuBLAS's
manual, "1D Block Scaling Factors Layout".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fp8doctor.checks.torch_build.facts import ScaledGemm
from fp8doctor.checks.torch_build.kernels import gemm_kind
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS, relative_error, worst_line_error
from fp8doctor.measuring.kernels import profile_calls
from fp8doctor.model import Shape
from fp8doctor.raised import in_words

# Small enough to take microseconds; every dimension holds whole blocks of each scaling, and K/32 fills whole tiles of
# swizzled scales.
M, K, N = 256, 512, 256
# So much of an error's text is kept.
TEXT_LENGTH = 600
# One more than a tile: no multiple of 16, and the last tile has a single row.
ODD_M = 257


@dataclass(frozen=True)
class Case:
    """One call: which scaling, through which function."""

    scaling: str
    api: str
    fast_accum: bool
    m: int = M
    # The type of plain FP8 operands; block formats of their own type ignore it.
    fp8: str = "float8_e4m3fn"

    @property
    def label(self) -> str:
        """The call in words."""
        accumulation = "fast" if self.fast_accum else "full"
        return f"{self.api}, {self.scaling} {self.dtype}, M={self.m}, {accumulation} accumulation"

    @property
    def dtype(self) -> str:
        """The operands' type as torch names it."""
        return {"nvfp4": "float4_e2m1fn_x2", "mxfp8": "float8_e4m3fn"}.get(self.scaling, self.fp8)

    @property
    def record(self) -> ScaledGemm:
        """What is known of it before it is called."""
        limit = ERROR_LIMITS.get(self.scaling, ERROR_LIMITS["e4m3"])
        return ScaledGemm(
            scaling=self.scaling,
            dtype=self.dtype,
            shape=Shape(self.m, K, N),
            api=self.api,
            fast_accum=self.fast_accum,
            relative_error_limit=limit,
        )

    def is_record(self, gemm: ScaledGemm) -> bool:
        """Whether `gemm` is what came of this call."""
        mine = self.record
        return (gemm.scaling, gemm.dtype, gemm.shape, gemm.api, gemm.fast_accum) == (
            mine.scaling,
            mine.dtype,
            mine.shape,
            mine.api,
            mine.fast_accum,
        )


def cases(gfx: str | None) -> tuple[Case, ...]:
    """The calls for an NVIDIA GPU, or for the AMD GPU `gfx` ("gfx942").

    Block scalings go without fast accumulation: torch or cuBLAS refuse it there. On AMD they are left out, since their
    layouts differ from release to release; there the FP8 type of the other generation is called instead.
    """
    old, public = "_scaled_mm", "scaled_mm"
    if gfx is not None:
        right, other = "float8_e4m3fn", "float8_e4m3fnuz"
        if gfx.startswith("gfx94"):
            right, other = other, right
        return (
            Case("tensorwise", old, True, fp8=right),
            Case("tensorwise", old, False, fp8=right),
            Case("rowwise", old, True, fp8=right),
            Case("tensorwise", public, True, fp8=right),
            Case("tensorwise", old, True, fp8=other),
        )
    return (
        Case("tensorwise", old, True),
        Case("tensorwise", old, False),
        Case("tensorwise", public, True),
        Case("rowwise", old, True),
        Case("rowwise", old, False),
        Case("rowwise", public, True),
        Case("rowwise", old, True, m=ODD_M),
        Case("blockwise-1x128", old, False),
        Case("blockwise-1x128", public, False),
        Case("blockwise-1x128-both", public, False),
        Case("mxfp8", old, False),
        Case("mxfp8", public, False),
        Case("nvfp4", old, False),
        Case("nvfp4", public, False),
    )


@dataclass(frozen=True)
class Quantised:
    """A matrix with K last: its codes, the scales as calculated (a row of blocks each), and what both stand for."""

    codes: Any
    scales: Any
    values: Any


def quantise(matrix: Any, scaling: str, dtype: str) -> Quantised:
    """Quantise an FP32 matrix whose last dimension is summed over; `scaling` as one operand has it.

    Args:
        matrix: rows x K, on the CPU.
        scaling: "tensorwise", "rowwise", "1x128", "128x128", "mxfp8" or "nvfp4".
        dtype: torch's name for the codes of the first four.
    """
    rows, columns = matrix.shape
    block = {
        "tensorwise": (rows, columns),
        "rowwise": (1, columns),
        "1x128": (1, 128),
        "128x128": (128, 128),
        "mxfp8": (1, 32),
        "nvfp4": (1, 16),
    }[scaling]
    blocks = matrix.reshape(rows // block[0], block[0], columns // block[1], block[1])
    amax = blocks.abs().amax(dim=(1, 3), keepdim=True)
    codes, decoded, scales, factor = _CODERS.get(scaling, _fp8)(blocks, amax, dtype)
    values = (decoded * factor).reshape(rows, columns)
    return Quantised(codes.reshape(rows, columns), scales.reshape(blocks.shape[0], blocks.shape[2]), values)


def _fp8(blocks: Any, amax: Any, dtype: str) -> tuple[Any, Any, Any, Any]:
    import torch

    kind = getattr(torch, dtype)
    largest = torch.finfo(kind).max
    scale = amax / largest
    codes = (blocks / scale).clamp(-largest, largest).to(kind)
    return codes, codes.float(), scale, scale


def _mxfp8(blocks: Any, amax: Any, dtype: str) -> tuple[Any, Any, Any, Any]:
    """OCP MX v1.0, 6.3: the scale is a power of two, floor(log2(amax)) less the exponent of e4m3's largest, 8."""
    import torch

    exponent = torch.frexp(amax).exponent - 1 - 8
    scale = torch.ldexp(torch.ones_like(amax), exponent)
    codes = (blocks / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn)
    return codes, codes.float(), (exponent + 127).to(torch.uint8), scale


def _nvfp4(blocks: Any, amax: Any, dtype: str) -> tuple[Any, Any, Any, Any]:
    """e2m1 codes, one a byte, with an e4m3 scale for 16; no second scale, which numbers near one do not need."""
    import torch

    scales = (amax / 6.0).to(torch.float8_e4m3fn)
    factor = scales.float()
    grid = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    middles = (grid[1:] + grid[:-1]) / 2
    scaled = blocks / factor
    index = torch.bucketize(scaled.abs().contiguous(), middles)
    codes = (index + 8 * (scaled < 0)).to(torch.uint8)
    return codes, torch.where(scaled < 0, -grid[index], grid[index]), scales, factor


_CODERS: dict[str, Callable[[Any, Any, str], tuple[Any, Any, Any, Any]]] = {"mxfp8": _mxfp8, "nvfp4": _nvfp4}


def swizzled(scales: Any) -> Any:
    """Scales (rows x blocks) in the order block-scaled products read them: tiles of 128x4, each as 32 rows of 4x4."""
    rows, blocks = scales.shape
    return scales.reshape(rows // 128, 4, 32, blocks // 4, 4).permute(0, 3, 2, 1, 4).reshape(-1)


@dataclass(frozen=True)
class Operands:
    """Everything a call needs, on the CPU, and the FP32 product that it should give."""

    a: Any
    b: Any
    scale_a: Any
    scale_b: Any
    exact: Any


def operands(case: Case) -> Operands:
    """Seeded random normal operands of `case`; b is column-major, as every architecture takes it."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case.m, K, generator=generator)
    w = torch.randn(N, K, generator=generator)
    kinds = {"blockwise-1x128": ("1x128", "128x128"), "blockwise-1x128-both": ("1x128", "1x128")}
    kind_a, kind_b = kinds.get(case.scaling, (case.scaling, case.scaling))
    a, b = quantise(x, kind_a, case.fp8), quantise(w, kind_b, case.fp8)
    exact = x @ w.t()
    if case.scaling == "tensorwise":
        return Operands(a.codes, b.codes.t(), a.scales.reshape(()), b.scales.reshape(()), exact)
    if case.scaling == "rowwise":
        return Operands(a.codes, b.codes.t(), a.scales, b.scales.t(), exact)
    if case.scaling == "mxfp8":
        scale_a, scale_b = (swizzled(side.scales).view(torch.float8_e8m0fnu) for side in (a, b))
        return Operands(a.codes, b.codes.t(), scale_a, scale_b, exact)
    if case.scaling == "nvfp4":
        pairs_a, pairs_b = ((side.codes[:, ::2] | side.codes[:, 1::2] << 4).contiguous() for side in (a, b))
        scale_a, scale_b = (swizzled(side.scales.view(torch.uint8)).view(torch.float8_e4m3fn) for side in (a, b))
        fp4 = torch.float4_e2m1fn_x2  # two codes a byte, the first in the low half
        return Operands(pairs_a.view(fp4), pairs_b.view(fp4).t(), scale_a, scale_b, exact)
    scale_a = a.scales.t().contiguous().t()  # "outer-dim-major": strides (1, M)
    scale_b = b.scales.t().contiguous().t() if kind_b == "1x128" else b.scales.t()
    return Operands(a.codes, b.codes.t(), scale_a, scale_b, exact)


def attempt(case: Case, device: str) -> ScaledGemm:
    """Call `case` once on `device` ("cuda:0") and say what came of it; "crashed" if the CUDA context is lost."""
    record = case.record
    try:
        wanted = operands(case)
        call = _call(case, wanted, device)
    except AttributeError as error:  # a dtype, a function or an enumeration that this torch does not have
        return replace(record, outcome="absent", error=str(error)[:TEXT_LENGTH])
    try:
        result = call().float().cpu()
    except Exception as error:  # torch raises RuntimeError, ValueError, NotImplementedError and its own kinds
        text = in_words(error, TEXT_LENGTH)
        return replace(record, outcome=_outcome_of(case, error, text, context_lost(device)), error=text)
    whole, worst = relative_error(result, wanted.exact), worst_line_error(result, wanted.exact)
    limit = record.relative_error_limit or 0.0
    right = whole <= limit and worst <= limit
    return replace(record, outcome="ok" if right else "wrong", relative_error=whole, worst_line_error=worst)


def kernel_names(done: Sequence[Case], device: str) -> list[str | None]:
    """The GPU kernel that does the work of each call, from one profiled call each; None where that cannot be seen.

    Only calls that were right before may be given: one that fails would spoil the session.
    """
    import torch

    calls = [_call(case, operands(case), device) for case in done]
    seen = profile_calls(torch, device, calls, flush=lambda: None)
    return [_work_of([name for name, _ in kernels]) for kernels in seen] if seen else [None] * len(calls)


def _work_of(kernels: list[str]) -> str | None:
    """The product among the kernels of a call; else the first that is no copy."""
    own = [name for name in kernels if not name.startswith(("Memcpy", "Memset"))]
    return next((name for name in own if gemm_kind(name)), own[0] if own else None)


def context_lost(device: str) -> bool:
    """Whether the CUDA context is unusable, as after an illegal memory access: every later call in it fails, too."""
    import torch

    if not device.startswith("cuda"):
        return False
    try:
        torch.cuda.synchronize(device)
    except Exception:
        return True
    return False


def _call(case: Case, given: Operands, device: str) -> Callable[[], Any]:
    """The call itself. Raises AttributeError if torch has no such function."""
    import torch
    import torch.nn.functional as functional

    a, b, scale_a, scale_b = (_moved(t, device) for t in (given.a, given.b, given.scale_a, given.scale_b))
    if case.api == "_scaled_mm":
        old = torch._scaled_mm

        def call_old() -> Any:
            # Keywords: torch 2.4 and older have the scales elsewhere, and return the result's amax beside it.
            result = old(
                a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16, use_fast_accum=case.fast_accum
            )
            return result[0] if isinstance(result, tuple) else result

        return call_old
    public, kinds, order = functional.scaled_mm, functional.ScalingType, functional.SwizzleType
    block = (kinds.BlockWise1x128, kinds.BlockWise128x128)
    recipe_a, recipe_b = {
        "tensorwise": (kinds.TensorWise, kinds.TensorWise),
        "rowwise": (kinds.RowWise, kinds.RowWise),
        "blockwise-1x128": block,
        "blockwise-1x128-both": (block[0], block[0]),
        "mxfp8": (kinds.BlockWise1x32, kinds.BlockWise1x32),
        "nvfp4": (kinds.BlockWise1x16, kinds.BlockWise1x16),
    }[case.scaling]
    swizzle = order.SWIZZLE_32_4_4 if case.scaling in ("mxfp8", "nvfp4") else None
    return lambda: public(
        a,
        b,
        scale_a,
        recipe_a,
        scale_b,
        recipe_b,
        swizzle_a=swizzle,
        swizzle_b=swizzle,
        output_dtype=torch.bfloat16,
        use_fast_accum=case.fast_accum,
    )


def _moved(tensor: Any, device: str) -> Any:
    """Codes travel as bytes: not every torch copies every narrow type."""
    import torch

    return tensor.view(torch.uint8).to(device).view(tensor.dtype) if tensor.element_size() == 1 else tensor.to(device)


# What torch and cuBLASLt say of a product that this GPU or this build does not have.
_REFUSALS = re.compile(
    r"only supported (on|in|for)|not (currently )?supported on|requires cublas|(CU|HIP)BLAS_STATUS_NOT_SUPPORTED"
    r"|CUBLAS_STATUS_ARCH_MISMATCH|Expected b\.dtype\(\) ?==|expected mat_b\.dtype\(\) to be|requires ROCm",
    re.IGNORECASE,
)
# What a torch says that knows `_scaled_mm`, and has never heard of this scaling.
_UNKNOWN_SCALING = re.compile(r"Invalid scaling configuration|For non-TensorWise scaling|scale_[ab] must be")


def _outcome_of(case: Case, error: Exception, text: str, lost: bool) -> str:
    if lost:
        return "crashed"
    if isinstance(error, TypeError):
        return "error"  # the call does not fit this torch's signature: that says nothing about the GPU
    if case.api == "_scaled_mm" and case.scaling != "tensorwise" and _UNKNOWN_SCALING.search(text):
        return "absent"
    return "refused" if _REFUSALS.search(text) else "error"
