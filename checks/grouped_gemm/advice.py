"""Which configurations compete for a layer of experts, and the table of all that was timed."""

from __future__ import annotations

from fp8doctor.checks.grouped_gemm.facts import GroupedCase, GroupedGemm
from fp8doctor.checks.linear.cases import waits_for_host
from fp8doctor.checks.linear.facts import Case
from fp8doctor.measuring.statistics import interval_text
from fp8doctor.model import Candidate, Exhibit
from fp8doctor.registry import candidates, exhibit

TASK = "grouped-gemm"
_NAMES = {
    "torch-bf16": "grouped BF16 (torch grouped_mm)",
    "torch-fp8-rowwise": "grouped FP8 row-wise (torch._scaled_grouped_mm)",
}
_BF16 = "rows = torch.nn.functional.grouped_mm(rows, weight.transpose(-2, -1), offs=ends)"
_FP8 = """# w8, w_scale: each expert's (N x K) weight / w_scale in float8_e4m3fn, w_scale = its rows' amax / 448
x_scale = rows.abs().amax(dim=-1, keepdim=True).float() / 448
x8 = (rows.float() / x_scale).to(torch.float8_e4m3fn)
rows = torch._scaled_grouped_mm(x8, w8.transpose(-2, -1), x_scale.squeeze(-1), w_scale, offs=ends,
                                out_dtype=torch.bfloat16, use_fast_accum=True)"""


def label(config: str) -> str:
    """A configuration's slug in words."""
    base, _, compiled = config.partition("+")
    return _NAMES.get(base, base) + (" + torch.compile" if compiled else "")


def how(config: str) -> str:
    """The code that gets a configuration."""
    lines = _FP8 if "fp8" in config else _BF16
    return f"{lines}\nmodel = torch.compile(model)" if config.endswith("+compile") else lines


@candidates
def timed(grouped_gemm: GroupedGemm) -> list[Candidate]:
    """Every timed layer of experts."""
    layers = [c for c in grouped_gemm.cases or () if c.kind == "layer" and c.outcome == "ok" and c.device_us and c.m]
    return [_candidate(case) for case in layers]


def _candidate(case: GroupedCase) -> Candidate:
    """A timed case as a candidate; a compiled model pays the host's time once, so there the device's time counts."""
    config = case.config or ""
    clocks = Case(device_us=case.device_us, call_us=case.call_us, host_us=case.host_us)
    return Candidate(
        task=TASK,
        config=config,
        label=label(config),
        format="fp8" if "fp8" in config else "bf16",
        how=how(config),
        shape={"experts": case.experts or 0, "k": case.k or 0, "n": case.n or 0},
        sweep=case.m,
        device_us=case.device_us,
        call_us=case.call_us,
        waits_for_host=waits_for_host(clocks) and "+" not in config,
        error=case.relative_error,
        error_limit=case.relative_error_limit,
        requires=("torch",),
        baseline=config.startswith("torch-bf16"),
        doing=f"{case.experts} experts" if case.experts else None,
        kernel=case.gemm_kernel,
    )


@exhibit
def every_case(grouped_gemm: GroupedGemm) -> Exhibit | None:
    """Every timed case: products, layers, and what padding takes."""
    seen = [c for c in grouped_gemm.cases or () if c.device_us is not None or c.call_us is not None]
    rows = tuple(
        {
            "cells": {
                "case": f"{c.config}{_WHAT.get(c.kind or '', '')}" if c.kind in _WHAT else f"{c.kind}",
                "experts": f"{c.experts}",
                "M x K x N": f"{c.m}x{c.k}x{c.n}",
                "device us": interval_text(c.device_us),
                "call us": interval_text(c.call_us),
                "error": "" if c.relative_error is None else f"{c.relative_error:.4f}",
                "kernel": c.gemm_kernel or "",
            }
        }
        for c in seen
    )
    title = "a layer of experts: median [95 % interval]"
    return Exhibit("grouped-gemm-cases", "table", title, "us", rows) if rows else None


_WHAT = {"layer": "", "gemm": " (product alone)"}
