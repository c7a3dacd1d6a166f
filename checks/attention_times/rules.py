"""Is the attention that torch picks the fastest one here, is what was asked for what ran, and is it right?"""

from __future__ import annotations

import re

from fp8doctor.checks.attention_times.code import how
from fp8doctor.checks.attention_times.facts import AttentionCase, AttentionTimes
from fp8doctor.checks.attention_times.lookup import (
    DEFAULT,
    Timings,
    backend_name,
    is_faster,
    is_fp8,
    line,
    name_of,
    task_of,
    timed_of,
)
from fp8doctor.checks.attention_times.shapes import Task
from fp8doctor.model import (
    Action,
    Evidence,
    Finding,
    Gain,
    NotApplicable,
    RuleResult,
    Severity,
    Unknown,
    Verdict,
)
from fp8doctor.registry import rule

# Which kernels are whose, in names that cannot be taken for one another's: those of the KERNELS of attention/rules.py
# and flash_attention/texts.py. A kernel that is none of these proves nothing.
_FAMILIES = (
    (re.compile(r"pytorch_flash::flash_(fwd|bwd)"), "flash"),
    (re.compile(r"(?i)cudnn_generated_fort_native_sdpa"), "cudnn"),
    (re.compile(r"fmha_cutlass[FB]_"), "efficient"),
    (re.compile(r"(?<!pytorch_)flash::flash_(fwd|bwd)"), "flash-attn-2"),
    (re.compile(r"FlashAttn(Fwd|Bwd)Sm\d+"), "flash-attn-3"),
    (re.compile(r"FlashAttention(Forward|Backward)Sm\d+"), "flash-attn-4"),
)
# The routes that ask for one family.
_ASKED = {
    "torch-sdpa-flash": "flash",
    "torch-sdpa-cudnn": "cudnn",
    "torch-sdpa-efficient": "efficient",
    "torch-sdpa-fa3": "flash-attn-3",
    "torch-sdpa-fa4": "flash-attn-4",
    "flash-attn-2": "flash-attn-2",
    "flash-attn-3": "flash-attn-3",
    "flash-attn-4": "flash-attn-4",
}
# What people install or force for speed.
_FORCED = ("flash-attn-2", "flash-attn-3", "flash-attn-4", "torch-sdpa-fa3", "torch-sdpa-fa4", "torch-sdpa-flash")
# BF16's error must lie this factor below what FP8 may have, or an FP8 result that is as exact proves nothing.
_TOLD_APART = 4.0
_MOST_LINES = 6


def not_timed(times: AttentionTimes) -> NotApplicable | Unknown | None:
    """Why nothing can be said of these times, None if any call was timed."""
    if times.measurable is False:
        return NotApplicable(times.why_not or "nothing could be timed")
    record = timed_of(times)
    if not any(record.at(task) for task in record.tasks.values()):
        return Unknown("no attention call was timed")
    return None


def _defaults(record: Timings) -> list[tuple[Task, AttentionCase]]:
    """The calls at which torch's own pick was timed."""
    pairs = ((task, record.at(task).get(DEFAULT)) for task in record.tasks.values())
    return [(task, case) for task, case in pairs if case is not None]


def ratio(slow: AttentionCase, fast: AttentionCase) -> float:
    """How many times as fast `fast` is on the device."""
    assert slow.device_us is not None
    assert fast.device_us is not None
    return round(slow.device_us.median / fast.device_us.median, 3)


@rule("ATT006", "attention-backend-slow", Severity.INFO, scope="usage")
def faster_elsewhere(times: AttentionTimes) -> Verdict:
    """Another attention that runs here is faster than the one that torch picks.

    What it means: scaled_dot_product_attention chooses among its backends by rules about the GPU and the call, not by
    trying them. Here every backend and every package that runs was timed at the same call, and one of them, in 16
    bits and as exact, was faster.

    Why it costs time: attention is called in every block of the model, and each call takes the difference.

    What to do: force that backend round the calls in question, or call that package. Measure the whole model then: a
    package wants its tensors in another layout, and what torch.compile cannot look into breaks its graph.

    Sources: measured here, routes in turn (device time, L2 cold), each compared with FP64. The choice by rules:
    select_sdp_backend and check_prefer_cudnn_attention in PyTorch's sdp_utils.cpp. Public case:
    flashinfer-ai/flashinfer#521.
    """
    if (missing := not_timed(times)) is not None:
        return missing
    record = timed_of(times)
    defaults = _defaults(record)
    if not defaults:
        return Unknown("torch's own attention was not timed")
    slow: list[tuple[float, Task, AttentionCase, AttentionCase]] = []
    for task, default in defaults:
        # The backend that torch picks, forced, is the same kernel.
        best = record.best(task, fp8=False, without=f"{DEFAULT}-{default.backend}")
        if best is None or best.route == DEFAULT:
            continue
        assert default.device_us is not None
        assert best.device_us is not None
        saved = (default.device_us.median - best.device_us.median) * (task.use.calls or 1)
        slow.append((saved, task, default, best))
    if not slow:
        return None
    slow.sort(key=lambda item: -item[0])
    _, task, default, best = slow[0]
    gain = ratio(default, best)
    evidence: list[Evidence] = []
    for _, where, one, other in slow[: _MOST_LINES // 3]:
        evidence += [Evidence(f"at {where.label}, torch picks {backend_name(one)}"), line(one), line(other, one)]
    return Finding(
        title=f"{name_of(best.route)} is {gain:.2f}x as fast as the attention that torch picks, at {task.label}",
        evidence=tuple(evidence),
        actions=(Action(f"Use {name_of(best.route)} for these calls", how(best)),),
        gain=Gain(gain, DEFAULT, "measured", name_of(DEFAULT)),
    )


@rule("ATT007", "attention-backend-forced-slower", Severity.INFO, scope="usage")
def forcing_costs(times: AttentionTimes) -> Verdict:
    """FlashAttention, forced, would be slower here than what torch picks.

    What it means: on Hopper and on Blackwell, scaled_dot_product_attention takes cuDNN's kernels by itself where cuDNN
    is newer than 9.15. The FlashAttention 2 package, and torch's own flash backend, which is FlashAttention 2, run
    kernels that were written for Ampere. Here both were timed at the same call.

    Why it costs time: advice from the days of the A100 says to install flash-attn, or to force the flash backend. On
    an H200, FlashAttention 2 reached 331 TFLOP/s where torch's pick reached 645 (24 heads of 128, 4,608 tokens).

    What to do: nothing, which is the point: call scaled_dot_product_attention and leave the choice to torch. Where a
    framework forces this backend, take that setting out again.

    Sources: measured here; measured on an H200 (benchmarks/RESULTS.md); check_prefer_cudnn_attention in PyTorch's
    sdp_utils.cpp; get_attention_backend in Transformer Engine's dot_product_attention/utils.py, which prefers cuDNN
    on compute capability 9.0 and later, too.
    """
    if (missing := not_timed(times)) is not None:
        return missing
    record = timed_of(times)
    defaults = _defaults(record)
    if not defaults:
        return Unknown("torch's own attention was not timed")
    slower: list[tuple[bool, float, Task, AttentionCase, AttentionCase]] = []
    asked = False
    for task, default in defaults:
        for route, case in record.at(task).items():
            if route in _FORCED and route != f"{DEFAULT}-{default.backend}":
                asked = True
                if is_faster(default, case):
                    slower.append((route.startswith("flash-attn"), ratio(case, default), task, default, case))
    if not asked:
        return NotApplicable("no FlashAttention runs here beside the one that torch picks")
    if not slower:
        return None
    # A package that somebody installed tells more than a backend of torch's.
    _, factor, task, default, case = max(slower, key=lambda item: item[:2])
    evidence = [Evidence(f"at {task.label}, torch picks {backend_name(default)}"), line(default)]
    evidence += [line(item[4], default) for item in slower if item[2] is task][: _MOST_LINES - 2]
    engine = record.at(task).get("te-attention")
    if engine is not None and (engine.backend or "").startswith("FusedAttention"):
        evidence.append(Evidence(f"Transformer Engine picks cuDNN, too: {engine.backend}"))
    return Finding(
        title=f"Forcing {name_of(case.route)} would take {factor:.2f}x the time: torch already picks "
        f"{backend_name(default)}",
        evidence=tuple(evidence),
        actions=(Action(f"Do not force {name_of(case.route)} for speed: leave the choice to torch.", how(default)),),
    )


@rule("ATT008", "silent-wrong-result", Severity.ERROR, scope="box")
def wrong(times: AttentionTimes) -> RuleResult:
    """An attention computes something else than attention, at a size that models use.

    What it means: the call came back without an error, and the rows that were compared differ from the same attention
    in FP64 by more than the number format explains: twice the error of a computation with every step in BF16, or, for
    FP8, twice what rounding queries, keys, values, softmax and output to e4m3 costs. The small calls of other rules
    may have been right: kernels differ by size. FP8 attention with DelayedScaling is called a few times first, as
    training does, so that its scales come from earlier calls. On an H200 (Transformer Engine 2.20.2, cuDNN 9.14 and
    9.19) its first call was off by 0.06, and every call after its scales had been taken by 0.67, at 24 heads x 4,608
    tokens of independent random numbers, whose attention is flat; where each token attends to itself it was right.

    Why it costs time: nothing fails, so the fault is looked for in the model, the data and the FP8 recipe.

    What to do: keep that route out until its package, torch, cuDNN or the GPU is sorted out. If several are wrong,
    or a matrix product is as well, suspect the GPU and its memory first.

    Sources: huggingface/transformers#47030 (a fast path, numerically wrong, that no error showed). The limits are
    computed beside each call (checks/attention_times/numerics.py); those of FP8 come from an emulation.
    """
    if times.measurable is False:
        return NotApplicable(times.why_not or "nothing could be called")
    compared = [case for case in times.cases or () if case.outcome in ("ok", "wrong")]
    if not compared:
        return Unknown("no attention was compared")
    return [_wrong(case) for case in compared if case.outcome == "wrong"] or None


def _wrong(case: AttentionCase) -> Finding:
    evidence = []
    for what, error, limit in (
        ("the output", case.relative_error, case.relative_error_limit),
        ("the queries' gradient", case.gradient_error, case.gradient_error_limit),
    ):
        if error is not None and limit is not None:
            text = f"{what}: relative error {error:.2g} against FP64; {limit:.2g} is the most that rounding explains"
            evidence.append(Evidence(text, error, None, "attention_times.cases"))
    if case.error:
        evidence.append(Evidence(case.error, fact="attention_times.cases"))
    default = case.route == DEFAULT
    return Finding(
        title=f"{name_of(case.route)} is wrong at {task_of(case).label}"
        + (f", and {backend_name(case)} is what torch picks" if default else ""),
        evidence=tuple(evidence),
        actions=(Action("Keep it out of this model."),),
        about=f"route:{case.route}",
        severity=Severity.WARNING if is_fp8(case.route) else None,
        scope=None if default else "usage",
    )


@rule("ATT009", "attention-silent-fallback", Severity.WARNING, scope="usage")
def something_else_ran(times: AttentionTimes) -> Verdict:
    """An attention was asked for by name, and something else ran without a word.

    What it means: either the longest kernel of the call belongs to another attention than the one that was asked for,
    by a name that cannot be mistaken; or FP8 attention was asked for and its result is as exact as BF16, which no
    result is whose operands were rounded to e4m3.

    Why it costs time: the setting, the installed package or the recipe changes nothing, and what is measured with it
    is measured of something else.

    What to do: for Transformer Engine, look for NVTE_DPA_FP8_RECIPE=F16 and NVTE_... variables in the environment, and
    let it tell its choice (NVTE_DEBUG=1 NVTE_DEBUG_LEVEL=2). For torch's switch, take a release of the package that
    this torch knows how to call.

    Sources: kernel names of public traces; init_fp8_metadata in Transformer Engine's dot_product_attention.py, where
    that variable turns FP8 attention off; huggingface/transformers#45399 and Dao-AILab/flash-attention#1848 for the
    question.
    """
    if (missing := not_timed(times)) is not None:
        return missing
    asked = [c for c in times.cases or () if c.outcome == "ok" and (c.route in _ASKED or is_fp8(c.route))]
    if not asked:
        return NotApplicable("no attention was asked for by name")
    proofs = [(case, proof) for case in asked if (proof := _proof(case)) is not None]
    if not proofs:
        shown = [case for case in asked if case.kernel or (is_fp8(case.route) and case.relative_error is not None)]
        return None if shown else Unknown("which kernels ran was not seen")
    names = dict.fromkeys(name_of(case.route) for case, _ in proofs)
    return Finding(
        title=f"Asked for, and something else ran: {', '.join(names)}",
        evidence=tuple(Evidence(f"{case.route} at {task_of(case).label}: {proof}") for case, proof in proofs),
        actions=(
            Action(
                "Look for variables that turn FP8 attention off, and let Transformer Engine tell its choice.",
                "env | grep NVTE_; NVTE_DEBUG=1 NVTE_DEBUG_LEVEL=2 python ...",
            )
            if is_fp8(proofs[0][0].route)
            else Action("Do not count on it here: what ran instead is named above."),
        ),
    )


def _proof(case: AttentionCase) -> str | None:
    """What shows that another attention ran than was asked for, None if nothing does."""
    exact, limit, own = case.relative_error, case.bf16_error_limit, case.relative_error_limit
    if is_fp8(case.route) and exact is not None and limit is not None and own is not None:
        if exact <= limit and limit * _TOLD_APART <= own:
            taken = f"; Transformer Engine took {case.backend}" if case.backend else ""
            return f"its relative error of {exact:.2g} is BF16's: nothing was rounded to e4m3{taken}"
        return None
    asked = _ASKED.get(case.route or "")
    ran = family(case.kernel)
    if asked is None or ran is None or ran == asked:
        return None
    return f"its longest kernel is that of {ran}: {case.kernel}"


def family(kernel: str | None) -> str | None:
    """Whose attention kernel this is, None for one that its name does not tell."""
    return next((name for pattern, name in _FAMILIES if kernel and pattern.search(kernel)), None)


@rule("ATT011", "attention-backend-fails", Severity.ERROR, scope="box")
def fails(times: AttentionTimes) -> RuleResult:
    """An attention that was right on a small call fails at a size that models use.

    What it means: a call of a few hundred rows came back right, and a larger one, or one with another number of heads
    or another mask, raised an error, ended the process or did not come back.

    Why it costs time: if it is what torch picks by itself, this model's attention does not work here; if it is another
    route, only a program that asks for it is hit.

    What to do: choose a route that ran. Errors of cuDNN often come from a second cuDNN on the library path: look at
    what else the report says of libraries.

    Sources: called here; pytorch/pytorch#185512 and pytorch/pytorch#188892 (cuDNN's parts loaded from two places).
    """
    if times.measurable is False:
        return NotApplicable(times.why_not or "nothing could be called")
    # FP8 routes have rules of their own.
    called = [c for c in times.cases or () if c.outcome != "not-measured" and not is_fp8(c.route)]
    if not called:
        return Unknown("no attention was called")
    failed = [c for c in called if c.outcome in ("error", "crashed", "timeout")]
    return [_failed(case) for case in failed] or None


def _failed(case: AttentionCase) -> Finding:
    default = case.route == DEFAULT
    gravity = Severity.WARNING if case.outcome == "timeout" else Severity.ERROR
    return Finding(
        title=f"{name_of(case.route)} fails at {task_of(case).label}",
        evidence=(Evidence(case.error or case.outcome or "", fact="attention_times.cases"),),
        actions=(Action("Choose another route for this call: the report's table of attention shows which ran."),),
        about=f"route:{case.route}",
        severity=gravity if default else Severity.INFO,
        scope=None if default else "usage",
    )
