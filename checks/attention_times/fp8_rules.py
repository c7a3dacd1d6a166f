"""Is there FP8 attention here, by which way, and does it gain anything?"""

from __future__ import annotations

from fp8doctor.checks.attention_times.code import how
from fp8doctor.checks.attention_times.facts import AttentionCase, AttentionTimes
from fp8doctor.checks.attention_times.lookup import (
    DEFAULT,
    Timings,
    is_faster,
    is_fp8,
    line,
    name_of,
    task_of,
    timed_of,
)
from fp8doctor.checks.attention_times.rules import not_timed, ratio
from fp8doctor.checks.attention_times.shapes import Task
from fp8doctor.checks.gpu import FIRST_FP8, capability
from fp8doctor.model import Action, ErrorText, Evidence, Finding, Gain, NotApplicable, Severity, Unknown, Verdict
from fp8doctor.registry import rule

_TE = "te-"


def _no_question(times: AttentionTimes) -> NotApplicable | Unknown | None:
    """Why FP8 attention is no question here, None if it is one."""
    if times.measurable is False:
        return NotApplicable(times.why_not or "nothing could be called")
    if (capability(times.compute_capability) or FIRST_FP8) < FIRST_FP8:
        return NotApplicable("this GPU has no FP8 tensor cores")
    if not any(is_fp8(case.route) for case in times.cases or ()):
        if times.not_measured and any("Transformer Engine" in words for words in times.not_measured):
            return Unknown("Transformer Engine's attention was not tried")
        return NotApplicable("no package with FP8 attention was called")
    return None


@rule(
    "ATT003",
    "fp8-attention-unavailable",
    Severity.INFO,
    scope="usage",
    # FA008 says the same of the FlashAttention packages alone.
    explains=("fp8-attention-unavailable",),
)
def no_fp8_attention(times: AttentionTimes) -> Verdict:
    """FP8 attention was asked for, and not every way to it exists here.

    What it means: FP8 attention comes by few ways, and each has its own conditions. Transformer Engine's
    DotProductAttention takes FP8 when the recipe says fp8_dpa=True: DelayedScaling by cuDNN from Hopper on,
    Float8CurrentScaling by cuDNN from Blackwell on alone, MXFP8BlockScaling likewise. FlashAttention 3 has an FP8
    forward on Hopper, FlashAttention 4 on compute capability 10.x, FlashAttention 2 none. Each that is here was
    called, and said the reasons shown.

    Why it costs time: a recipe that works for the linear layers leaves attention in BF16, or stops with "No dot
    product attention backend is available". On Hopper that is worth little: 7 to 10 % of the attention's time, by
    DelayedScaling on an H200.

    What to do: where attention is a large part of the step, take the way that works here, unless it was wrong at
    another call (ATT008); otherwise leave fp8_dpa off and keep attention in BF16. FP8 in the linear layers does not
    depend on it.

    Sources: called and timed here; get_attention_backend in transformer_engine/pytorch/attention/
    dot_product_attention/utils.py, 2.20.2; hopper/flash_api.cpp and flash_attn/cute/interface.py of
    Dao-AILab/flash-attention; the gain on an H200: benchmarks/RESULTS.md. Public cases: NVIDIA/TransformerEngine#1100,
    Dao-AILab/flash-attention#2109.
    """
    if (away := _no_question(times)) is not None:
        return away
    tried = _by_route(times)
    failing = {route: case for route, case in tried.items() if case.outcome not in ("ok", "not-measured")}
    working = [route for route, case in tried.items() if case.outcome == "ok"]
    wrong = timed_of(times).wrong
    reliable = [route for route in working if route not in wrong]
    # What a package never claimed to do is no news where another way works.
    known_before = ("unavailable", "wrong")
    asked = [_way(r) for r, case in failing.items() if r.startswith(_TE) and case.outcome not in known_before]
    if not failing:
        return None if working else Unknown("no FP8 attention was called to its end")
    if not asked and working:
        return None
    if not any(route.startswith(_TE) for route in failing):
        return NotApplicable("no FP8 attention but that of FlashAttention packages was asked for: FA008 tells of them")
    gain = _best_gain(times)
    evidence = [Evidence(f"{route}: {_reason(case)}", fact="attention_times.cases") for route, case in failing.items()]
    if gain is not None:
        task, default, best = gain
        evidence += [Evidence(f"at {task.label}"), line(default), line(best, default)]
        factor = ratio(default, best)
        return Finding(
            title=f"No FP8 attention here with {_either(asked)}; with {_way(best.route)} there is, {factor:.2f}x BF16",
            evidence=tuple(evidence),
            actions=(Action(f"Use {name_of(best.route)}", how(best)),),
            gain=Gain(factor, DEFAULT, "measured", name_of(DEFAULT)),
        )
    if reliable:
        title = f"No FP8 attention here with {_either(asked)}; with {_way(reliable[0])} there is, and it gains nothing"
    elif working:
        where = [task_of(wrong[route]).label for route in working]
        title = f"No FP8 attention here with {_either(asked)}; with {_way(working[0])} it was wrong at {where[0]}"
        evidence += [
            Evidence(f"{route}: wrong at {label} (ATT008)", fact="attention_times.cases")
            for route, label in zip(working, where, strict=True)
        ]
    else:
        ways = "one way was tried" if len(failing) == 1 else f"{len(failing)} ways were tried"
        title = f"No FP8 attention runs here ({ways})"
    return Finding(
        title=title,
        evidence=tuple(evidence),
        actions=(Action("Keep attention in BF16; FP8 in the linear layers does not depend on it."),),
    )


def _by_route(times: AttentionTimes) -> dict[str, AttentionCase]:
    """One case for each FP8 route: one that ran, if any did, else the first."""
    found: dict[str, AttentionCase] = {}
    for case in times.cases or ():
        route = case.route or ""
        if is_fp8(route) and (route not in found or (case.outcome == "ok" and found[route].outcome != "ok")):
            found[route] = case
    return found


def _best_gain(times: AttentionTimes) -> tuple[Task, AttentionCase, AttentionCase] | None:
    """Where a reliable FP8 route gains most over torch's own pick: (call, that pick, the route); None if nowhere."""
    record = timed_of(times)
    gains = []
    for task in record.tasks.values():
        default = record.at(task).get(DEFAULT)
        best = record.best(task, fp8=True)
        if default and best and is_faster(best, default):
            gains.append((ratio(default, best), task, default, best))
    if not gains:
        return None
    _, task, default, best = max(gains, key=lambda item: item[0])
    return task, default, best


def _reason(case: AttentionCase) -> str:
    said = case.error or case.outcome or ""
    return said if case.outcome in ("refused", None) else f"{case.outcome}: {said}"


def _way(route: str | None) -> str:
    """The recipe, or the package, in a few words."""
    return name_of(route).removeprefix("Transformer Engine's FP8 attention, ").removesuffix(" in FP8")


def _either(ways: list[str]) -> str:
    return " or ".join(ways)


@rule("ATT010", "fp8-attention-untuned", Severity.INFO, scope="usage")
def no_gain(times: AttentionTimes) -> Verdict:
    """FP8 attention runs here and is no faster than BF16.

    What it means: an FP8 attention took the call and was right, and its device time, casts included, is not below that
    of the BF16 attention that torch picks, by more than the noise.

    Why it costs time: the tensor cores multiply FP8 twice as fast, but attention also computes an exponential for
    every score, at the same rate as before, and the casts of queries, keys and values are added. At short sequences,
    small head dimensions and single queries nothing is left of the gain.

    What to do: keep attention in BF16 at these calls; it is also more exact. Longer sequences may gain.

    Sources: measured here. Public cases: Dao-AILab/flash-attention#1848, vllm-project/flash-attention#96,
    flashinfer-ai/flashinfer#4269.
    """
    if (away := _no_question(times) or not_timed(times)) is not None:
        return away
    record = timed_of(times)
    pairs = [pair for task in record.tasks.values() if (pair := _pair(record, task)) is not None]
    if not pairs:
        if any(is_fp8(route) for route in record.wrong):
            return NotApplicable("FP8 attention was wrong at a call of this run (ATT008)")
        return Unknown("FP8 attention and torch's own were not both timed at one call")
    lost = [(task, default, best) for task, default, best in pairs if not is_faster(best, default)]
    if not lost:
        return None
    task, default, best = max(lost, key=lambda item: ratio(item[2], item[1]))
    factor = ratio(best, default)
    pace = f"takes {factor:.2f}x BF16's time" if is_faster(default, best) else "is no faster than BF16"
    evidence: list[Evidence] = []
    for where, one, other in lost[:2]:
        evidence += [Evidence(f"at {where.label}"), line(one), line(other, one)]
    return Finding(
        title=f"FP8 attention {pace} at {task.label}",
        evidence=tuple(evidence),
        actions=(Action("Keep attention in BF16 at these calls (fp8_dpa=False, the default of every recipe)."),),
    )


def _pair(record: Timings, task: Task) -> tuple[Task, AttentionCase, AttentionCase] | None:
    default, best = record.at(task).get(DEFAULT), record.best(task, fp8=True)
    return (task, default, best) if default and best else None


# transformer_engine/common/recipe/__init__.py and attention/dot_product_attention/utils.py (with NVTE_DEBUG=1), 2.20.2.
# That one backend is left out settles nothing; these leave none that trains in FP8.
ERROR_TEXTS = (
    ErrorText(
        r"FP8 attention is not supported for Float8BlockScaling\."
        r"|Disabling FusedAttention as FP8 is not supported for compute capability = sm120"
        r"|Disabling FusedAttention for (FP8 current scaling|MXFP8) on arch < sm100",
        "ATT003",
        "Leave fp8_dpa off and keep attention in BF16; on Hopper DelayedScaling has FP8 attention.",
    ),
)
