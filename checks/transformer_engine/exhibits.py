"""te.Linear beside nn.Linear: what is worth looking at."""

from __future__ import annotations

from typing import Any

from fp8doctor.checks.transformer_engine.cases import Times, fastest, host_parts, is_faster, quickest_to_ask_for
from fp8doctor.checks.transformer_engine.configurations import BF16, GRAPH, TE_BF16, short_label
from fp8doctor.checks.transformer_engine.times import FORWARD, TRAINING, LayerTime, TransformerEngineTimes
from fp8doctor.measuring.statistics import factor_columns, interval_text
from fp8doctor.model import Exhibit
from fp8doctor.registry import exhibit

_PASSES = {FORWARD: "fwd", TRAINING: "fwd+bwd"}


@exhibit
def beside_nn_linear(times: TransformerEngineTimes) -> Exhibit | None:
    """Each shape, forward and with backward: nn.Linear, te.Linear in BF16 and in FP8, eager and as a CUDA graph."""
    found = Times(times)
    rows = []
    for shape in found.by_work():
        for passes in (FORWARD, TRAINING):
            eager = fastest(found.recipes(shape, passes))
            graph = fastest(found.recipes(shape, passes, GRAPH))
            bf16 = found.get(BF16, shape, passes)
            if bf16 is None or (eager is None and graph is None):
                continue
            rows.append(
                {
                    "cells": {
                        "M x K x N": str(shape),
                        "passes": _PASSES[passes],
                        "nn.Linear": _both(bf16),
                        "te BF16": _both(found.get(TE_BF16, shape, passes)),
                        "te FP8": _both(eager, bf16),
                        "recipe": short_label((eager or graph or bf16).config or "").removesuffix(" scaling"),
                        "te FP8, graph": _both(graph, bf16),
                    }
                }
            )
    title = "Transformer Engine's linear layer: us of work | us a call; * faster than nn.Linear in BF16"
    return Exhibit("te-linear", "table", title, "us", tuple(rows)) if rows else None


def _both(case: LayerTime | None, versus: LayerTime | None = None) -> str:
    if case is None or case.device_us is None:
        return ""
    call = f" | {case.call_us.median:,.0f}" if case.call_us else ""
    star = " *" if versus is not None and is_faster(case, versus) else ""
    return f"{case.device_us.median:,.0f}{call}{star}"


@exhibit
def host_time(times: TransformerEngineTimes) -> Exhibit | None:
    """What the host spends on one forward and backward: bars that start where the one before ended."""
    found = Times(times)
    for shape in found.shapes:
        case = quickest_to_ask_for(found.recipes(shape))
        parts = host_parts(found, shape, case.config or "") if case else None
        if case is None or parts is None:
            continue
        base, forward, backward = parts
        twin = found.get(BF16, shape)
        rows = [
            *([_bar("nn.Linear, BF16", twin.host_us.median)] if twin and twin.host_us else []),
            _bar("te.Linear, BF16", base),
            _bar("+ FP8, forward", forward, start=base),
            _bar("+ FP8, backward", backward, start=base + forward),
            _bar(f"= te.Linear, {short_label(case.config or '')}", sum(parts)),
        ]
        if case.device_us:
            rows.append(_bar("the GPU's work meanwhile", case.device_us.median))
        title = f"the host's time for one forward + backward at {shape} (MxKxN), us"
        return Exhibit("te-linear-host", "bars", title, "us", tuple(rows), answers_why=True)
    return None


def _bar(name: str, value: float, start: float = 0.0) -> dict[str, Any]:
    return {"label": name, "value": round(value, 1), "start": round(start, 1), **factor_columns(None)}


@exhibit
def every_call(times: TransformerEngineTimes) -> Exhibit | None:
    """Every timed call, with its spread, errors and kernel."""
    timed = [case for case in times.cases or () if case.device_us is not None]
    rows = tuple(
        {
            "cells": {
                "case": case.config or "",
                "passes": _PASSES.get(case.passes or "", ""),
                "M x K x N": f"{case.m}x{case.k}x{case.n}",
                "device us": interval_text(case.device_us),
                "call us": interval_text(case.call_us),
                "error": "" if case.relative_error is None else f"{case.relative_error:.4f}",
                "gradient": "" if case.gradient_error is None else f"{case.gradient_error:.4f}",
                "kernel": case.gemm_kernel or "",
            }
        }
        for case in timed
    )
    title = "every timed call of te.Linear: median [95 % interval]"
    return Exhibit("te-linear-cases", "table", title, "us", rows) if rows else None
