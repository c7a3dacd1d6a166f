"""Is what was measured what this GPU should give: fast enough, right, really in FP8, and steady?"""

from __future__ import annotations

from fp8doctor.checks.gpu.clocks import Clocks, during
from fp8doctor.checks.gpu.facts import Gpu, Gpus, capability
from fp8doctor.checks.gpu.peaks import peak_of
from fp8doctor.checks.linear.cases import time_of, us
from fp8doctor.checks.linear.facts import Case, Ceiling, Linear
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Unknown, observed
from fp8doctor.registry import rule

Verdict = Finding | Unknown | NotApplicable | None
# Healthy NVIDIA boards reach 71 to 88 % of their dense peak in the best shape of a sweep, and large square shapes 5 to
# 10 points less (stas00/ml-engineering, compute/accelerator, "MAMF" tables): below this something holds the GPU back.
HEALTHY_SHARE = 0.60
# Where FP8 tensor cores do the work, healthy boards reach 1.77 to 1.98 of BF16's rate (same tables); a product that is
# cast to 16 bits reaches 1.0 at most. Below this the FP8 product is not what the hardware can do.
HEALTHY_RATIO = 1.3
# pyperf calls a benchmark unstable when its spread reaches a tenth of its value; here, when several cases are so.
UNSTEADY = 0.10
UNSTEADY_CASES = 0.2


def _unmeasured(linear: Linear) -> NotApplicable | Unknown | None:
    if linear.measurable is False:
        return NotApplicable(linear.why_not or "nothing could be timed")
    return None if linear.cases or linear.ceilings else Unknown("nothing was timed")


@rule("LIN008", "far-below-peak", Severity.WARNING, scope="box")
def far_below_peak(linear: Linear, gpus: Gpus, clocks: Clocks | None) -> Verdict:
    """The GPU multiplies far below its peak, and nothing that was seen explains it.

    What it means: the best BF16 product that a search over large shapes found stays under 60 % of the dense peak of
    this board. A power cap, a MIG slice, other processes, pinned or thermal clocks would explain it and are reported
    by themselves; none of them was seen.

    Why it costs time: everything that multiplies matrices is slower than this board can be, BF16 and FP8 alike.

    What to do: run the doctor again on an idle machine; compare with another box of the same kind; update the driver
    and cuBLAS; look at the power cables and at the host's own limits.

    Sources: the dense peak of the exact board (its datasheet is named in the evidence); healthy boards reach 71 to
    88 % of it (stas00/ml-engineering, compute/accelerator).
    """
    if (missing := _unmeasured(linear)) is not None:
        return missing
    gpu = _measured_gpu(linear, gpus)
    peak = peak_of(gpu) if gpu else None
    if gpu is None or peak is None or peak.bf16_tflops is None or gpu.vendor == "amd":
        return NotApplicable("the dense peak of this board has no source that was read")
    ceiling = observed(linear.ceilings.bf16 if linear.ceilings else None, "the BF16 ceiling")
    burst = observed(ceiling.burst_tflops, "the BF16 ceiling")
    share = burst / peak.bf16_tflops
    if share >= HEALTHY_SHARE:
        return None
    if reason := _explained(gpu, clocks, ceiling):
        return NotApplicable(f"it is explained by {reason}")
    return Finding(
        title=f"This GPU reaches {share:.0%} of its dense BF16 peak, and nothing seen explains it",
        evidence=(
            Evidence(f"best BF16 product: {burst:,.0f} TFLOP/s", burst, "TFLOP/s", "linear.ceilings.bf16"),
            Evidence(f"dense peak: {peak.bf16_tflops:,.0f} TFLOP/s ({peak.source})", peak.bf16_tflops, "TFLOP/s"),
        ),
        actions=(Action("Run again on an idle machine, and compare with another box of the same kind"),),
    )


def _measured_gpu(linear: Linear, gpus: Gpus) -> Gpu | None:
    """The GPU that was timed, by its name; one of several that are alike will do."""
    return next((gpu for gpu in gpus.gpus or () if gpu.name and gpu.name == linear.device_name), None)


def _explained(gpu: Gpu, clocks: Clocks | None, ceiling: Ceiling) -> str | None:
    """What the GPU's own rules report and what would slow it."""
    if gpu.power_limit_w and gpu.power_limit_default_w and gpu.power_limit_w < 0.99 * gpu.power_limit_default_w:
        return "the power limit"
    if gpu.mig_enabled or gpu.mps_active:
        return "the GPU being shared"
    if gpu.processes:
        return "other processes on the GPU"
    if clocks and ceiling.started_s is not None and ceiling.ended_s is not None:
        seen = during(clocks, ceiling.started_s, ceiling.ended_s)
        slowing = [
            name for name, share in (seen.reasons if seen else {}).items() if share > 0.1 and name not in _NOT_SLOWING
        ]
        if slowing:
            return ", ".join(slowing)
    return None


# Neither explains a slow product: an idle GPU, and the power limit that every large board reaches under load.
_NOT_SLOWING = ("GpuIdle", "SwPowerCap")


@rule("LIN009", "fp8-gemm-slow", Severity.WARNING, scope="box")
def fp8_gemm_slow(linear: Linear) -> Verdict:
    """FP8 products are hardly faster than BF16 products, even large ones.

    What it means: the best FP8 product of a search over large shapes stays under 1.3 times the best BF16 product.
    Healthy H100 to GB200 boards reach 1.77 to 1.98.

    Why it costs time: quantising needs a faster product to pay for it; here there is none.

    What to do: look at the kernel that ran (`--verbose`); update CUDA and torch together, so that cuBLASLt has a
    kernel for this architecture; on AMD, use hipBLASLt and TunableOp (`PYTORCH_TUNABLEOP_ENABLED=1`).

    Sources: measured here, no quantisation included. stas00/ml-engineering, compute/accelerator, "MAMF" tables;
    ROCm/TransformerEngine#72 for untuned hipBLASLt.
    """
    if (missing := _unmeasured(linear)) is not None:
        return missing
    ceilings = observed(linear.ceilings, "the ceilings")
    if ceilings.fp8 is None:
        return NotApplicable("no FP8 product ran")
    bf16 = observed(ceilings.bf16.burst_tflops if ceilings.bf16 else None, "the BF16 ceiling")
    fp8 = observed(ceilings.fp8.burst_tflops, "the FP8 ceiling")
    if fp8 >= HEALTHY_RATIO * bf16:
        return None
    # Those boards are what the tables cover; of others it is only told.
    measured_kind = (capability(linear.compute_capability) or (0, 0))[0] in (9, 10)
    return Finding(
        title=f"The best FP8 product runs at {fp8 / bf16:.2f}x BF16's rate; H100 to GB200 boards reach 1.77x and more",
        severity=None if measured_kind else Severity.INFO,
        evidence=(
            Evidence(f"best BF16 product: {bf16:,.0f} TFLOP/s", bf16, "TFLOP/s", "linear.ceilings.bf16"),
            Evidence(f"best FP8 product: {fp8:,.0f} TFLOP/s", fp8, "TFLOP/s", "linear.ceilings.fp8"),
        ),
        actions=(Action("Update torch and its CUDA libraries together"),),
    )


@rule("LIN010", "fp8-silently-not-applied", Severity.ERROR, scope="box", explains=("fp8-gemm-slow",))
def no_fp8_kernel(linear: Linear) -> Verdict:
    """FP8 was called, and no FP8 kernel ran.

    What it means: a layer that is configured for FP8 ran, and the profiler shows a product in another format.

    Why it costs time: operands are turned to FP8 and back, and the product is no faster than BF16's.

    What to do: update torch (or torchao) for this architecture; use the scaling whose kernel does run in FP8, which
    the report names.

    Sources: measured here: the kernels of one profiled call, told by name (a public list of such names is in
    checks/torch_build/kernels.py). Public cases: axolotl-ai-cloud/axolotl#842, huggingface/accelerate#2983.
    """
    if (missing := _unmeasured(linear)) is not None:
        return missing
    claimed = [c for c in linear.cases or () if c.device_us and _claims_fp8(c)]
    if not claimed:
        return NotApplicable("no FP8 layer was timed")
    seen = [c for c in claimed if c.gemm_kind not in (None, "none")]
    if not seen:
        return Unknown("the profiler showed no product's kernel")
    wrong = [c for c in seen if c.gemm_kind != "fp8-gemm"]
    if not wrong:
        return None
    configs = sorted({c.config or "?" for c in wrong})
    return Finding(
        title=f"{', '.join(configs)}: FP8 was called and no FP8 kernel ran",
        evidence=tuple(
            Evidence(f"{c.config} at {c.m}x{c.k}x{c.n} ran {c.gemm_kernel}", c.gemm_kind, None, "linear.cases")
            for c in wrong[:3]
        ),
        actions=(Action("Use a configuration whose kernel runs in FP8, or update torch for this architecture"),),
    )


def _claims_fp8(case: Case) -> bool:
    return "fp8" in (case.config or "") and "weightonly" not in (case.config or "")


@rule("LIN011", "silent-wrong-result", Severity.ERROR, scope="box")
def wrong_result(linear: Linear) -> Verdict:
    """A configuration runs, and its result is wrong.

    What it means: the result differs from FP32 by more than twice what the number format explains, or holds values
    that are not finite.

    Why it costs time: a fast wrong answer costs all the time that is spent with it. It is left out of the advice.

    What to do: do not use this configuration on this box; update torch (or the library named); report it to its
    maintainers with this report.

    Sources: measured here on random-normal operands. The error that each format explains is recomputed by the
    doctor's own tests. Public case: huggingface/transformers#47030.
    """
    if (missing := _unmeasured(linear)) is not None:
        return missing
    # A result that is not finite has no error; the case says so in words.
    compared = [
        c
        for c in linear.cases or ()
        if c.outcome == "ok"
        and c.relative_error_limit is not None
        and (c.relative_error is not None or c.error)
        # cuBLAS may add up the parts of a BF16 product in BF16 (split-K), which is no fault.
        and not (c.config or "").startswith("torch-bf16")
    ]
    if not compared:
        return Unknown("no result was compared")
    wrong = [c for c in compared if c.relative_error is None or c.relative_error > (c.relative_error_limit or 0.0)]
    if not wrong:
        return None
    return Finding(
        title=f"{', '.join(sorted({c.config or '?' for c in wrong}))}: it runs, and the result is wrong",
        evidence=tuple(
            Evidence(
                f"{c.config} at {c.m}x{c.k}x{c.n}: {c.error or f'relative error {c.relative_error}'}; "
                f"its format explains {c.relative_error_limit} at most",
                c.relative_error,
                None,
                "linear.cases",
            )
            for c in wrong[:3]
        ),
        actions=(Action("Do not use this configuration here; report it with this report"),),
    )


@rule("LIN012", "unsteady-timing", Severity.WARNING, scope="box")
def unsteady(linear: Linear, gpus: Gpus | None) -> Verdict:
    """The times of this run scatter so much that small differences say nothing.

    What it means: for a fifth of the cases or more, the middle half of the samples spans over a tenth of their median.

    Why it costs time: it costs trust. Something else used the GPU, or its clock moved, while it was timed; the
    intervals in the report are wide, and the advice follows them.

    What to do: stop what else runs on the GPU and run the doctor again.

    Sources: pyperf's rule for an unstable benchmark (a spread of 10 %).
    """
    if (missing := _unmeasured(linear)) is not None:
        return missing
    timed = [c for c in linear.cases or () if time_of(c.device_us) and c.device_us and c.device_us.iqr is not None]
    if not timed:
        return Unknown("nothing was timed")
    wide = [c for c in timed if c.device_us and (c.device_us.iqr or 0.0) > UNSTEADY * c.device_us.median]
    if len(wide) < UNSTEADY_CASES * len(timed):
        return None
    others = sum(len(gpu.processes or ()) for gpu in (gpus.gpus or ())) if gpus else 0
    worst = max(wide, key=lambda c: (c.device_us.iqr or 0.0) / c.device_us.median if c.device_us else 0.0)
    return Finding(
        title=f"Timings scatter: {len(wide)} of {len(timed)} cases by more than 10 %",
        evidence=(
            Evidence(
                f"{worst.config} at {worst.m}x{worst.k}x{worst.n}: median {us(worst.device_us)}, middle half spans "
                f"{us(worst.device_us.iqr if worst.device_us else None)}",
                None,
                None,
                "linear.cases",
            ),
            *((Evidence(f"{others} other processes were on the GPU", others, None, "gpus"),) if others else ()),
        ),
        actions=(Action("Stop what else uses the GPU and run again"),),
    )


@rule("LIN002", "dims-not-multiple-of-16", Severity.INFO, scope="usage")
def not_multiple_of_16(linear: Linear) -> Verdict:
    """A layer's dimension is no multiple of 16, so FP8 refuses it.

    What it means: FP8 products need K and N to be multiples of 16; libraries raise an error, or quietly leave such a
    layer in BF16.

    Why it costs time: the layer stays in BF16, or the model does not run.

    What to do: pad the dimension (a vocabulary of 50,257 to 50,272, say), or exclude the layer from quantisation.

    Sources: PyTorch's own check ("Expected trailing dimension of mat1 to be divisible by 16", ScaledBlas.cpp), met
    here at the shapes asked for. Public cases: NVIDIA/TransformerEngine#1422.
    """
    if (missing := _unmeasured(linear)) is not None:
        return missing
    if not linear.cases:
        return Unknown("no layer was tried")
    odd = {(c.k, c.n) for c in linear.cases if c.k and c.n and (c.k % 16 or c.n % 16)}
    if not odd:
        return None
    there = [c for c in linear.cases if (c.k, c.n) in odd and _claims_fp8(c)]
    tried = [c for c in there if c.outcome in ("ok", "refused", "error")]
    if not tried:
        return Unknown("a shape asked for is no multiple of 16, and no FP8 layer was tried at it")
    refused = [c for c in tried if c.outcome != "ok"]
    if not refused:
        return None
    return Finding(
        title="FP8 refuses a layer whose K or N is no multiple of 16",
        evidence=tuple(
            Evidence(
                f"K={k} N={n}: {next(c.error for c in refused if (c.k, c.n) == (k, n))}", None, None, "linear.cases"
            )
            for k, n in sorted({(c.k or 0, c.n or 0) for c in refused})
        ),
        actions=(Action("Pad K and N to the next multiple of 16, or leave these layers in BF16"),),
    )


@rule("LIN013", "shapes-not-measured", Severity.INFO, scope="usage")
def shapes_not_measured(linear: Linear) -> Verdict:
    """Something that was to be timed was not.

    What it means: the time budget was spent, the GPU's memory was full, or a child process was ended by what it tried.
    What was not measured is not judged: this rule passes, or says what is not known; it finds nothing.

    Why it costs time: it costs knowledge only.

    What to do: give more time (`--budget 120`, or `--thorough`), or free memory on the GPU.

    Sources: this run.
    """
    if linear.measurable is False:
        return NotApplicable(linear.why_not or "nothing could be timed")
    missing = observed(linear.not_measured, "what was left out")
    if linear.attempting:  # the last record of all attempts nothing
        missing = (*missing, f"{linear.attempting} and what was to follow it: the probe ended there")
    if full := sorted({f"{c.m}x{c.k}x{c.n}" for c in linear.cases or () if c.outcome == "out-of-memory" and c.m}):
        missing = (*missing, f"{', '.join(full)}: out of GPU memory")
    if untimed := [c for c in linear.cases or () if c.outcome == "not-measured"]:
        missing = (*missing, f"{len(untimed)} of {len(linear.cases or ())} cases: {untimed[0].error}")
    if not missing:
        return None
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return Unknown("not measured: " + "; ".join(missing[:3]) + more)
