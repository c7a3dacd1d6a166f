"""Reports built by hand, for what only looks at a report: a healthy H200, a box with an old driver, one without a GPU.

The times are those of a real H200; rule ids and names need not be of rules that exist.
"""

from __future__ import annotations

from fp8doctor.judging.report import (
    FindingRecord,
    OutcomeName,
    OutcomeRecord,
    ProbeRecord,
    Report,
    Speedup,
    Tool,
    Use,
    VerdictRecord,
    When,
)
from fp8doctor.model import Action, Clock, Evidence, Exhibit, Gain, Severity

ROWWISE = """from torchao.float8 import Float8LinearConfig, convert_to_float8_training
convert_to_float8_training(model, config=Float8LinearConfig.from_recipe_name("rowwise"))
model = torch.compile(model)"""


def _use(
    config: str,
    label: str,
    layer: tuple[int, int],
    tokens: tuple[int, int | None],
    speedup: tuple[float, float] | None,
    how: str,
    clock: Clock = "device",
) -> Use:
    return Use(
        when=When("said by numbers", None, *layer, *tokens),
        config=config,
        label=label,
        speedup=Speedup(*speedup, clock) if speedup else None,
        versus="torch-bf16+compile" if speedup else None,
        basis="measured",
        how=how,
    )


def _outcomes(**counts: int) -> tuple[OutcomeRecord, ...]:
    names: dict[str, OutcomeName] = {
        "passed": "pass",
        "na": "not-applicable",
        "unknown": "unknown",
        "crashed": "crashed",
    }
    reasons = {"na": "this is no AMD GPU", "unknown": "the CPU quota was not observed", "crashed": "KeyError: 'x'"}
    return tuple(
        OutcomeRecord(f"{word[:2].upper()}{number:03}", names[word], reasons.get(word))
        for word, count in counts.items()
        for number in range(count)
    )


_BEST = ("torchao-fp8-rowwise+compile", "torchao float8 rowwise + torch.compile")
_GRAPH = ("torch-fp8-rowwise+cudagraph", "torch._scaled_mm rowwise + CUDA graph")
_BASE = ("torch-bf16+compile", "BF16 + torch.compile")

HEALTHY = Report(
    tool=Tool("0.1.0"),
    created="2026-11-20T10:00:00+00:00",
    source="live",
    elapsed_s=38.2,
    captions=("NVIDIA H200 · sm_90", "driver 580.159.04", "torch 2.11.0+cu130"),
    verdict=VerdictRecord(
        "ready",
        "FP8 pays on this box when it is compiled; run eagerly it takes twice BF16's time.",
        True,
        True,
        True,
    ),
    use=(
        _use(*_BEST, (3072, 12288), (1024, None), (1.63, 1.75), ROWWISE),
        _use(*_BEST, (3072, 3072), (1024, None), (1.03, 1.28), ROWWISE),
        _use(*_GRAPH, (3072, 12288), (16, 256), (1.1, 1.2), "graph = torch.cuda.CUDAGraph()", "call"),
        _use(*_BASE, (3072, 3072), (1, 256), None, "model = torch.compile(model)"),
    ),
    findings=(
        FindingRecord(
            "CMP002",
            "not-compiled",
            Severity.INFO,
            "usage",
            "eager FP8 spends 68 % of its time quantising",
            (Evidence("quantising takes 134 us of 198 us", 134, "us", "linear.cases"),),
            ("QNT001",),
            (Action("wrap the model in torch.compile", "model = torch.compile(model)"),),
            Gain(2.4, "torchao-fp8-rowwise", "measured"),
        ),
        FindingRecord("QNT001", "quantize-overhead", Severity.INFO, "usage", "quantising costs more than FP8 saves"),
        FindingRecord(
            "TE004",
            "cpu-launch-bound",
            Severity.INFO,
            "usage",
            "te.Linear forward and backward: 0.9 ms of host time for 0.2 ms of work",
            actions=(Action("capture it in a CUDA graph"),),
            gain=Gain(2.8, "te-fp8-current", "measured"),
        ),
    ),
    outcomes=(*_outcomes(passed=31, na=12, unknown=1), OutcomeRecord("CMP002", "finding")),
    exhibits=(
        Exhibit(
            "linear-why",
            "bars",
            "one linear layer, 4096 x 3072 x 3072, us on the device",
            "us",
            (
                {"label": "BF16", "value": 103.0, "start": 0, "ratio": None, "low": None, "high": None},
                {"label": "FP8 GEMM alone", "value": 56, "start": 0, "ratio": 1.83, "low": None, "high": None},
                {"label": "+ quantise, 5 kernels", "value": 134, "start": 56, "ratio": None, "low": None, "high": None},
                {"label": "+ between kernels", "value": 8, "start": 190, "ratio": None, "low": None, "high": None},
                {"label": "= FP8, eager", "value": 198, "start": 0, "ratio": 0.52, "low": None, "high": None},
                {"label": "= FP8, compiled", "value": 81, "start": 0, "ratio": 1.28, "low": None, "high": None},
            ),
            answers_why=True,
        ),
        Exhibit(
            "break-even",
            "heatmap",
            "Speed-up by tokens and layer",
            "x",
            tuple(
                {"x": f"{m}", "y": "3072x3072", "value": value, "low": None, "high": None, "note": note}
                for m, value, note in ((16, 0.82, None), (1024, 1.03, None), (4096, None, "out of memory"))
            ),
        ),
        Exhibit(
            "kernels",
            "table",
            "Kernels that ran",
            "",
            ({"cells": {"case": "FP8 rowwise", "kernel": "nvjet_qqtst_128x256_128x4_1x2_h_bz_coopA_NTT", "us": 56.2}},),
        ),
        Exhibit(
            "curves",
            "lines",
            "Speed-up over BF16",
            "x",
            tuple(
                {"series": series, "x": m, "y": y, "low": None, "high": None}
                for series in ("rowwise", "tensorwise")
                for m, y in ((16, 0.82), (1024, 1.03))
            ),
            x_title="tokens M",
            x_is_log=True,
        ),
        Exhibit(
            "roofline",
            "roofline",
            "Roofline",
            "TFLOP/s",
            (
                {"series": "ceiling", "label": "FP8", "flop_per_byte": 372, "tflops": 1576.0, "ceiling": True},
                {
                    "series": "FP8",
                    "label": "4096x4096x4096",
                    "flop_per_byte": 1365.3,
                    "tflops": 1315.5,
                    "ceiling": False,
                },
            ),
        ),
    ),
    probes={
        "gpus": ProbeRecord("ok", None, None, 120.0, "/usr/bin/python3"),
        "torch_build": ProbeRecord("ok", None, None, 5000.0, "/opt/venv/bin/python"),
        "linear": ProbeRecord("ok", None, None, 22000.0, "/opt/venv/bin/python"),
    },
    facts={"gpus": {"gpus": [{"index": 0, "name": "NVIDIA H200", "uuid": None}]}},
)

_LOWERED = FindingRecord(
    "GPU003",
    "power-cap",
    Severity.WARNING,
    "box",
    "The power limit is below the board's own",
    (Evidence("500 W of 700 W"),),
    actions=(Action("ask whoever runs the box for the default limit", "sudo nvidia-smi -pl 700", safe=False),),
)

BROKEN = Report(
    tool=Tool("0.1.0"),
    created="2026-11-20T10:00:00+00:00",
    source="live",
    elapsed_s=14,
    captions=("2 x NVIDIA H100 80GB HBM3 · sm_90", "driver 535.54.03", "torch 2.11.0+cu130"),
    verdict=VerdictRecord(
        "broken",
        "The GPU has FP8, and the software here does not get there: the driver is older than the CUDA of this torch.",
        True,
        False,
        None,
    ),
    findings=(
        FindingRecord(
            "DRV001",
            "driver-too-old",
            Severity.ERROR,
            "box",
            "The driver is older than the CUDA of this torch",
            (Evidence("driver 535.54.03 serves CUDA up to 12.2"), Evidence("torch was built with CUDA 13.0")),
            ("TOR004",),
            (
                Action("install a torch built with CUDA 12", "pip install torch --index-url https://example.org/cu126"),
                Action("or update the driver to 580 or newer", safe=False),
            ),
        ),
        FindingRecord("TOR004", "cuda-init-failed", Severity.ERROR, "box", "torch cannot start on the GPU"),
        FindingRecord(**{**vars(_LOWERED), "about": "gpu:0"}),
        FindingRecord(**{**vars(_LOWERED), "about": "gpu:1"}),
    ),
    outcomes=_outcomes(passed=9, unknown=8, crashed=1),
    probes={
        "gpus": ProbeRecord("ok"),
        "torch_build": ProbeRecord(
            "signal", "SIGSEGV", "Fatal Python error: Segmentation fault", 900.0, "/opt/v/python"
        ),
        "flash_attention": ProbeRecord("timeout", "no end after 60 s"),
        "attention": ProbeRecord("skipped", "the time budget was spent before it"),
        "linear": ProbeRecord("skipped", "it needs torch_build, which ended as signal"),
    },
)

NO_GPU = Report(
    tool=Tool("0.1.0"),
    created="2026-11-20T10:00:00+00:00",
    source="live",
    elapsed_s=4,
    captions=("no GPU visible", "torch 2.13.0+cpu"),
    verdict=VerdictRecord("unknown", "Cannot say: no GPU is visible: no driver is installed.", None, None, None),
    findings=(
        FindingRecord(
            "GPU002",
            "no-gpu-visible",
            Severity.ERROR,
            "box",
            "No GPU is visible: no driver is installed",
            (Evidence("libnvidia-ml.so.1 is not there"),),
            actions=(Action("install the driver, or run this where a GPU is"),),
        ),
    ),
    outcomes=_outcomes(passed=4, na=28, unknown=1),
    probes={"gpus": ProbeRecord("ok")},
)

REPORTS = {"healthy": HEALTHY, "broken": BROKEN, "no-gpu": NO_GPU}
