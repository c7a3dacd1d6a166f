"""What of a pipeline did not run, was wrong, or did not fit?"""

from __future__ import annotations

from fp8doctor.checks.ladder.naming import label
from fp8doctor.checks.ladder.slugs import BASELINE
from fp8doctor.checks.pipeline.asking import NO_GPU, NO_TORCH, asked, line, peak
from fp8doctor.checks.pipeline.facts import PipelineRun
from fp8doctor.checks.pipeline.winners import baseline, image_s, ok
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, ProbeRun, Severity, Unknown, Verdict
from fp8doctor.registry import rule

# What a library or a model does not have is no fault, and stands in the table alone.
SERIOUS = ("out-of-memory", "crashed", "too-long", "error")
_NOTHING = Unknown("no configuration made an image")


@rule("PIP001", "pipeline-does-not-run", Severity.ERROR, scope="usage")
def does_not_run(pipeline: ProbeRun[PipelineRun]) -> Verdict:
    """The pipeline that was named cannot be measured.

    What it means: its folder could not be loaded from this disk alone, or no configuration made an image.

    Why it costs time: nothing is known of its speed; what is said of other workloads need not hold for it.

    What to do: what the evidence says. A folder is whole if `DiffusionPipeline.from_pretrained(folder,
    local_files_only=True, use_safetensors=True)` loads it. Pickles and Python files of a folder are refused, since
    loading them runs what they hold.

    Sources: the folder as diffusers writes it (DiffusionPipeline.save_pretrained), and what loading and calling gave.
    """
    run = asked(pipeline)
    if not isinstance(run, PipelineRun):
        return run
    why = run.why_not
    if run.measurable is not False:
        if ok(run) or ok(run, cached=True):
            return None
        tried = [rung for rung in run.rungs or () if rung.outcome != "not-measured"]
        if not tried:
            return Unknown("; ".join(run.not_measured or ()) or f"it was not tried: {pipeline.detail or 'no reason'}")
        why = f"{tried[0].config}: {tried[0].error or tried[0].outcome}"
    elif why in (NO_GPU, NO_TORCH):
        return Unknown(why)
    return Finding(
        title=f"{run.class_name or 'The pipeline'} in {run.folder} could not be measured",
        evidence=(Evidence(why or "no reason was given", fact="pipeline.why_not"),),
        actions=(Action("Load it by hand, with local files alone, and see what is missing"),),
    )


@rule("PIP008", "silent-wrong-result", Severity.WARNING, scope="usage")
def wrong_images(pipeline: ProbeRun[PipelineRun]) -> Verdict:
    """A configuration ran to the end, and what it drew is no image.

    What it means: values of the image are not finite, or all are the same where BF16 draws something. Nothing was
    raised.

    Why it costs time: a fast wrong image is worth nothing; it is never advised.

    What to do: leave this configuration alone on this pipeline, or find the layers that it hurts: the first and the
    last blocks, and layers with outliers.

    Sources: measured here, with the seed and the prompt of the other images.
    """
    run = asked(pipeline)
    if not isinstance(run, PipelineRun):
        return run
    wrong = [rung for rung in run.rungs or () if rung.outcome == "wrong"]
    if not wrong:
        return None if ok(run) else _NOTHING
    return Finding(
        title=f"{run.class_name}: no image from {', '.join(str(rung.config) for rung in wrong)}",
        evidence=tuple(Evidence(f"{rung.config}: {rung.error}", fact="pipeline.rungs") for rung in wrong),
        actions=(Action("Do not use it for this pipeline as it is"),),
    )


@rule("PIP009", "rungs-not-measured", Severity.INFO, scope="usage")
def left_out(pipeline: ProbeRun[PipelineRun]) -> Verdict:
    """Some configurations made no image.

    What it means: a library failed, memory did not suffice, a configuration took longer than its share, or the time
    budget was spent. Each is listed with its reason.

    Why it costs time: it does not; but the best configuration may be among them.

    What to do: give more time (--budget), keep what is done (--resume), install what is missing, or free memory.

    Sources: what the libraries themselves said.
    """
    run = asked(pipeline)
    if not isinstance(run, PipelineRun):
        return run
    failed = [rung for rung in run.rungs or () if rung.outcome in SERIOUS]
    left = run.not_measured or ()
    if not failed and not left:
        return None if ok(run) else _NOTHING
    return Finding(
        title=f"{len(failed) + len(left)} configurations of {run.class_name} were not measured",
        evidence=(
            *(Evidence(f"{r.config}: {r.outcome}, {r.error}", r.outcome, fact="pipeline.rungs") for r in failed),
            *(Evidence(words, fact="pipeline.not_measured") for words in left),
        ),
        actions=(
            Action(
                "Run it again with more time; finished ones are kept",
                "fp8doctor bench --pipeline FOLDER -o OUT --resume --budget SECONDS",
            ),
        )
        if left
        else (Action("See what the libraries said"),),
    )


@rule("PIP010", "bf16-does-not-fit", Severity.INFO, scope="usage")
def fits_in_fp8_alone(pipeline: ProbeRun[PipelineRun]) -> Verdict:
    """The pipeline does not fit into this GPU's memory in BF16, and does with smaller weights.

    What it means: making an image in BF16 ran out of memory. A configuration whose weights lie in 8 bits made one.

    Why it costs time: in BF16 it could only run with parts moved to and from the host, at the speed of PCIe.

    What to do: use the configuration that fits. How far its image is from BF16's could not be measured here: look at
    the images.

    Sources: measured here: what raised, and the peak of all that the pipeline keeps on the device.
    """
    run = asked(pipeline)
    if not isinstance(run, PipelineRun):
        return run
    plain = next((rung for rung in run.rungs or () if rung.config == BASELINE), None)
    if baseline(run):
        return NotApplicable("BF16 fits")
    if plain is None or plain.outcome != "out-of-memory":
        return Unknown("BF16 made no image, and did not run out of memory")
    fitting = sorted(ok(run), key=image_s)
    if not fitting:
        return None
    best = fitting[0]
    return Finding(
        title=f"BF16 does not fit into this GPU's memory; {label(best.config or '')} does",
        evidence=(
            Evidence(f"{plain.config}: {plain.error}", plain.outcome, fact="pipeline.rungs"),
            *(line(rung, peak(rung)) for rung in fitting),
        ),
        actions=(Action(f"Use {label(best.config or '')}, and look at its images"),),
    )
