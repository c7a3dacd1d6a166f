"""Which configurations are measured at which layer: all of them say most, and nobody waits for all of them."""

from __future__ import annotations

from collections.abc import Iterable

from fp8doctor.checks.linear.cases import TYPICAL_TOKENS
from fp8doctor.checks.linear.variants import Variant, variants

# Beyond the first layer these are measured: what competes, and what the break-even is read from.
MAIN = ("torch-bf16", "torch-fp8-rowwise", "torch-fp8-tensorwise", "torchao-fp8-rowwise", "torchao-fp8-tensorwise")
# What a workload's owner chooses among; of INT8 the compiled form alone.
FOR_A_WORKLOAD = (*MAIN, "torch-fp8-weightonly", "torchao-fp8-weightonly", "torchao-int8-dynamic")
# Compiled weight-only, which nothing else is read from, waits for a workload or a thorough run.
NOT_BY_DEFAULT = ("torch-fp8-weightonly+compile", "torchao-fp8-weightonly+compile")
# torchao's do the same, compiled: a run of a minute compiles them once.
COMPILED_TWINS = ("torch-fp8-rowwise+compile", "torch-fp8-tensorwise+compile")


def chosen(
    k: int,
    n: int,
    *,
    leading: bool,
    thorough: bool,
    for_workload: bool,
    with_torchao: bool,
    with_fp8: bool,
) -> list[Variant]:
    """The configurations to measure at the layer K x N, in order.

    A workload is measured at all its layers in what it could be run with. Otherwise the leading layer is measured in
    nearly every way, and the others in what competes; a thorough run measures all in every way.

    Where FP8 is refused, by the GPU or for dimensions that are no multiple of 16, the eager call shows it; nothing is
    compiled for it. INT8 wants multiples of 8 (`_int_mm_out_cuda` in PyTorch's Blas.cpp), and for others torchao
    multiplies on the CPU (torchao/kernel/intmm.py).
    """
    found = [v for v in variants() if with_torchao or v.library == "torch"]
    if not with_fp8 or k % 16 or n % 16:
        found = [v for v in found if not (v.compiled and v.multiplies_in_fp8)]
    if k % 16 or n % 16:
        found = [v for v in found if v.numerics != "int8"]
    if for_workload:
        asked = [v for v in found if v.config.partition("+")[0] in FOR_A_WORKLOAD and not v.reads_back]
        return _once(asked, with_torchao)
    if thorough:
        return [v for v in found if leading or not v.reads_back]
    if leading:
        twins = COMPILED_TWINS if with_torchao else ()
        return [v for v in found if v.config not in (*NOT_BY_DEFAULT, *twins)]
    return _once([v for v in found if v.config.partition("+")[0] in MAIN], with_torchao)


def _once(found: list[Variant], with_torchao: bool) -> list[Variant]:
    """torch's own FP8 forms do what torchao's do: where torchao is installed they are measured once."""
    return [v for v in found if not (with_torchao and v.library == "torch" and "fp8" in v.config)]


def read_back_at(tokens: Iterable[int]) -> int:
    """The one number of tokens at which a call that waits for the device is timed: it takes milliseconds."""
    ordered = sorted(tokens)
    return max((m for m in ordered if m <= TYPICAL_TOKENS), default=ordered[0])
