"""What is said of a pipeline's images: a case for each rule on which it fires, and one on which it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fp8doctor.checks.ladder.facts import MemoryPoint
from fp8doctor.checks.pipeline import advice, exhibits, failures, rules
from fp8doctor.checks.pipeline.facts import ImageRung, Likeness, Part, PipelineRun
from fp8doctor.judging.advice import advise
from fp8doctor.model import Estimate, Finding, NotApplicable, ProbeRun, Unknown

BF16, COMPILED, EAGER_FP8 = "torch-bf16", "torch-bf16+compile", "torchao-fp8-rowwise"
FP8 = "torchao-fp8-rowwise+compile"
STORED, CACHED = "diffusers-fp8-storage", "torch-bf16+cache-first-block"
OTHERS_S = {"text_encoder": 0.1, "vae": 0.1}

Rule = Callable[[ProbeRun[PipelineRun]], Any]


def image(config: str, seconds: float, *, error: float = 0.01, **more: Any) -> ImageRung:
    """A rung that ran: `seconds` an image, all but 0.2 of them in the denoiser."""
    likeness = Likeness(False, psnr_db=30.0, ssim=0.95, relative_error=error)
    if config == BF16:
        likeness = Likeness(True, ssim=1.0, relative_error=0.0)
    rung = ImageRung(
        config=config,
        outcome="ok",
        first_image_s=seconds,
        image_s=Estimate(seconds, 0.99 * seconds, 1.01 * seconds, 4),
        parts_s={"transformer": round(seconds - 0.2, 3), **OTHERS_S},
        denoiser_calls=28,
        peak_gb=30.0,
        likeness=likeness,
        memory=(MemoryPoint("build", 0.0, 1.0), MemoryPoint("images", 1.0, 30.0)),
    )
    return replace(rung, **more)


def failed(config: str, outcome: str, error: str) -> ImageRung:
    return ImageRung(config=config, outcome=outcome, error=error)


USUAL = (
    image(BF16, 5.0),
    image(COMPILED, 4.0, error=0.02, graphs=2, graph_breaks=0),
    image(FP8, 2.5, error=0.02, graphs=2, graph_breaks=0),
)


def run(*rungs: ImageRung, **more: Any) -> PipelineRun:
    usual = PipelineRun(
        folder="painter",
        class_name="FluxPipeline",
        measurable=True,
        asked=True,
        denoiser="transformer",
        denoiser_class="FluxTransformer2DModel",
        parts=(Part("transformer", "FluxTransformer2DModel", 12_000_000_000, 24.0),),
        steps=28,
        height=1024,
        width=1024,
        rungs=rungs or USUAL,
    )
    return replace(usual, **more)


def probed(facts: PipelineRun) -> ProbeRun[PipelineRun]:
    return ProbeRun("ok", facts)


def found(rule: Rule, *rungs: ImageRung, **more: Any) -> Finding:
    verdict = rule(probed(run(*rungs, **more)))
    assert isinstance(verdict, Finding), verdict
    assert verdict.evidence
    return verdict


def passes(rule: Rule, *rungs: ImageRung, **more: Any) -> None:
    assert rule(probed(run(*rungs, **more))) is None


def unknown(rule: Rule, *rungs: ImageRung, **more: Any) -> str:
    verdict = rule(probed(run(*rungs, **more)))
    assert isinstance(verdict, Unknown), verdict
    return verdict.reason


RULES: tuple[Rule, ...] = (
    failures.does_not_run,
    failures.wrong_images,
    failures.left_out,
    failures.fits_in_fp8_alone,
    rules.only_part_is_faster,
    rules.nothing_gained,
    rules.stored_in_fp8,
    rules.cache_changes_the_image,
    rules.fp8_changes_the_image,
    rules.long_first_image,
)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "probe_run",
    [
        probed(PipelineRun(asked=False, measurable=False)),
        ProbeRun("not-observed"),
        ProbeRun("skipped", detail="not part of a default run"),
        ProbeRun("skipped", detail="no pipeline was named (--pipeline)"),
    ],
)
def test_where_no_pipeline_was_named_nothing_is_asked(rule: Rule, probe_run: ProbeRun[PipelineRun]) -> None:
    verdict = rule(probe_run)
    assert isinstance(verdict, NotApplicable)
    assert "--pipeline FOLDER" in verdict.reason


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "probe_run", [ProbeRun("skipped", detail="the time budget was spent before it"), ProbeRun("signal", detail="KILL")]
)
def test_where_it_was_not_come_to_nothing_is_known(rule: Rule, probe_run: ProbeRun[PipelineRun]) -> None:
    verdict = rule(probe_run)
    assert isinstance(verdict, Unknown)
    assert probe_run.detail is not None
    assert probe_run.detail in verdict.reason


# --- what did not run ------------------------------------------------------------------------------------------------


def test_pip001_a_folder_that_cannot_be_loaded() -> None:
    why = "diffusers 0.35.1 has no pipeline FluxPipeline"
    finding = found(failures.does_not_run, measurable=False, why_not=why, rungs=())
    assert finding.title == "FluxPipeline in painter could not be measured"
    assert finding.evidence[0].text == why


def test_pip001_a_pipeline_that_draws_in_no_configuration() -> None:
    finding = found(failures.does_not_run, failed(BF16, "error", "RuntimeError: no"))
    assert finding.evidence[0].text == "torch-bf16: RuntimeError: no"


def test_pip001_one_image_is_enough() -> None:
    passes(failures.does_not_run)
    passes(failures.does_not_run, failed(BF16, "out-of-memory", "full"), image(STORED, 6.0))


def test_pip001_a_machine_without_a_gpu_is_no_fault_of_the_pipeline() -> None:
    assert unknown(failures.does_not_run, measurable=False, why_not="torch sees no GPU", rungs=()) == (
        "torch sees no GPU"
    )
    assert "it was not tried" in unknown(failures.does_not_run, rungs=())
    assert "spent" in unknown(failures.does_not_run, rungs=(), not_measured=("torch-bf16: the time budget was spent",))


def test_pip008_a_configuration_that_draws_nothing() -> None:
    bad = failed(STORED, "wrong", "the image is of one colour")
    assert found(failures.wrong_images, *USUAL, bad).title == "FluxPipeline: no image from diffusers-fp8-storage"
    passes(failures.wrong_images)
    unknown(failures.wrong_images, failed(BF16, "error", "no"))


def test_pip009_what_was_left_out_and_what_failed() -> None:
    crashed = failed(STORED, "crashed", "it ended the process: SIGSEGV")
    finding = found(failures.left_out, *USUAL, crashed, not_measured=(f"{EAGER_FP8}: the time budget was spent",))
    assert finding.title == "2 configurations of FluxPipeline were not measured"
    assert "SIGSEGV" in finding.evidence[0].text
    assert "--resume" in (finding.actions[0].command or "")


def test_pip009_what_a_library_does_not_have_is_no_failure() -> None:
    passes(failures.left_out, *USUAL, failed(CACHED, "refused", "no step cache"), failed("te-fp8-block", "refused", ""))


def test_pip010_bf16_does_not_fit() -> None:
    full = failed(BF16, "out-of-memory", "OutOfMemoryError: 40 GB")
    finding = found(failures.fits_in_fp8_alone, full, image(STORED, 6.0, likeness=None, peak_gb=20.5))
    assert finding.title == "BF16 does not fit into this GPU's memory; diffusers FP8 storage does"
    assert "peak 20.5 GB" in finding.evidence[1].text
    passes(failures.fits_in_fp8_alone, full)
    assert isinstance(failures.fits_in_fp8_alone(probed(run())), NotApplicable)
    unknown(failures.fits_in_fp8_alone, failed(BF16, "error", "no"))


# --- what the images teach -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES[4:])
def test_without_an_image_in_bf16_there_is_nothing_to_compare(rule: Rule) -> None:
    assert "BF16 made no image" in unknown(rule, failed(BF16, "error", "no"), image(FP8, 2.5))
    assert unknown(rule, measurable=False, why_not="torch sees no GPU", rungs=()) == "torch sees no GPU"


def test_pip002_a_fast_denoiser_beside_slow_parts() -> None:
    plain = image(COMPILED, 4.0, parts_s={"transformer": 2.0, "vae": 1.9})
    fast = image(FP8, 3.0, parts_s={"transformer": 1.0, "vae": 1.9})
    finding = found(rules.only_part_is_faster, image(BF16, 5.0), plain, fast)
    assert "The transformer is 50% of an image" in finding.title
    assert "2.00x as fast, and the image 1.33x" in finding.title
    assert any(line.text == "vae: 1.9 s of an image in BF16" for line in finding.evidence)


def test_pip002_a_denoiser_that_is_nearly_all_of_it() -> None:
    passes(rules.only_part_is_faster)
    assert "no configuration in FP8" in unknown(rules.only_part_is_faster, image(BF16, 5.0), image(STORED, 6.0))
    unknown(rules.only_part_is_faster, *USUAL[:2], image(FP8, 2.5, parts_s=None))


def test_pip003_fp8_gains_nothing() -> None:
    finding = found(rules.nothing_gained, image(BF16, 5.0), image(COMPILED, 4.0), image(EAGER_FP8, 6.0))
    assert "0.67x the speed of BF16 + torch.compile of each block" in finding.title
    passes(rules.nothing_gained)


def test_pip003_a_gain_inside_the_noise_is_none() -> None:
    noisy = image(FP8, 3.9, image_s=Estimate(3.9, 3.5, 4.3, 4))
    found(rules.nothing_gained, image(COMPILED, 4.0), image(BF16, 5.0), noisy)


def test_pip004_storage_alone_is_slower() -> None:
    finding = found(rules.stored_in_fp8, *USUAL, image(STORED, 6.0, peak_gb=18.0))
    assert finding.title == "diffusers FP8 storage makes images at 0.83x BF16's speed"
    assert "peak 18.0 GB" in finding.evidence[1].text
    passes(rules.stored_in_fp8, *USUAL, image(STORED, 5.0))
    unknown(rules.stored_in_fp8)


def test_pip005_a_step_cache_makes_another_image() -> None:
    cached = image(CACHED, 3.0, skipped_calls=14, threshold=0.05, error=0.2)
    finding = found(rules.cache_changes_the_image, *USUAL, cached)
    assert "skips 50% of the calls, and the image is 1.67x as fast" in finding.title
    assert "PSNR 30.0 dB, SSIM 0.950" in finding.title
    assert finding.gain is not None
    assert (finding.gain.versus, finding.gain.basis) == (BF16, "measured")


def test_pip005_a_cache_that_skips_nothing() -> None:
    passes(rules.cache_changes_the_image, *USUAL, image(CACHED, 5.0, skipped_calls=0, threshold=0.05))
    unknown(rules.cache_changes_the_image)
    alone = image(f"{EAGER_FP8}+cache-first-block", 3.0, skipped_calls=14)
    assert "without its cache" in unknown(rules.cache_changes_the_image, *USUAL, alone)


def test_pip006_an_image_further_away_than_other_16_bit_ones() -> None:
    finding = found(rules.fp8_changes_the_image, *USUAL[:2], image(FP8, 2.5, error=0.1))
    assert "relative error 10.0%" in finding.title
    passes(rules.fp8_changes_the_image, *USUAL[:2], image(FP8, 2.5, error=0.015))


def test_pip006_needs_a_second_image_in_16_bits() -> None:
    assert "no second image" in unknown(rules.fp8_changes_the_image, USUAL[0], USUAL[2])


def test_pip007_the_first_image_of_a_compiled_pipeline() -> None:
    slow = image(FP8, 2.5, graphs=2, graph_breaks=0, first_image_s=52.5)
    finding = found(rules.long_first_image, image(BF16, 5.0), slow)
    assert "takes 52.5 s, others 2.5 s; it has paid after 20 images" in finding.title
    passes(rules.long_first_image)
    unknown(rules.long_first_image, image(BF16, 5.0))


# --- advice and exhibits ---------------------------------------------------------------------------------------------


def test_the_fastest_configuration_that_computes_every_step_is_the_one_to_use() -> None:
    cached = image(CACHED, 1.0, skipped_calls=24)
    (use,) = advise(advice.measured(run(*USUAL, cached, image("torch-bf16+lora", 0.5))))
    assert (use.config, use.basis, use.versus) == (FP8, "measured", COMPILED)
    assert use.when.text == "one image in 28 steps"
    assert use.when.workload == "FluxPipeline"
    assert use.speedup is not None
    assert use.speedup.low == pytest.approx(1.6)
    assert "pipe.transformer" in use.how


def test_where_fp8_gains_nothing_16_bits_are_advised() -> None:
    (use,) = advise(advice.measured(run(*USUAL[:2], image(EAGER_FP8, 6.0))))
    assert use.config == COMPILED


def test_the_table_has_every_rung_and_why_it_is_not_there() -> None:
    refused = failed(CACHED, "refused", "no step cache for it")
    facts = run(*USUAL, refused, not_compared={"lpips": "torchvision is not installed"})
    table = exhibits.every_image(facts)
    assert table is not None
    assert "1024x1024, 28 steps" in table.title
    assert "no lpips: torchvision is not installed" in table.title
    cells = {row["cells"]["config"]: row["cells"] for row in table.rows}
    assert list(cells) == [BF16, COMPILED, FP8, CACHED]
    assert cells[FP8]["x BF16"] == pytest.approx(2.0)
    assert cells[BF16]["PSNR dB"] == "identical"
    assert (cells[CACHED]["image s"], cells[CACHED]["why not"]) == (None, "no step cache for it")
    assert len({tuple(row["cells"]) for row in table.rows}) == 1
    assert exhibits.every_image(run(rungs=())) is None


def test_the_speeds_are_those_of_configurations_that_compute_every_step() -> None:
    bars = exhibits.speeds(run(*USUAL, image(CACHED, 1.0, skipped_calls=24)))
    assert bars is not None
    assert [(row["label"], row["ratio"]) for row in bars.rows] == [(FP8, 2.0), (COMPILED, 1.25), (BF16, None)]
    assert bars.title.startswith("FluxPipeline, 1024x1024, 28 steps: ")
    assert exhibits.speeds(run(rungs=())) is None


def test_the_parts_of_an_image_add_up() -> None:
    bars = exhibits.parts(run())
    assert bars is not None
    assert [row["label"] for row in bars.rows] == [
        "transformer",
        "text_encoder",
        "vae",
        "the pipeline itself",
        "= image",
    ]
    assert sum(row["value"] for row in bars.rows[:-1]) == pytest.approx(bars.rows[-1]["value"])
    assert exhibits.parts(run(failed(BF16, "error", "no"))) is None


def test_memory_is_drawn_over_time() -> None:
    lines = exhibits.memory_over_time(run())
    assert lines is not None
    assert {row["series"] for row in lines.rows} == {BF16, COMPILED, FP8}
    assert exhibits.memory_over_time(run(rungs=())) is None
