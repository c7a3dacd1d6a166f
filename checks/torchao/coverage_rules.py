"""Which layers of a workload does torchao leave out, and how much of its work is that?"""

from __future__ import annotations

from collections.abc import Iterable

from fp8doctor.checks.torchao.facts import ABOUT, ABSENT, TRAINING, OddLinear, Torchao
from fp8doctor.checks.workload import WorkloadSeen
from fp8doctor.measuring.workloads import LinearUse, Step, work
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, NotObservedError, Severity, observed
from fp8doctor.registry import rule


@rule("AO009", "fp8-layers-skipped", Severity.INFO, scope="usage")
def layers_skipped(ao: Torchao, seen: WorkloadSeen | None) -> list[Finding] | NotApplicable | None:
    """Some layers of this workload stay out of FP8.

    What it means: FP8 products need in_features and out_features that are multiples of 16. torchao's `quantize_` leaves
    a layer of another size as it was, and logs it at a level that is not shown; its conversion for training takes the
    layer, and the first step raises an error. Which of the two happens was tried here with small layers.

    Why it costs time: these layers run in BF16 while their owner believes in FP8. The share that is told is theirs of
    the multiply-adds of all linear layers in a step: a step cannot gain more than the rest allows.

    What to do: pad the size (a vocabulary of 50,257 to 50,272, say); where the share is small, leave it. In training,
    leave such layers out with `module_filter_fn`. To see what was converted, look at the class of each weight.

    Sources: tried here; _fp8_mm_compat in torchao/quantization/utils.py and quant_api.py ("this should really throw an
    exception instead of silently not doing what the user asked"), float8/float8_linear_utils.py (0.17.0). Public
    cases: NVIDIA/TransformerEngine#1422.
    """
    if ao.installed is False:
        return ABSENT
    workload = seen.workload if seen else None
    if workload is None:
        return NotApplicable("no workload was named (--for)")
    tried = observed(ao.odd_linears, "what torchao does with a layer of odd size")
    steps = [step for step in workload.steps or () if _odd(step.linears or ())]
    found = []
    for kind in (False, True):
        of_kind = [step for step in steps if bool(step.trains) is kind]
        if of_kind:
            found.append(_left_out(of_kind[0], tried, workload.title or workload.name or "the workload"))
    return [finding for finding in found if finding is not None] or None


def _odd(uses: Iterable[LinearUse]) -> list[LinearUse]:
    return [use for use in uses if (use.k or 0) % 16 or (use.n or 0) % 16]


def _left_out(step: Step, tried: tuple[OddLinear, ...], title: str) -> Finding | None:
    """What torchao does with the odd layers of a step; None if it takes them."""
    trains = bool(step.trains)
    ways = [odd for odd in tried if (odd.how == TRAINING if trains else odd.how == "dynamic")]
    known = [odd for odd in ways if odd.converted is not None]
    if not known:
        why = next((odd.error for odd in ways if odd.error), "it was not tried")
        raise NotObservedError(f"what torchao does with a layer of odd size was not observed ({why})")
    skipped = [odd for odd in known if not odd.converted]
    fails = [odd for odd in known if odd.converted and odd.error]
    if not skipped and not fails:
        return None
    uses, odd_uses = step.linears or (), _odd(step.linears or ())
    share = sum(map(work, odd_uses)) / (sum(map(work, uses)) or 1.0)
    calls, total = (sum(use.calls or 0 for use in some) for some in (odd_uses, uses))
    if skipped:
        silently = "" if skipped[0].said else " without a word"
        what = f"torchao leaves {calls} of {total} linear layers of {title} in BF16{silently}"
        seen = f"a Linear({skipped[0].k}, {skipped[0].n}) was left as it was"
        seen += f", and it said: {skipped[0].said}" if skipped[0].said else ", and no warning was shown"
    else:
        what = f"FP8 training of {title} fails at {calls} of {total} linear layers unless they are left out"
        seen = f"a Linear({fails[0].k}, {fails[0].n}) was converted; its step: {fails[0].error}"
    return Finding(
        title=f"{what}: {share:.1%} of the multiply-adds",
        evidence=(
            Evidence(f"tried here: {seen}", fact="torchao.odd_linears"),
            Evidence(f"multiply-adds in these layers: {share:.2%}", share, None, "workload.workload.steps"),
            *(
                Evidence(f"{use.example or 'a layer'}: Linear({use.k}, {use.n}), {use.calls} a step")
                for use in sorted(odd_uses, key=work, reverse=True)[:3]
            ),
        ),
        actions=(
            Action("Leave them out: convert_to_float8_training(model, module_filter_fn=...)")
            if trains
            else Action("Pad the size to a multiple of 16 if the share is worth it"),
        ),
        about=ABOUT,
    )
