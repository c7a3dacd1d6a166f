"""What the images of a pipeline teach: where FP8's gain goes, and what it and a step cache change."""

from __future__ import annotations

from fp8doctor.checks.ladder.naming import label
from fp8doctor.checks.ladder.winners import LEAST_GAIN
from fp8doctor.checks.pipeline.asking import line, measured, peak, seconds
from fp8doctor.checks.pipeline.facts import Likeness, PipelineRun
from fp8doctor.checks.pipeline.winners import (
    STORED,
    baseline,
    denoiser_s,
    find,
    gains,
    hit_rate,
    image_s,
    in_16_bit,
    in_fp8,
    ok,
    times,
    twin,
)
from fp8doctor.model import Action, Evidence, Finding, Gain, ProbeRun, Severity, Unknown, Verdict
from fp8doctor.registry import rule

# Parts beside the denoiser that take less than a tenth of an image are not what holds it back.
LEAST_SHARE = 0.10
# A first image that takes more than two others is one that a benchmark must not count.
LONG_FIRST_IMAGES = 2
_NO_FP8 = Unknown("no configuration in FP8 made an image")


def _likeness(likeness: Likeness | None) -> str:
    """How far an image is from BF16's, in words."""
    if likeness is None:
        return "not compared"
    if likeness.identical:
        return "identical"
    measures = (
        ("PSNR", likeness.psnr_db, "{:.1f} dB"),
        ("SSIM", likeness.ssim, "{:.3f}"),
        ("LPIPS", likeness.lpips, "{:.3f}"),
        ("relative error", likeness.relative_error, "{:.1%}"),
    )
    return ", ".join(f"{name} {form.format(value)}" for name, value, form in measures if value is not None)


@rule("PIP002", "amdahl-only-gemm-faster", Severity.INFO, scope="usage")
def only_part_is_faster(pipeline: ProbeRun[PipelineRun]) -> Verdict:
    """FP8 makes the denoiser faster, and the image less so.

    What it means: an image is text encoders, many calls of the denoiser, an autoencoder and the pipeline's own work.
    Only the denoiser was put into FP8; each part's time was measured inside the same images.

    Why it costs time: what is not faster stays (Amdahl's law). With a share f in the denoiser, and the denoiser s times
    as fast, an image is 1 / (1 - f + f / s) times as fast.

    What to do: compile the autoencoder and the text encoders too, encode a prompt once for many images, or make more
    images at a time. With few steps the denoiser's share is small, and FP8 can gain little.

    Sources: measured here. Public cases: NVIDIA/Megatron-LM#396.
    """
    run = measured(pipeline)
    if not isinstance(run, PipelineRun):
        return run
    rungs = in_fp8(run)
    if not rungs:
        return _NO_FP8
    best = rungs[0]
    bf16 = twin(run, best)
    assert bf16 is not None
    before, after, ratio = denoiser_s(run, bf16), denoiser_s(run, best), times(bf16, best)
    if not before or not after or ratio is None:
        return Unknown("the denoiser was not timed inside of an image")
    share, inside = before / image_s(bf16), before / after
    if 1 - share < LEAST_SHARE or inside < LEAST_GAIN or inside < LEAST_GAIN * ratio.median:
        return None
    others = sorted(((s, name) for name, s in (bf16.parts_s or {}).items() if name != run.denoiser), reverse=True)
    return Finding(
        title=f"The {run.denoiser} is {share:.0%} of an image: {label(best.config or '')} makes it "
        f"{inside:.2f}x as fast, and the image {ratio.median:.2f}x",
        evidence=(
            line(bf16, f", {seconds(before)} of it in the {run.denoiser}"),
            line(best, f", {seconds(after)} of it in the {run.denoiser}"),
            *(Evidence(f"{name}: {seconds(s)} of an image in BF16", round(s, 3), "s") for s, name in others),
        ),
        actions=(Action("Compile the other parts too, encode a prompt once, or make several images at a time"),),
    )


@rule("PIP003", "fp8-gains-nothing-end-to-end", Severity.INFO, scope="usage")
def nothing_gained(pipeline: ProbeRun[PipelineRun]) -> Verdict:
    """No FP8 configuration makes this pipeline's image faster than the best one in BF16.

    What it means: every configuration that multiplies in FP8 was as slow as the fastest in 16 bits, or slower, from the
    prompt to the image.

    Why it costs time: eager FP8 pays more for quantising than its products gain, small layers gain nothing, and parts
    beside the denoiser are not faster at all.

    What to do: use the configuration that was fastest. FP8's smaller weights may still be why a model fits.

    Sources: measured here: seconds from the call to the image, median and 95 % interval.
    """
    run = measured(pipeline)
    if not isinstance(run, PipelineRun):
        return run
    rungs, plain = in_fp8(run), in_16_bit(run)
    if not rungs:
        return _NO_FP8
    if gains(plain[0], rungs[0]):
        return None
    ratio = times(plain[0], rungs[0])
    assert ratio is not None
    return Finding(
        title=f"FP8 does not make this image faster: {ratio.median:.2f}x the speed of {label(plain[0].config or '')}",
        evidence=(line(plain[0]), *(line(rung) for rung in rungs)),
        actions=(Action(f"Use {label(plain[0].config or '')} for speed"),),
    )


@rule("PIP004", "weight-only-dequant", Severity.INFO, scope="usage")
def stored_in_fp8(pipeline: ProbeRun[PipelineRun]) -> Verdict:
    """FP8 storage alone makes the image slower, and the pipeline smaller.

    What it means: weights lie in FP8 and are turned to BF16 before each product, which runs in BF16.

    Why it costs time: the conversion comes on top, and no product is faster.

    What to do: use it to make a model fit; for speed, let the products run in FP8 (dynamic scaling, compiled).

    Sources: measured here: seconds of an image, and the peak of all that the pipeline keeps on the device.
    """
    run = measured(pipeline)
    if not isinstance(run, PipelineRun):
        return run
    bf16 = baseline(run)
    assert bf16 is not None
    stored = [rung for rung in ok(run) if rung.config in STORED]
    if not stored:
        return Unknown("no configuration that stores weights in FP8 made an image")
    slower = [rung for rung in stored if gains(rung, bf16)]
    if not slower:
        return None
    worst = max(slower, key=image_s)
    ratio = times(bf16, worst)
    assert ratio is not None
    return Finding(
        title=f"{label(worst.config or '')} makes images at {ratio.median:.2f}x BF16's speed",
        evidence=tuple(line(rung, peak(rung)) for rung in (bf16, *slower)),
        actions=(Action("For speed use dynamic scaling with torch.compile; keep storage alone for fitting"),),
    )


@rule("PIP005", "step-cache-changes-image", Severity.INFO, scope="usage")
def cache_changes_the_image(pipeline: ProbeRun[PipelineRun]) -> Verdict:
    """A step cache makes the image faster, and another one.

    What it means: a cache leaves out steps whose result it expects to be like the last one's. The image is compared
    with the one of all steps, of the same seed.

    Why it costs time: it costs none, and that is why it is no rival of a number format: it buys time with likeness.

    What to do: look at both images before using it, and choose its threshold by them. It goes together with FP8 and
    torch.compile.

    Sources: measured here with diffusers' FirstBlockCacheConfig at its default threshold: steps skipped, seconds, and
    the distance of the images.
    """
    run = measured(pipeline)
    if not isinstance(run, PipelineRun):
        return run
    cached = ok(run, cached=True)
    if not cached:
        return Unknown("no configuration with a step cache made an image")
    best = min(cached, key=image_s)
    plain = find(run, "+".join(p for p in (best.config or "").split("+") if not p.startswith("cache-")))
    if plain is None:
        return Unknown("the same configuration without its cache made no image")
    skipped, ratio = hit_rate(best), times(plain, best)
    if not skipped or ratio is None or not gains(plain, best):
        return None
    return Finding(
        title=f"The first-block cache skips {skipped:.0%} of the calls, and the image is {ratio.median:.2f}x as fast; "
        f"against the one in BF16: {_likeness(best.likeness)}",
        evidence=(
            line(plain, f", against BF16: {_likeness(plain.likeness)}"),
            line(best, f", {best.skipped_calls} of {best.denoiser_calls} calls skipped at threshold {best.threshold}"),
        ),
        actions=(
            Action(
                "Compare the images, and choose the threshold by them",
                f"pipe.{run.denoiser}.enable_cache(diffusers.FirstBlockCacheConfig(threshold={best.threshold}))",
            ),
        ),
        gain=Gain(ratio.median, plain.config or "", "measured", label(plain.config or "")),
    )


@rule("PIP006", "image-differs-in-fp8", Severity.INFO, scope="usage")
def fp8_changes_the_image(pipeline: ProbeRun[PipelineRun]) -> Verdict:
    """The fastest FP8 configuration changes the image more than another 16-bit configuration does.

    What it means: small differences grow over the steps, so even BF16 with other kernels gives another image. What
    those change is the measure: FP8's image is further away than any of theirs.

    Why it costs time: it costs quality, if anything.

    What to do: look at the images of several prompts. If they are worse and not just different, leave the first and the
    last blocks in BF16, or use row-wise scales where tensor-wise ones were used.

    Sources: measured here: the same seed in each configuration, against BF16 as it is.
    """
    run = measured(pipeline)
    if not isinstance(run, PipelineRun):
        return run
    rungs = in_fp8(run)
    if not rungs:
        return _NO_FP8
    best = rungs[0]
    others = [r for r in in_16_bit(run) if r is not baseline(run) and r.likeness]
    far = best.likeness.relative_error if best.likeness else None
    noise = [error for r in others if r.likeness and (error := r.likeness.relative_error) is not None]
    if far is None or not noise:
        return Unknown("there is no second image in 16 bits to compare the distance of FP8's with")
    if far <= max(noise):
        return None
    return Finding(
        title=f"{label(best.config or '')} changes the image more than 16-bit configurations do: "
        f"{_likeness(best.likeness)}",
        evidence=tuple(
            Evidence(f"{r.config}: {_likeness(r.likeness)}", r.likeness.relative_error, fact="pipeline.rungs")
            for r in (best, *others)
            if r.likeness
        ),
        actions=(Action("Look at the images of several prompts before deciding"),),
    )


@rule("PIP007", "jit-warmup-counted", Severity.INFO, scope="usage")
def long_first_image(pipeline: ProbeRun[PipelineRun]) -> Verdict:
    """The first image of a compiled pipeline takes as long as several.

    What it means: torch.compile compiles while the first image is made; a benchmark that counts it measures the
    compiler.

    Why it costs time: once per process and size of image, and again where a guard fails.

    What to do: make one image before timing, keep the compile cache (TORCHINDUCTOR_CACHE_DIR) on a disk that lasts, and
    compile blocks, not the whole model. For a few images of a process, eager BF16 may be done sooner.

    Sources: measured here: the first image, the others, and after how many of them compiling has paid.
    """
    run = measured(pipeline)
    if not isinstance(run, PipelineRun):
        return run
    bf16 = baseline(run)
    assert bf16 is not None
    compiled = [r for r in ok(run) if r.graphs and r.first_image_s and r.first_image_s > LONG_FIRST_IMAGES * image_s(r)]
    if not any(rung.graphs for rung in ok(run)):
        return Unknown("no compiled configuration made an image")
    if not compiled:
        return None
    best = min(compiled, key=image_s)
    assert best.first_image_s is not None
    extra, saved = best.first_image_s - image_s(best), image_s(bf16) - image_s(best)
    pays = f"; it has paid after {extra / saved:,.0f} images" if saved > 0 and gains(bf16, best) else ""
    return Finding(
        title=f"The first image of {best.config} takes {seconds(best.first_image_s)}, "
        f"others {seconds(image_s(best))}{pays}",
        evidence=(
            Evidence(f"first image: {seconds(best.first_image_s)}", best.first_image_s, "s", "pipeline.rungs"),
            Evidence(f"graphs compiled: {best.graphs}, graph breaks: {best.graph_breaks}", best.graphs),
            line(best),
            line(bf16),
        ),
        actions=(Action("Leave the first image out of a comparison, and keep the compile cache"),),
    )
