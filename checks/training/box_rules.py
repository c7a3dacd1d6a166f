"""Is what FP8 training computed here right, really in FP8, and was all of it measured?"""

from __future__ import annotations

from fp8doctor.checks.training.cases import wrong_parts
from fp8doctor.checks.training.facts import Training, TrainingCase
from fp8doctor.checks.training.recipes import named
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Unknown, observed
from fp8doctor.registry import rule

Verdict = Finding | Unknown | NotApplicable | None


def _away(training: Training) -> NotApplicable | Unknown | None:
    if training.measurable is False:
        return NotApplicable(training.why_not or "nothing could be timed")
    return None if training.cases else Unknown("nothing was timed")


def _in_fp8(training: Training) -> list[TrainingCase]:
    return [c for c in training.cases or () if (recipe := named(c.config)) is not None and recipe.torchao]


def _where(case: TrainingCase) -> str:
    return f"{case.config} at {case.m}x{case.k}x{case.n}" if case.m else f"{case.config} at K={case.k} N={case.n}"


@rule("TRN004", "silent-wrong-result", Severity.ERROR, scope="box")
def wrong_result(training: Training) -> Verdict:
    """An FP8 training step runs, and what it computes is wrong.

    What it means: the output, the gradient of the input or the gradient of the weight differs from FP32 by more than
    twice what its number format explains, or holds values that are not finite. The operands are random normal numbers.

    Why it costs time: a run that trains on wrong gradients is lost, however fast it was.

    What to do: do not train with this recipe on this box; update torch and torchao; report it to pytorch/ao with this
    report.

    Sources: measured here. The error that each format explains is recomputed by the doctor's own tests. Public case:
    huggingface/transformers#47030.
    """
    if (missing := _away(training)) is not None:
        return missing
    ran = [
        c for c in _in_fp8(training) if c.outcome in ("ok", "not-measured") and (c.output_error is not None or c.error)
    ]
    if not ran:
        return Unknown("no FP8 training was compared with FP32")
    said: list[tuple[TrainingCase, str, float | None]] = []
    for case in ran:
        said += [
            (case, f"{what}: relative error {error}; its format explains {limit} at most", error)
            for what, error, limit in wrong_parts(case)
        ]
        if case.outcome == "ok" and case.error:
            said.append((case, case.error, None))
    if not said:
        return None
    return Finding(
        title=f"{', '.join(sorted({case.config or '?' for case, _, _ in said}))}: it trains, and the result is wrong",
        evidence=tuple(
            Evidence(f"{_where(case)}, {words}", error, None, "training.cases") for case, words, error in said[:4]
        ),
        actions=(Action("Do not train with this recipe here; report it to https://github.com/pytorch/ao/issues"),),
    )


@rule("TRN005", "fp8-silently-not-applied", Severity.ERROR, scope="box")
def not_in_fp8(training: Training) -> Verdict:
    """An FP8 training step multiplied in another format.

    What it means: the layer was converted for FP8 training, and the profiler shows more products in another format
    than its recipe has.

    Why it costs time: the operands are cast to FP8 and back, and the products are no faster than BF16's.

    What to do: update torch and torchao together; take the recipe whose products do run in FP8.

    Sources: measured here: the kernels of one profiled call, told by name (checks/torch_build/kernels.py); which
    products a recipe leaves in 16 bits: torchao/float8/config.py (0.17.0).
    """
    if (missing := _away(training)) is not None:
        return missing
    seen = [c for c in _in_fp8(training) if c.products]
    if not seen:
        return Unknown("the profiler showed no product's kernel")
    wrong = []
    for case in seen:
        recipe = named(case.config)
        others = {kind: count for kind, count in (case.products or {}).items() if kind != "fp8-gemm"}
        if recipe is not None and sum(others.values()) > 3 - recipe.in_fp8:
            wrong.append((case, ", ".join(f"{count} {kind}" for kind, count in others.items())))
    if not wrong:
        return None
    return Finding(
        title=f"{', '.join(sorted({case.config or '?' for case, _ in wrong}))}: not all of its products ran in FP8",
        evidence=tuple(Evidence(f"{_where(case)} ran {others}", fact="training.cases") for case, others in wrong[:3]),
        actions=(Action("Take a recipe whose products run in FP8, or update torch and torchao together"),),
    )


@rule("TRN006", "dims-not-multiple-of-16", Severity.INFO, scope="usage")
def not_multiple_of_16(training: Training) -> Verdict:
    """FP8 training refuses a layer or a batch whose size is no multiple of 16.

    What it means: FP8 products need multiples of 16 in what they add up over and in their columns. In training that is
    in_features, out_features, and the number of tokens as well: the weight's gradient adds up over them. torchao's
    conversion takes such a layer all the same; the step then raises an error.

    Why it costs time: the program stops at its first step, or at the first batch of another size.

    What to do: pad sequences so that batch x length is a multiple of 16; leave such layers out with `module_filter_fn`,
    or set `pad_inner_dim=True` in Float8LinearConfig, which pads at every step.

    Sources: met here; PyTorch's check ("Expected trailing dimension of mat1 to be divisible by 16", ScaledBlas.cpp);
    torchao/float8/config.py and float8_linear_utils.py (0.17.0). Public cases: NVIDIA/TransformerEngine#1422.
    """
    if (missing := _away(training)) is not None:
        return missing
    tried = [c for c in _in_fp8(training) if c.outcome in ("ok", "refused", "error")]
    odd = [c for c in tried if any(size % 16 for size in (c.m or 0, c.k or 0, c.n or 0))]
    refused = [c for c in odd if c.outcome == "refused" and "divisible by 16" in (c.error or "")]
    if not tried:
        return Unknown("no FP8 training was tried")
    if not refused:
        return None
    return Finding(
        title="FP8 training refuses a size that is no multiple of 16",
        evidence=tuple(Evidence(f"{_where(c)}: {c.error}", fact="training.cases") for c in refused[:3]),
        actions=(
            Action("Pad tokens to a multiple of 16, and leave such layers in BF16 (module_filter_fn)"),
            Action("Or let torchao pad at every step", "Float8LinearConfig(pad_inner_dim=True)"),
        ),
    )


@rule("TRN007", "fp8-training-fails", Severity.WARNING, scope="box")
def training_fails(training: Training) -> Verdict:
    """A recipe of torchao's float8 training does not run here.

    What it means: converting a layer, compiling it or its first step raised an error, at sizes that are legal. BF16
    ran through the same code.

    Why it costs time: this recipe cannot be used on this box, and a program that names it stops.

    What to do: take a recipe that ran; update torch and torchao together, so that the pair fits.

    Sources: the step itself; pytorch/ao#2919 for which torch goes with which torchao.
    """
    if (missing := _away(training)) is not None:
        return missing
    tried = [c for c in _in_fp8(training) if c.outcome in ("ok", "refused", "error", "not-measured")]
    if not tried:
        return Unknown("no FP8 training was tried")
    failed = [
        c
        for c in tried
        if c.outcome in ("refused", "error") and not any(s % 16 for s in (c.m or 0, c.k or 0, c.n or 0))
    ]
    if not failed:
        return None
    ran = sorted({c.config or "?" for c in tried if c.outcome == "ok"} - {c.config for c in failed})
    return Finding(
        title=f"FP8 training does not run with {', '.join(sorted({c.config or '?' for c in failed}))}",
        evidence=tuple(Evidence(f"{_where(c)}: {c.error}", fact="training.cases") for c in failed[:3]),
        actions=(Action(f"Take one that ran: {', '.join(ran)}" if ran else "Update torch and torchao together"),),
    )


@rule("TRN008", "shapes-not-measured", Severity.INFO, scope="usage")
def shapes_not_measured(training: Training) -> Verdict:
    """Some of the training that was to be timed was not.

    What it means: the time budget was spent, the GPU's memory was full, or a child process was ended by what it tried.
    What was not measured is not judged: this rule passes, or says what is not known; it finds nothing.

    Why it costs time: it costs knowledge only.

    What to do: give more time (`--budget 180`, or `--thorough`), or free memory on the GPU.

    Sources: this run.
    """
    if training.measurable is False:
        return NotApplicable(training.why_not or "nothing could be timed")
    missing = observed(training.not_measured, "what was left out")
    if training.attempting:  # the last record of all attempts nothing
        missing = (*missing, f"{training.attempting} and what was to follow it: the probe ended there")
    full = sorted({_where(c) for c in training.cases or () if c.outcome == "out-of-memory"})
    untimed = [c for c in training.cases or () if c.outcome == "not-measured"]
    missing += tuple(f"{where}: out of GPU memory" for where in full)
    if untimed:
        missing = (*missing, f"{len(untimed)} of {len(training.cases or ())} cases: {untimed[0].error}")
    if not missing:
        return None
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return Unknown("not measured: " + "; ".join(missing[:3]) + more)
