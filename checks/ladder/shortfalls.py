"""Which rungs went wrong, and which were not measured?"""

from __future__ import annotations

import math
import re
from collections import Counter

from fp8doctor.checks.ladder.conversions import PACKAGES
from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.ladder.naming import label
from fp8doctor.checks.ladder.per_step import per_step
from fp8doctor.checks.ladder.slugs import config_of
from fp8doctor.checks.ladder.winners import fastest, ok
from fp8doctor.checks.workload.catalogue import BUILT_IN
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, RuleResult, Severity, Unknown, Verdict
from fp8doctor.registry import rule

# What is imported, in words; of both FlashAttentions one is installed, the other is built from its source.
_LIBRARIES = {
    "transformer_engine": "Transformer Engine",
    "flash_attn": "FlashAttention",
    "flash_attn_interface": "FlashAttention",
}
_INSTALL = {
    "Transformer Engine": 'python -m pip install --no-build-isolation "transformer_engine[pytorch]"',
    "FlashAttention": "python -m pip install --no-build-isolation flash-attn  # 3: build its folder hopper",
}
_ABSENT = " is not installed"
_TIME, _MEMORY, _FAILED = "more time", "more memory", "failed"
_REASONS = {"too-long": _TIME, "out-of-memory": _MEMORY, "error": _FAILED, "crashed": _FAILED}
# A budget is a round number of seconds, and above what is needed: a rung takes not twice the same.
ROUND_S, SPARE = 60, 1.2


@rule("LAD012", "workload-not-measured", Severity.WARNING, scope="usage")
def not_measured(ladder: Ladder) -> RuleResult:
    """The workload that was named could not be measured at all.

    What it means: there is no GPU or no torch to measure with, the library that the model comes from is missing or has
    no such class, or the file describes no model that can be built.

    Why it costs time: it does not; but nothing in this report is about that workload.

    What to do: what the reason says; then ask again.

    Sources: what the examination and the libraries themselves said.
    """
    if ladder.measurable is not False:
        return None
    return Finding(
        title=f"{ladder.workload or 'The workload'} was not measured: {ladder.why_not or 'nobody saw why'}",
        evidence=(Evidence(f"asked for: {ladder.workload}", fact="ladder.workload"),),
        actions=(Action("Put that right, and run the same command again"),),
        about=f"workload:{ladder.workload}",
    )


@rule("LAD008", "silent-wrong-result", Severity.WARNING, scope="usage")
def wrong_rungs(ladder: Ladder) -> RuleResult:
    """A configuration ran, and its result is further from BF16 than its format explains.

    What it means: the step's output differs from BF16's by more than twice what rounding to this format costs a
    layer, as far as this model makes rounding grow; or it holds values that are not finite.

    Why it costs time: a fast wrong result is worth nothing; it is never advised.

    What to do: leave this configuration alone on this model, or find the layers that it hurts.

    Sources: the formats' errors are recomputed by a test (checks/torch_build/numerics.py); how rounding grows in this
    model is measured as BF16's own distance from blocks that compute in FP32.
    """

    def judge(step: str) -> Verdict:
        wrong = [rung for rung in ladder.rungs or () if rung.step == step and rung.outcome == "wrong"]
        if not wrong:
            return None if ok(ladder, step) else Unknown(f"{step}: nothing was measured")
        return Finding(
            title=f"{ladder.workload}, {step}: wrong results from"
            f" {', '.join(label(rung.config or '') for rung in wrong)}",
            evidence=tuple(
                Evidence(
                    f"{rung.config}: "
                    + (rung.error or f"error {rung.relative_error} against BF16, at most {rung.relative_error_limit}"),
                    rung.relative_error,
                    None,
                    "ladder.rungs",
                )
                for rung in wrong
            ),
            actions=(Action("Do not use it for this model as it is"),),
            about=f"step:{step}",
        )

    return per_step(ladder, judge)


@rule("LAD010", "rungs-not-measured", Severity.INFO, scope="usage")
def left_out(ladder: Ladder) -> RuleResult:
    """Some configurations could not be measured.

    What it means: a library is not there, memory did not suffice, a rung failed or took longer than its share, or the
    time budget was spent. What this GPU or this model does not have at all is not counted.

    Why it costs time: it does not; but the best configuration may be among them.

    What to do: give more time (--budget), keep what is done (--resume), install what is missing, or free memory.

    Sources: what the libraries themselves said.
    """
    if ladder.measurable is False:
        return NotApplicable(ladder.why_not or "no step was measured")
    reasons = {rung: reason for rung in ladder.rungs or () if (reason := _reason(rung)) is not None}
    told = ladder.not_measured or ()
    late = [words for words in told if "budget was spent" in words]
    others = [words for words in told if words not in late]
    if not reasons and not told:
        return None
    counts = Counter([*reasons.values(), *(_TIME for _ in late), *(_FAILED for words in others if " @ " in words)])
    done = [rung for rung in ladder.rungs or () if rung.outcome in ("ok", "wrong")]
    missing = counts.total()
    what = f"{missing} of {missing + len(done)} configurations not measured: {_by_reason(counts)}"
    return Finding(
        title=f"{ladder.workload}: {what if missing else 'an earlier run did not finish, and could not go on'}",
        evidence=(
            *_absent(reasons),
            *(Evidence(f"{r.config} @ {r.step}: {r.outcome}, {r.error}", r.outcome) for r in reasons if _serious(r)),
            *_late(late),
            *map(Evidence, others),
        ),
        actions=tuple(_actions(ladder, counts, late)),
    )


def _serious(rung: Rung) -> bool:
    return rung.outcome in _REASONS


def _reason(rung: Rung) -> str | None:
    """What a rung lacks; None if it was measured, or if this GPU or model does not have it at all."""
    if rung.outcome == "not-measured" and (rung.error or "").endswith(_ABSENT):
        package = (rung.error or "").removesuffix(_ABSENT)
        return _LIBRARIES.get(package, package)
    of_a_package = any(modifier in PACKAGES for modifier in config_of(rung.config or "").modifiers)
    if of_a_package and rung.outcome == "error" and "missing package" in (rung.error or ""):  # diffusers' words
        return "FlashAttention"
    return _REASONS.get(rung.outcome or "")


def _by_reason(counts: Counter[str]) -> str:
    """ "8 need Transformer Engine, 2 FlashAttention, 1 more time; 1 failed"."""
    wants = [(reason, count) for reason, count in counts.most_common() if reason != _FAILED]
    said = [f"{count} {reason}" for reason, count in wants]
    if wants:
        reason, count = wants[0]
        said[0] = f"{count} {'needs' if count == 1 else 'need'} {reason}"
    failed = f"{counts[_FAILED]} failed" if counts[_FAILED] else ""
    return "; ".join(filter(None, (", ".join(said), failed)))


def _absent(reasons: dict[Rung, str]) -> list[Evidence]:
    """One line for each library that is not installed, with all that need it."""
    found: dict[str, list[str]] = {}
    for rung, reason in reasons.items():
        if not _serious(rung):
            found.setdefault(reason, []).append(f"{rung.config} @ {rung.step}")
    return [Evidence(f"{name} is not installed: {', '.join(rungs)}", len(rungs)) for name, rungs in found.items()]


def _late(words: list[str]) -> list[Evidence]:
    """One line for each step."""
    steps: dict[str, list[str]] = {}
    for said in words:
        slug, _, step = said.partition(":")[0].partition(" @ ")
        steps.setdefault(step, []).append(slug)
    return [
        Evidence(f"{step}: no time was left for {', '.join(slugs)}", len(slugs), fact="ladder.not_measured")
        for step, slugs in steps.items()
    ]


def _need_s(words: list[str]) -> float:
    """Seconds that all need together: of a step it is said once, or with each rung."""
    said = {(line.partition(":")[0].partition(" @ ")[2], *re.findall(r"needs? about (\d+) s", line)) for line in words}
    return float(sum(int(seconds) for _, *found in said for seconds in found[:1]))


def _actions(ladder: Ladder, counts: Counter[str], late: list[str]) -> list[Action]:
    actions = [
        Action(f"Install {reason}", _INSTALL.get(reason, f"python -m pip install {reason}"))
        for reason, _ in counts.most_common()
        if reason not in (_TIME, _MEMORY, _FAILED)
    ]
    if counts[_TIME]:
        began = min((rung.started_s for rung in ladder.rungs or () if rung.started_s is not None), default=0.0)
        need_s = _need_s(late)
        seconds = ROUND_S * math.ceil((began + SPARE * need_s) / ROUND_S)
        # One that took too long has all of the time that bench takes by itself, where the others are done.
        budget = f" --budget {seconds}" if need_s and counts[_TIME] == len(late) else ""
        command = f"fp8doctor bench {ladder.workload} -o results --resume{budget}"
        resumable = ladder.workload in BUILT_IN and any(fastest(ladder, step) for step in ladder.tokens or {})
        about = f", about {need_s:.0f} s for these" if need_s else ""
        text = f"Run it again with more time{about}; --resume keeps the finished rungs that -o wrote"
        actions.append(Action(text, command if resumable else None))
    if counts[_MEMORY]:
        actions.append(Action("Free memory of the GPU, or take one that has more"))
    if counts[_FAILED]:
        actions.append(Action("See what the libraries said"))
    return actions
