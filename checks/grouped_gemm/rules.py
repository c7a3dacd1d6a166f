"""What do grouped products cost and gain in FP8 here, and are they right?"""

from __future__ import annotations

from fp8doctor.checks.grouped_gemm.cases import Grouped, line, rows_text, shape_text, unmeasured
from fp8doctor.checks.grouped_gemm.facts import GroupedCase, GroupedGemm
from fp8doctor.checks.grouped_gemm.timing import FP8, PADDED, PRODUCTS
from fp8doctor.checks.linear.cases import beyond_noise
from fp8doctor.measuring.statistics import speedup
from fp8doctor.model import Action, ErrorText, Evidence, Finding, NotApplicable, Severity, Unknown, observed
from fp8doctor.registry import rule

Verdict = Finding | Unknown | NotApplicable | None
# Padding under a tenth of the product is not what holds it back.
LEAST_SHARE = 0.10

ERROR_TEXTS = (
    # PyTorch's GroupMMCommon.cuh (on the device), _meta_registrations.py (under torch.compile) and GroupedBlas.cpp.
    ErrorText(
        r"expected input tensor dynamic dimension byte size to be non-negative multiple of 16"
        r"|Expected mat_[ab] stride along \d dim to be multiple of 16 bytes"
        r"|strides should be multiple of 16 bytes",
        "GRP006",
        "Pad each expert's rows to a multiple of 16 (FP8) or 32 (MXFP8) before the step.",
    ),
)


@rule("GRP001", "moe-padding-overhead", Severity.INFO, scope="usage")
def padding_overhead(grouped_gemm: GroupedGemm) -> Verdict:
    """Lining up the experts' rows for FP8 costs part of what FP8 gains.

    What it means: a router sends each expert a number of rows that is no multiple of 16. The FP8 product that gives the
    weights' gradient adds up over these rows, and takes groups of multiples of 16 alone (MXFP8: of 32); torchao asks
    for that in the forward as well. So the rows are copied into padded groups before the product and back after it.

    Why it costs time: two copies of all rows. Where the group sizes are read back to the host to do it, the host also
    waits for the device in each layer.

    What to do: pad in the operation that sorts the rows by expert, which copies them anyway (a fused permutation);
    compute the padded places on the device. In inference no padding is needed where the report says that unpadded
    groups ran and were right.

    Sources: measured here. GroupMMCommon.cuh in PyTorch (which dimension must be a multiple of 16 bytes);
    torchao/prototype/moe_training/fp8_grouped_mm.py and kernels/mxfp8/quant.py (0.17.0, whose plain form reads the
    sizes back). Public cases: pytorch/ao#3998, NVIDIA/TransformerEngine#1921, AMD-AGI/Primus#742.
    """
    if (missing := unmeasured(grouped_gemm)) is not None:
        return missing
    grouped = Grouped(grouped_gemm)
    for shape in grouped.shapes():
        pad, unpad = grouped.us("torch-bf16", "pad", shape), grouped.us("torch-bf16", "unpad", shape)
        product = grouped.us(PADDED, "gemm", shape) or grouped.us(FP8, "gemm", shape)
        if pad is None or unpad is None or product is None:
            continue
        share = (pad.median + unpad.median) / product.median
        if share < LEAST_SHARE:
            return None
        by_list = grouped.case("torch-bf16", "pad-by-list", shape)
        bf16 = grouped.us("torch-bf16", "layer", shape)
        loose = grouped.case(FP8, "gemm", shape)
        needless = loose is not None and loose.outcome == "ok" and not is_wrong(loose)
        evidence = [line(f"{shape_text(shape)}, FP8 product of padded groups", product)]
        evidence += [line("padding them, sizes kept on the device", pad), line("taking the padding out again", unpad)]
        if by_list is not None and by_list.call_us is not None:
            evidence.append(line("padding with the sizes read back to the host", by_list.call_us, " a call"))
        if bf16 is not None:
            evidence.append(line("BF16, which needs no padding", bf16))
        if needless:
            evidence.append(Evidence("forward: unpadded groups ran here, and the result was right"))
        return Finding(
            title=f"Padding the experts' groups costs {share:.0%} of the FP8 product at {rows_text(shape)}",
            evidence=tuple(evidence),
            actions=(
                Action("Pad while sorting the rows by expert, with the places computed on the device"),
                *((Action("In inference, leave the padding out"),) if needless else ()),
            ),
        )
    return Unknown("padding was not timed beside an FP8 product")


@rule("GRP002", "small-shapes", Severity.INFO, scope="usage")
def small_groups(grouped_gemm: GroupedGemm) -> Verdict:
    """With few rows an expert, FP8 gains nothing in a mixture of experts.

    What it means: at these numbers of rows the compiled FP8 layer, its weights quantised beforehand, is no faster than
    the same layer in BF16.

    Why it costs time: each expert gets a part of the rows only, so its product is small; quantising all rows takes
    the same time however many experts share them. Few rows also leave both products waiting for the weights.

    What to do: keep the experts in BF16 below that, or give them more rows (a larger batch, fewer experts a GPU).

    Sources: measured here, uneven groups. torchao recommends many rows for grouped FP8
    (torchao/prototype/moe_training/README.md).
    """
    if (missing := unmeasured(grouped_gemm)) is not None:
        return missing
    grouped = Grouped(grouped_gemm)
    found = []
    for shape in grouped.shapes():
        bf16 = grouped.us("torch-bf16", "layer", shape)
        fp8 = grouped.us(f"{FP8}+compile", "layer", shape)
        if bf16 is not None and fp8 is not None:
            ratio = speedup(bf16, fp8)
            found.append((shape, ratio, ratio.median > 1 and beyond_noise(ratio, fp8)))
    if not found:
        return Unknown("no compiled FP8 layer of experts was timed")
    losing = [(shape, ratio) for shape, ratio, gained in found if not gained]
    if not losing:
        return None
    best = max((item for item in found if item[2]), key=lambda item: item[1].median, default=None)
    more = f"; {best[1].median:.2f}x with {rows_text(best[0])}" if best else " at any size that was timed"
    where = rows_text(losing[0][0]) if best else f"{losing[0][0].experts} experts of K={losing[0][0].k}"
    return Finding(
        title=f"Grouped FP8 gains nothing with {where}{more}",
        evidence=tuple(
            Evidence(
                f"{shape_text(shape)}: compiled FP8 at {ratio.median:.2f}x BF16 ({ratio.low:.2f} to {ratio.high:.2f})",
                ratio.median,
                "x",
                "grouped_gemm.cases",
            )
            for shape, ratio, _ in found
        ),
        actions=(Action("Keep the experts in BF16 below the size that gains, or give them more rows"),),
    )


@rule("GRP003", "kernel-arch-only", Severity.INFO, scope="usage")
def not_on_this_gpu(grouped_gemm: GroupedGemm) -> Verdict:
    """torch has no grouped FP8 product for this GPU.

    What it means: its kernels are for compute capability 9.0 and 10.0, and AMD's MI300 and newer. This GPU multiplies
    in FP8 and is none of them (Ada, RTX Blackwell). In BF16 torch then multiplies expert by expert, and reads the group
    sizes back to the host to do it.

    Why it costs time: a mixture of experts stays in BF16, or its program stops.

    What to do: use a library whose kernels cover this GPU (vLLM's and SGLang's Triton experts, for inference), or
    multiply expert by expert with `torch._scaled_mm`.

    Sources: the call itself; _scaled_grouped_mm_cuda and _grouped_mm_cuda in PyTorch's GroupedBlas.cpp. Public cases:
    vllm-project/vllm#22131, NVIDIA/TensorRT-LLM#3071.
    """
    if (missing := _away(grouped_gemm)) is not None:
        return missing
    tried = [c for c in _in_fp8(grouped_gemm) if c.outcome is not None]
    if not tried:
        return Unknown("no grouped FP8 product was tried")
    refused = [c for c in tried if c.outcome == "refused" and "only supported on" in (c.error or "")]
    if not refused:
        return None
    return Finding(
        title=f"torch's grouped FP8 product does not exist for compute capability {grouped_gemm.compute_capability}",
        evidence=(Evidence(f"it said: {refused[0].error}", fact="grouped_gemm.cases"),),
        actions=(Action("Keep the experts in BF16 here, or use a library whose kernels cover this GPU"),),
    )


@rule("GRP004", "silent-wrong-result", Severity.ERROR, scope="box")
def wrong_result(grouped_gemm: GroupedGemm) -> Verdict:
    """A grouped product runs, and its result is wrong.

    What it means: for at least one expert the result differs from FP32 by more than twice what the number format
    explains, or holds values that are not finite. The groups are uneven, as a router makes them.

    Why it costs time: one expert that computes wrong spoils a model quietly.

    What to do: do not use this product on this box; update torch; report it to pytorch/pytorch with this report.

    Sources: measured here on random-normal operands, each expert by itself. The error that each format explains is
    recomputed by the doctor's own tests. Public case: huggingface/transformers#47030.
    """
    if (missing := _away(grouped_gemm) or _refused(grouped_gemm)) is not None:
        return missing
    ran = [c for c in _in_fp8(grouped_gemm) if c.outcome == "ok"]
    if not ran:
        return Unknown("no grouped FP8 product was compared with FP32")
    wrong = [c for c in ran if is_wrong(c)]
    if not wrong:
        return None
    return Finding(
        title=f"Grouped {', '.join(sorted({c.config or '?' for c in wrong}))}: it runs, and the result is wrong",
        evidence=tuple(
            Evidence(
                f"{c.config} ({c.kind}), {c.experts} experts, {c.m}x{c.k}x{c.n}: "
                f"{c.error or f'relative error {c.relative_error} in one expert'}; its format explains "
                f"{c.relative_error_limit} at most",
                c.relative_error,
                None,
                "grouped_gemm.cases",
            )
            for c in wrong[:3]
        ),
        actions=(Action("Do not use grouped FP8 here; report it to https://github.com/pytorch/pytorch/issues"),),
    )


def is_wrong(case: GroupedCase) -> bool:
    """Whether a case's result is not what its format explains."""
    if case.error is not None or case.relative_error is None:
        return case.error is not None
    return case.relative_error > (case.relative_error_limit or 0.0)


@rule("GRP005", "fp8-silently-not-applied", Severity.ERROR, scope="box")
def no_fp8_kernel(grouped_gemm: GroupedGemm) -> Verdict:
    """A grouped FP8 product was called, and no FP8 kernel ran.

    What it means: the profiler shows a product in another format.

    Why it costs time: operands are cast to FP8, and the product is no faster than BF16's.

    What to do: update torch for this architecture.

    Sources: measured here: the kernels of one profiled call, told by name (checks/torch_build/kernels.py).
    """
    if (missing := _away(grouped_gemm) or _refused(grouped_gemm)) is not None:
        return missing
    seen = [c for c in _in_fp8(grouped_gemm) if c.gemm_kind not in (None, "none")]
    if not seen:
        return Unknown("the profiler showed no product's kernel")
    wrong = [c for c in seen if c.gemm_kind != "fp8-gemm"]
    if not wrong:
        return None
    return Finding(
        title=f"Grouped {', '.join(sorted({c.config or '?' for c in wrong}))}: no FP8 kernel ran",
        evidence=tuple(Evidence(f"{c.config} ran {c.gemm_kernel}", c.gemm_kind) for c in wrong[:3]),
        actions=(Action("Update torch for this architecture"),),
    )


@rule("GRP006", "dims-not-multiple-of-16", Severity.ERROR, scope="usage")
def groups_not_multiple_of_16(grouped_gemm: GroupedGemm) -> Verdict:
    """A grouped FP8 product was called with groups that are no multiple of 16.

    What it means: the product that gives the weights' gradient adds up over each expert's rows, so each group must
    begin at a multiple of 16 bytes: 16 rows in FP8, 32 in MXFP8 (a scaling block). In the forward, rows may be any.

    Why it costs time: the step stops; on the device it is an assertion, after which the process cannot use the GPU any
    more.

    What to do: pad each expert's rows to a multiple of 16, with zeros.

    Sources: GroupMMCommon.cuh and _meta_registrations.py in PyTorch; torchao/prototype/moe_training (0.17.0). Public
    cases: pytorch/ao#2678, pytorch/torchtitan#1651.
    """
    if (missing := _away(grouped_gemm) or _refused(grouped_gemm)) is not None:
        return missing
    products = [c for c in _in_fp8(grouped_gemm) if c.kind == "gemm"]
    loose = [c for c in products if c.config == FP8 and c.outcome in ("refused", "error")]
    padded = [c for c in products if c.config == PADDED and c.outcome == "ok"]
    if not products:
        return Unknown("no grouped FP8 product was tried")
    if not loose or not padded:
        return None
    return Finding(
        title="Grouped FP8 wants padded groups here, in the forward as well",
        evidence=(
            Evidence(f"groups of any size: {loose[0].error}", fact="grouped_gemm.cases"),
            Evidence("groups padded to multiples of 16: it ran", fact="grouped_gemm.cases"),
        ),
        actions=(Action("Pad each expert's rows to a multiple of 16"),),
        severity=Severity.INFO,  # our own call provoked it
    )


@rule("GRP007", "grouped-gemm-fails", Severity.WARNING, scope="box")
def product_fails(grouped_gemm: GroupedGemm) -> Verdict:
    """A grouped product does not run here, at sizes that are legal.

    What it means: torch has the product for this GPU, and calling or compiling it raised an error.

    Why it costs time: mixtures of experts that use it stop, or multiply expert by expert.

    What to do: update torch; without torch.compile it may run.

    Sources: the call itself.
    """
    if (missing := _away(grouped_gemm)) is not None:
        return missing
    tried = [c for c in grouped_gemm.cases or () if c.kind in PRODUCTS and c.outcome is not None]
    if not tried:
        return Unknown("no grouped product was tried")
    failed = [c for c in tried if c.outcome == "error"]
    if not failed:
        return None
    return Finding(
        title=f"The grouped product fails: {', '.join(sorted({c.config or '?' for c in failed}))}",
        evidence=tuple(Evidence(f"{c.config}: {c.error}", fact="grouped_gemm.cases") for c in failed[:3]),
        actions=(Action("Update torch, or use what ran"),),
    )


@rule("GRP008", "shapes-not-measured", Severity.INFO, scope="usage")
def shapes_not_measured(grouped_gemm: GroupedGemm) -> Verdict:
    """Some grouped products that were to be timed were not.

    What it means: the time budget was spent, the GPU's memory was full, or a child process was ended by what it tried.
    What was not measured is not judged: this rule passes, or says what is not known; it finds nothing.

    Why it costs time: it costs knowledge only.

    What to do: give more time (`--budget 120`, or `--thorough`), or free memory on the GPU.

    Sources: this run.
    """
    if grouped_gemm.measurable is False:
        return NotApplicable(grouped_gemm.why_not or "nothing could be timed")
    missing = observed(grouped_gemm.not_measured, "what was left out")
    if grouped_gemm.attempting:  # the last record of all attempts nothing
        missing = (*missing, f"{grouped_gemm.attempting} and what was to follow it: the probe ended there")
    cases = grouped_gemm.cases or ()
    full = sorted({f"{c.config} with {c.m} rows" for c in cases if c.outcome == "out-of-memory"})
    missing += tuple(f"{what}: out of GPU memory" for what in full)
    if untimed := [c for c in cases if c.outcome == "not-measured"]:
        missing = (*missing, f"{len(untimed)} of {len(cases)} cases: {untimed[0].error}")
    return Unknown("not measured: " + "; ".join(missing[:4])) if missing else None


def _away(grouped_gemm: GroupedGemm) -> NotApplicable | Unknown | None:
    if grouped_gemm.measurable is False:
        return NotApplicable(grouped_gemm.why_not or "nothing could be timed")
    return None if grouped_gemm.cases else Unknown("nothing was timed")


def _refused(grouped_gemm: GroupedGemm) -> NotApplicable | None:
    """Said where all FP8 products were refused: torch has none for this GPU."""
    outcomes = {c.outcome for c in _in_fp8(grouped_gemm)}
    return NotApplicable("torch has no grouped FP8 product for this GPU") if outcomes == {"refused"} else None


def _in_fp8(grouped_gemm: GroupedGemm) -> list[GroupedCase]:
    return [c for c in grouped_gemm.cases or () if c.kind in PRODUCTS and "fp8" in (c.config or "")]
