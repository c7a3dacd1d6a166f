"""Compiling FP8 for real: a small function on the GPU, from empty caches, compared with the same run eagerly."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fp8doctor.checks.compiler.facts import CompiledCast, CompiledFunction, Compiler
from fp8doctor.checks.torch_build.early import has_device, import_torch
from fp8doctor.model import Request
from fp8doctor.plain import from_plain
from fp8doctor.registry import probe

# e4m3 is what forward passes use; e5m2 is what Triton can cast to on every GPU.
DTYPES = ("float8_e4m3fn", "float8_e5m2")
# Powers of two: scaling there and back is exact, so that the only error is the cast's own.
SCALE = 16.0
ROWS, COLUMNS = 256, 1024
# As for every FP8 path: more than twice the error of the format itself is not right.
WRONG_OVER_EAGER = 2.0


def prepare() -> None:
    """Import the compiler while the probes of the GPUs and of torch still run."""
    # In this process: for two kernels, starting worker processes takes longer than compiling.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    import_torch("torch._dynamo", "torch._inductor.compile_fx")


# It waits for no other probe of torch: importing torch and its compiler is the longest part of both.
@probe(runs_in="target", timeout_s=120, modes=("default", "thorough"), prepare=prepare)
def gather_compiled(request: Request, compiler: Compiler | None) -> Iterator[CompiledFunction]:
    """Compiling a small FP8 function."""
    done = from_plain(CompiledFunction, request.so_far) if request.so_far else CompiledFunction(casts=())
    if not has_device():
        yield CompiledFunction(not_tried="no GPU is visible", casts=())
        return
    if compiler is not None and compiler.triton_installed is False:
        yield CompiledFunction(not_tried="there is no Triton", casts=())
        return
    if done.attempting and done.cast(done.attempting) is None:
        crashed = CompiledCast(dtype=done.attempting, outcome="crashed", error=request.so_far_ended)
        done = replace(done, casts=(*(done.casts or ()), crashed), attempting=None)
        yield done
    if request.cache_dir is not None:
        os.makedirs(request.cache_dir, exist_ok=True)  # noqa: PTH103
    # Empty caches: that a kernel was compiled on an earlier day proves nothing today.
    import tempfile

    with tempfile.TemporaryDirectory(prefix="fp8doctor-compile-", dir=request.cache_dir) as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        os.environ["TRITON_CACHE_DIR"] = os.path.join(folder, "triton")  # noqa: PTH118
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        for dtype in DTYPES:
            if done.cast(dtype) is None:
                done = replace(done, attempting=dtype)
                yield done
                if not_tried := _why_not():
                    yield CompiledFunction(not_tried=not_tried, casts=())
                    return
                cast = compile_cast(dtype, f"cuda:{request.gpu}")
                done = replace(done, casts=(*(done.casts or ()), cast), attempting=None)
                yield done


def _why_not() -> str | None:
    """Why compiling is not tried with this torch."""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return "there is no torch"
    if torch.version.cuda is None:
        return "this torch is not built for CUDA; NVIDIA GPUs are what is tried"
    return None if torch.cuda.is_available() else "torch cannot use the GPU"


def compile_cast(dtype: str, device: str, backend: str = "inductor") -> CompiledCast:
    """Compile a cast to `dtype` and back on `device`, and compare it with the eager one."""
    import torch
    from torch._dynamo.utils import counters

    # A fallback to eager code must not pass for a success.
    torch._dynamo.config.suppress_errors = False
    torch._dynamo.reset()
    counters.clear()
    float8 = getattr(torch, dtype, None)
    if float8 is None:
        return CompiledCast(dtype=dtype, outcome="error", error=f"this torch has no {dtype}")
    largest = torch.finfo(float8).max

    def round_trip(x: Any) -> tuple[Any, Any]:
        quantized = (x.float() * SCALE).clamp(-largest, largest).to(float8)
        return quantized, (quantized.float() * (1.0 / SCALE)).to(x.dtype)

    try:
        generator = torch.Generator(device=device).manual_seed(0)
        x = torch.randn(ROWS, COLUMNS, device=device, dtype=torch.bfloat16, generator=generator)
        expected = round_trip(x)
        started = time.perf_counter()
        got = torch.compile(round_trip, backend=backend)(x)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        seconds = time.perf_counter() - started
        error, error_eager = (_relative_error(y, x) for y in (got[1], expected[1]))
        differing = int((got[0].view(torch.uint8) != expected[0].view(torch.uint8)).sum())
    except Exception as problem:
        return CompiledCast(dtype=dtype, outcome="error", error=f"{type(problem).__name__}: {problem}"[:2000])
    graphs = int(counters["stats"]["unique_graphs"])
    right = error <= WRONG_OVER_EAGER * error_eager  # False for NaN
    return CompiledCast(
        dtype=dtype,
        outcome="eager" if graphs == 0 else "ok" if right else "wrong",
        first_call_s=round(seconds, 3),
        graphs=graphs,
        graph_breaks=sum(counters["graph_break"].values()),
        differing_values=differing,
        values=x.numel(),
        relative_error=error,
        relative_error_eager=error_eager,
    )


def _relative_error(approximate: Any, exact: Any) -> float:
    difference = approximate.double() - exact.double()
    return float(difference.norm() / exact.double().norm())
