"""A small pipeline of diffusers' own classes, saved by the test, is drawn with: on the CPU, from files alone."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor import api, store
from fp8doctor.checks.pipeline.facts import ImageRung, PipelineRun
from fp8doctor.checks.pipeline.probe import gather
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torch_build.facts import TorchDevice
from fp8doctor.judging.report import Report
from fp8doctor.model import Facts, ProbeRun, Request
from fp8doctor.plain import to_plain
from fp8doctor.probing.schedule import Plan, Schedule, child_environment
from tests import small_pipeline
from tests.command import called

pytestmark = pytest.mark.torch

BF16, STORED, CACHED = "torch-bf16", "diffusers-fp8-storage", "torch-bf16+cache-first-block"
SECRET = "an unheard-of picture"


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Without the network, as the probe has them."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for library in ("diffusers", "transformers"):
        pytest.importorskip(library)


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_pipeline.stable_diffusion(tmp_path_factory.mktemp("saved") / "unet")


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_pipeline.dit(tmp_path_factory.mktemp("saved") / "dit")


# Told that there is a device, the probe takes what torch has.
WITH_A_DEVICE = TorchBuild(installed=True, devices=(TorchDevice(),))


def drawn(folder: Path, **asked: Any) -> ProbeRun[Facts]:
    """How the probe ends in a child of its own."""
    registry = api.knowledge()
    alone = replace(registry, probes={"pipeline": registry.probes["pipeline"]})
    request = Request(mode="bench", pipeline=str(folder), epoch_s=time.monotonic(), steps=2, **asked)
    environment, _ = child_environment(registry.cache_variables, None)
    schedule = Schedule(Plan(alone, request, sys.executable, 110.0, environment, store.decode_facts))
    schedule.runs["torch_build"] = ProbeRun("ok", WITH_A_DEVICE)
    return schedule.run()["pipeline"]


def drawn_here(folder: Path, seconds_left: float = 110.0, **asked: Any) -> PipelineRun:
    """What the probe says in the end, in this process, which has imported the libraries."""
    request = Request(mode="bench", pipeline=str(folder), seconds_left=seconds_left, **{"steps": 2, **asked})
    *_, last = gather(request, WITH_A_DEVICE, None)
    return last


def facts_of(run: ProbeRun[Facts]) -> PipelineRun:
    assert run.outcome == "ok", (run.detail, run.stderr_tail)
    assert isinstance(run.facts, PipelineRun)
    return run.facts


def rungs_of(facts: PipelineRun) -> dict[str | None, ImageRung]:
    return {rung.config: rung for rung in facts.rungs or ()}


def report_of(run: ProbeRun[Facts]) -> Report:
    document = {
        "schema": "fp8doctor.facts",
        "schema_version": "1.0",
        "probes": {"pipeline": {"outcome": run.outcome, "detail": run.detail}},
        "facts": {"pipeline": to_plain(run.facts)},
    }
    return api.diagnose(document)


def test_from_the_folder_to_the_files(unet: Path, tmp_path: Path) -> None:
    from fp8doctor.cli import results

    pytest.importorskip("torchmetrics")
    out = tmp_path / "out"
    run = drawn(unet, rungs=(BF16, STORED, CACHED, "te-fp8-current"), output_dir=str(out), prompt=SECRET)
    facts = facts_of(run)
    assert (facts.class_name, facts.denoiser, facts.steps) == ("StableDiffusionPipeline", "unet", 2)
    assert (facts.height, facts.width) == (16, 16)
    assert {part.name for part in facts.parts or ()} == {"unet", "vae", "text_encoder"}
    assert facts.own_prompt is True
    assert SECRET not in json.dumps(to_plain(facts))
    assert facts.not_compared is not None
    assert set(facts.not_compared) <= {"lpips"}

    rungs = rungs_of(facts)
    plain, stored = rungs[BF16], rungs[STORED]
    assert (plain.outcome, stored.outcome) == ("ok", "ok")
    assert plain.image_s is not None
    assert plain.image_s.low <= plain.image_s.median <= plain.image_s.high
    assert plain.parts_s is not None
    assert set(plain.parts_s) == {"unet", "vae", "text_encoder"}
    assert sum(plain.parts_s.values()) < plain.image_s.high
    assert plain.denoiser_calls == 2
    assert plain.likeness is not None
    assert plain.likeness.identical is True
    assert stored.likeness is not None
    assert stored.likeness.identical is False
    assert stored.likeness.psnr_db is not None
    assert stored.likeness.psnr_db > 20
    assert (rungs[CACHED].outcome, rungs["te-fp8-current"].outcome) == ("refused", "not-measured")
    assert "UNet2DConditionModel has no enable_cache" in (rungs[CACHED].error or "")
    assert "transformer_engine is not installed" in (rungs["te-fp8-current"].error or "")
    assert {file.name for file in out.iterdir()} == {f"{BF16}.png", f"{STORED}.png"}

    report = report_of(run)
    results.write(report, out, redact=True)
    with (out / "pipeline.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["config"]: row for row in csv.DictReader(file)}
    assert rows[BF16]["PSNR dB"] == "identical"
    assert float(rows[STORED]["PSNR dB"]) > 20
    assert rows[CACHED]["why not"] == rungs[CACHED].error
    again = called("diagnose", str(out / "report.json"))
    assert again.returncode == 0, again.stderr
    assert "StableDiffusionPipeline" in again.stdout


def test_going_on_draws_what_is_not_done_and_other_steps_anew(dit: Path) -> None:
    first = drawn_here(dit, rungs=(BF16,))
    second = rungs_of(drawn_here(dit, rungs=(BF16, STORED), so_far=to_plain(first)))
    assert list(second) == [BF16, STORED]
    assert second[BF16] == rungs_of(first)[BF16]
    third = rungs_of(drawn_here(dit, rungs=(BF16,), steps=3, so_far=to_plain(first)))
    assert third[BF16].denoiser_calls == 3


def test_a_short_budget_says_what_is_needed(dit: Path) -> None:
    facts = drawn_here(dit, seconds_left=20.0)
    assert facts.measurable is False
    assert "need 30 s at least (--budget)" in (facts.why_not or "")


# --- what is wrong with it is one sentence, and a finding ------------------------------------------------------------


def other_class(folder: Path) -> None:
    rewrite(folder / "model_index.json", "DiTPipeline", "DiT9Pipeline")


def other_part(folder: Path) -> None:
    rewrite(folder / "model_index.json", "AutoencoderKL", "Autoencoder9KL")


def other_library(folder: Path) -> None:
    rewrite(folder / "model_index.json", '"diffusers",\n    "AutoencoderKL"', '"antigravity",\n    "AutoencoderKL"')


def other_weights(folder: Path) -> None:
    name = "diffusion_pytorch_model.safetensors"
    shutil.copy(folder / "vae" / name, folder / "transformer" / name)


def cut_weights(folder: Path) -> None:
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])


def no_part(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def changed(dit: Path, tmp_path: Path, change: Callable[[Path], None]) -> Path:
    folder = tmp_path / "changed"
    shutil.copytree(dit, folder)
    change(folder)
    return folder


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_class, "has no pipeline DiT9Pipeline; the folder was written by diffusers "),
        (cut_weights, "Unable to load weights"),
        (no_part, "its part vae is missing"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(
    change: Callable[[Path], None], why: str, dit: Path, tmp_path: Path
) -> None:
    facts = drawn_here(changed(dit, tmp_path, change), rungs=(BF16,))
    assert facts.measurable is False
    assert why in (facts.why_not or "")
    assert "\n" not in (facts.why_not or "")
    findings = [finding for finding in report_of(ProbeRun("ok", facts)).findings if finding.id == "PIP001"]
    assert [finding.severity.value for finding in findings] == ["error"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_part, "has no diffusers.Autoencoder9KL, its vae"),
        (other_library, "has no antigravity.AutoencoderKL, its vae"),
        (other_weights, "the weights of its transformer are not those of its config.json"),
    ],
)
def test_a_part_that_is_not_known_here_or_has_other_weights(
    change: Callable[[Path], None], why: str, dit: Path, tmp_path: Path
) -> None:
    from fp8doctor.checks.pipeline.folder import NoPipelineError

    if change is other_weights:
        pytest.importorskip("accelerate")  # without it, missing weights are made up at random
    with pytest.raises(NoPipelineError, match=why):
        painter(changed(dit, tmp_path, change))
    assert "antigravity" not in sys.modules


# --- one rung at a time, in this process -----------------------------------------------------------------------------


def painter(folder: Path, steps: int = 2, prompt: str | None = None) -> Any:
    import torch

    from fp8doctor.checks.pipeline.folder import read_folder
    from fp8doctor.checks.pipeline.images import Comparer
    from fp8doctor.checks.pipeline.painting import Painter
    from fp8doctor.checks.pipeline.session import Session
    from fp8doctor.measuring.stepping import Meter

    meter = Meter(torch, torch.device("cpu"))
    return Painter(Session(read_folder(folder), prompt, steps, meter), meter, Comparer())


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from fp8doctor.checks.pipeline import painting

    monkeypatch.setattr(painting, "MOST_IMAGES", 2)


@pytest.mark.usefixtures("few_images")
def test_a_step_cache_is_counted_with_the_calls_that_it_skipped(tmp_path: Path) -> None:
    made = painter(small_pipeline.flux(tmp_path / "flux", still=True), steps=4)
    reference = made.reference()
    rung = made.paint(CACHED, reference, 60.0, lambda image: None)
    assert (rung.outcome, rung.error) == ("ok", None)
    # Steps that are all alike: the first of each image is computed, and no other.
    assert (rung.denoiser_calls, rung.skipped_calls) == (4, 3)
    assert rung.threshold is not None
    assert rung.parts_s is not None
    assert set(rung.parts_s) == {"transformer", "text_encoder", "text_encoder_2", "vae"}


@pytest.mark.usefixtures("few_images")
def test_blocks_are_compiled_and_the_first_image_tells(dit: Path) -> None:
    made = painter(dit)
    rung = made.paint("torch-bf16+compile", made.reference(), 100.0, lambda image: None)
    assert (rung.outcome, rung.error) == ("ok", None)
    assert rung.graphs is not None
    assert rung.graphs > 0
    assert rung.first_image_s is not None
    assert rung.image_s is not None
    assert rung.first_image_s > rung.image_s.median


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize(
    ("slug", "why"),
    [
        ("torch-bf16+cudagraph", "more than one CUDA graph"),
        ("torch-bf16+cache-mag", "settings made for one model"),
        ("torch-bf16+cache-first-block", "DiTTransformer2DModel has no enable_cache"),
        ("torch-fp16", "stay in BF16"),
        ("torchao-fp8train-rowwise", "for training"),
    ],
)
def test_what_an_image_cannot_be_drawn_with_is_refused_and_the_rest_goes_on(slug: str, why: str, dit: Path) -> None:
    made = painter(dit)
    reference = made.reference()
    rung = made.paint(slug, reference, 60.0, lambda image: None)
    assert rung.outcome == "refused"
    assert why in (rung.error or "")
    assert made.paint(BF16, reference, 60.0, lambda image: None).likeness.identical


@pytest.mark.usefixtures("few_images")
def test_memory_that_ends_is_a_result_and_the_rest_goes_on(dit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    made = painter(dit)
    reference = made.reference()

    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(made.session.denoiser_class, "forward", full)
        rung = made.paint(STORED, reference, 60.0, lambda image: None)
        unknown = made.reference()
    assert rung.outcome == "out-of-memory"
    assert "40.00 GiB" in (rung.error or "")
    # Where BF16 has no room either, there is nothing to compare with, and it is known what could be converted.
    assert unknown.image is None
    assert unknown.rows
    kept = made.paint(BF16, unknown, 60.0, lambda image: None)
    assert (kept.outcome, kept.likeness) == ("ok", None)


def test_another_prompt_or_seed_would_be_another_image(unet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from fp8doctor.checks.pipeline import session

    one, same, other = (painter(unet, prompt=p).reference().image for p in ("a fox", "a fox", "snow"))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    monkeypatch.setattr(session, "SEED", 1)
    assert not torch.equal(one, painter(unet, prompt="a fox").reference().image)


def test_a_pipeline_that_takes_no_prompt_is_given_none(dit: Path) -> None:
    from fp8doctor.checks.pipeline.folder import NoPipelineError

    with pytest.raises(NoPipelineError, match="DiTPipeline takes no prompt"):
        painter(dit, prompt="a fox")
