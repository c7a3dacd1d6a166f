"""Was what was timed of te.Linear right, did it run at all, and what is missing?"""

from __future__ import annotations

from fp8doctor.checks.transformer_engine.cases import FACT, listed, shape_of
from fp8doctor.checks.transformer_engine.configurations import label, scaling_of
from fp8doctor.checks.transformer_engine.facts import ABOUT
from fp8doctor.checks.transformer_engine.times import FORWARD, LayerTime, TransformerEngineTimes
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Unknown, observed
from fp8doctor.registry import rule

Verdict = Finding | Unknown | NotApplicable | None
# How Transformer Engine names a size that it does not take.
OF_SIZES = ("divisible by", "multiple of")
# As many cases are shown; the rest is counted.
SHOWN = 3
REPORT = "https://github.com/NVIDIA/TransformerEngine/issues"


def _tried(times: TransformerEngineTimes) -> NotApplicable | Unknown | None:
    """Why nothing can be said, None if at least one case was tried."""
    if times.measurable is False:
        return NotApplicable(times.why_not or "te.Linear could not be timed")
    return None if times.cases else Unknown("te.Linear was not tried")


@rule("TE019", "silent-wrong-result", Severity.ERROR, scope="box")
def wrong_result(times: TransformerEngineTimes) -> Verdict:
    """te.Linear runs at a real shape, and its result is wrong.

    What it means: the output, or a gradient, differs from FP32 by more than twice what the number formats explain, or
    holds values that are not finite.

    Why it costs time: a fast wrong answer costs all the time that is spent with it. It is left out of the advice.

    What to do: use another recipe on this box, and report the case to NVIDIA/TransformerEngine with this evidence.

    Sources: measured here on random-normal operands, after enough calls for delayed scaling to know their size;
    FORMAT_ERRORS in checks/torch_build/numerics.py. Public case: huggingface/transformers#47030.
    """
    if (missing := _tried(times)) is not None:
        return missing
    compared = [case for case in times.cases or () if case.outcome == "ok" and scaling_of(case.config) is not None]
    if not compared:
        return Unknown("no FP8 result of te.Linear was compared")
    wrong = [(case, said) for case in compared if (said := _error(case)) is not None]
    if not wrong:
        return None
    configs = sorted({case.config or "?" for case, _ in wrong})
    return Finding(
        title=f"{', '.join(configs)}: it runs, and the result is wrong",
        evidence=tuple(
            Evidence(f"{case.config} {case.passes} at {shape_of(case)}: {said}", case.relative_error, None, FACT)
            for case, said in wrong[:SHOWN]
        ),
        actions=(Action(f"Use another recipe, and report this to {REPORT}"),),
        about=ABOUT,
    )


def _error(case: LayerTime) -> str | None:
    """What is wrong with a result, in words; None if nothing is."""
    if case.error:
        return case.error
    for what, error, limit in (
        ("relative error", case.relative_error, case.relative_error_limit),
        ("relative error of a gradient", case.gradient_error, case.gradient_error_limit),
    ):
        if error is not None and limit is not None and error > limit:
            return f"{what} {error:.3g}; its formats explain {limit:.3g} at most"
    return None


@rule("TE020", "te-recipe-fails", Severity.WARNING, scope="box")
def fails_at_a_shape(times: TransformerEngineTimes) -> Verdict:
    """te.Linear fails at a real shape with a recipe that ran on a small layer.

    What it means: the recipe is allowed here and was right on a small layer. At this shape, or called this way (with a
    backward, a kept weight, as a CUDA graph), it raised an error or ended the process.

    Why it costs time: the recipe cannot be used so on this box.

    What to do: use a configuration that ran; the error says what is missing. Report what ends the process.

    Sources: the call itself. Where Transformer Engine says that it does not take a shape, that is no failure.
    """
    if (missing := _tried(times)) is not None:
        return missing
    failed = [case for case in times.cases or () if case.outcome in ("error", "crashed")]
    if not failed:
        return None
    more = f" and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
    return Finding(
        title=f"It fails at a real shape: {listed(dict.fromkeys(str(case.config) for case in failed[:SHOWN]))}{more}",
        evidence=tuple(
            Evidence(f"{label(case.config or '', case.passes or FORWARD)} at {shape_of(case)}: {case.error}", fact=FACT)
            for case in failed[:SHOWN]
        ),
        actions=(Action(f"Use a configuration that ran, and report what ended the process to {REPORT}"),),
        about=ABOUT,
    )


@rule("TE021", "shapes-not-measured", Severity.INFO, scope="usage")
def not_all_measured(times: TransformerEngineTimes) -> Verdict:
    """Something of te.Linear that was to be timed was not.

    What it means: the time budget was spent, the GPU's memory was full, or a child process was ended by what it tried.
    What was not measured is not judged: this rule passes, or says what is not known; it finds nothing.

    Why it costs time: it costs knowledge only.

    What to do: give more time (`--budget 120`, or `--thorough`), or free memory on the GPU.

    Sources: this run.
    """
    if times.measurable is False:
        return NotApplicable(times.why_not or "te.Linear could not be timed")
    missing = observed(times.not_measured, "what was left out")
    if times.attempting:  # the last record of all attempts nothing
        missing = (*missing, f"{times.attempting} and what was to follow it: the probe ended there")
    cases = times.cases or ()
    if full := {str(shape_of(case)): None for case in cases if case.outcome == "out-of-memory"}:
        missing = (*missing, f"{listed(full)}: out of GPU memory")
    if untimed := [case for case in cases if case.outcome == "not-measured"]:
        missing = (*missing, f"{len(untimed)} of {len(cases)} cases: {untimed[0].error}")
    if not missing:
        return None
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    return Unknown(f"not measured: {'; '.join(missing[:SHOWN])}{more}")


@rule("TE022", "dims-not-multiple-of-16", Severity.ERROR, scope="usage")
def refused_dimensions(times: TransformerEngineTimes) -> Verdict:
    """te.Linear refuses FP8 for a size that is no multiple of 8 or 16.

    What it means: in the forward the number of tokens and N must be multiples of 8 and K of 16; with a backward all
    three must be multiples of 16. Block scaling wants multiples of 128, MXFP8 of 32. Transformer Engine raises an error
    at other sizes, so also where a model generates one token at a time.

    Why it costs time: the program stops, or the layer has to stay in BF16.

    What to do: pad the tokens and the layer, or call this layer outside of te.autocast.

    Sources: assert_dim_for_fp8_exec in transformer_engine/pytorch/utils.py 2.20.2 (1.13 and 2.8 in other words);
    is_quantizable of Float8BlockQuantizer and MXFP8Quantizer. Public cases: NVIDIA/TransformerEngine#232, #1422, #1571.
    """
    if (missing := _tried(times)) is not None:
        return missing
    refused = [
        case
        for case in times.cases or ()
        if case.outcome == "refused" and any(words in (case.error or "") for words in OF_SIZES)
    ]
    if not refused:
        return None
    shapes = list(dict.fromkeys(shape_of(case) for case in refused))
    first = {shape: next(case for case in refused if shape_of(case) == shape) for shape in shapes}
    return Finding(
        title=f"te.Linear refuses FP8 at {listed(shapes[:SHOWN])}",
        evidence=tuple(
            Evidence(f"{case.config} at {shape}: {case.error}", fact=FACT)
            for shape, case in list(first.items())[:SHOWN]
        ),
        actions=(Action("Pad tokens, K and N to the next multiple of 16, or leave this layer in BF16"),),
        about=ABOUT,
        severity=Severity.INFO,
    )
