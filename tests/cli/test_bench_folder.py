"""The folder of `fp8doctor bench -o`: an earlier run in it is never lost, mixed with another, or overwritten unsaid."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor import api
from fp8doctor.checks.ladder import Ladder
from fp8doctor.checks.pipeline.facts import ImageRung, PipelineRun
from fp8doctor.cli import results
from fp8doctor.cli.earlier import Earlier
from fp8doctor.measuring.workloads import built_in
from fp8doctor.model import Facts
from fp8doctor.plain import to_plain
from tests import stub_nvml
from tests.command import called, complaint, without_gpu
from tests.ladder_facts import FLUX, NO_GPU, failed, more, only
from tests.stub_nvml import H200

CONFIG_OF_NO_MODEL = '{"hidden_size": 64}'
PLAN = built_in("flux")
FINISHED = len(FLUX.rungs or ())


def document(*facts: Facts) -> dict[str, Any]:
    """A facts file of an H200 on a day."""
    return {
        "schema": "fp8doctor.facts",
        "schema_version": "1.0",
        "created": "2026-11-21T10:00:00+00:00",
        "probes": {one.key: {"outcome": "ok"} for one in facts},
        "facts": {one.key: to_plain(one) for one in facts},
    }


# The ladder as a real run of flux writes it.
LADDER = replace(FLUX, model_class="diffusers.FluxTransformer2DModel")
IMAGES = PipelineRun(
    asked=True,
    folder="painter",
    class_name="FluxPipeline",
    measurable=True,
    own_prompt=False,
    steps=28,
    device_name="NVIDIA H200",
    rungs=(ImageRung("torch-bf16", "ok"), ImageRung("te-fp8-current", "error", "no backend")),
)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes the folder that a run with these facts wrote."""

    def made(*facts: Facts, name: str = "results") -> Path:
        place = tmp_path / name
        place.mkdir()
        results.write(api.diagnose(document(*facts)), place, redact=True)
        return place

    return made


def refused(folder: Path, *arguments: str) -> str:
    """What a command that must change nothing says."""
    before = content(folder)
    said = complaint("bench", *arguments, "-o", str(folder))
    assert content(folder) == before
    return said


# --- what is made, and when ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["config.json"],
        ["flux", "--rung", "torch-bf17"],
        ["flux", "--steps", "3"],
        ["flux", "--json", "--markdown"],
        ["flux", "--python", "no-such-python"],
        ["flux", "--pipeline", "."],
    ],
)
def test_a_call_that_is_refused_leaves_no_folder(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "config.json").write_text(CONFIG_OF_NO_MODEL)
    named = [str(tmp_path / "config.json") if word == "config.json" else word for word in arguments]
    for order in (["-o", str(tmp_path / "o2"), *named], [*named, "-o", str(tmp_path / "o2")]):
        complaint("bench", *order)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json"]


# --- without --resume ------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_a_run_is_not_overwritten(folder: Callable[..., Path]) -> None:
    place = folder(LADDER)
    assert refused(place, "flux") == (
        f"fp8doctor: {place} holds a run of flux on an NVIDIA H200 (2026-11-21). Add --resume to go on with it, or "
        "name another folder.\n"
    )
    assert refused(place, "llama-8b").endswith("(2026-11-21). Name another folder.\n")
    assert refused(place, "flux", "--full").endswith("(2026-11-21). Name another folder.\n")
    assert "holds images of painter on an NVIDIA H200" in refused(folder(IMAGES, name="images"), "flux")


def test_a_report_that_cannot_be_read_may_hold_a_run(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{ half a rep")
    assert "not JSON" in refused(tmp_path, "flux")


@without_gpu
def test_a_folder_without_a_measured_rung_is_used_again_and_old_tables_go(
    folder: Callable[..., Path], other_python: str
) -> None:
    place = folder(replace(LADDER, rungs=(failed("te-fp8-current", "error", "no backend"),)))
    (place / "mine.csv").write_text("1,2\n")
    assert any(name.startswith("ladder") and name.endswith(".csv") for name in content(place))
    run = called("bench", "flux", "-o", str(place), "--fail-on", "never", "--python", other_python)
    assert run.returncode == 0, run.stderr
    saved = json.loads((place / "report.json").read_text())["facts"]["ladder"]
    assert saved["measurable"] is False
    assert sorted(content(place)) == ["mine.csv", "report.json", "report.md"]


def test_only_tables_that_the_earlier_report_named_are_removed(folder: Callable[..., Path]) -> None:
    place = folder(LADDER)
    (place / "ladder.csv").rename(place / "other.csv")
    results.write(api.diagnose(document(NO_GPU)), place, redact=True)
    assert "other.csv" in content(place)


# --- with --resume ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["llama-8b"], "holds a run of flux, not of llama-8b."),
        (["flux", "--full"], "holds a run of flux without --full."),
        (["--pipeline", "PAINTER"], "holds a run of flux, not images of painter."),
    ],
)
def test_only_a_run_of_the_same_is_gone_on_with(
    folder: Callable[..., Path], tmp_path: Path, arguments: list[str], says: str
) -> None:
    from tests.checks.test_pipeline_folder import laid_out

    words = [str(laid_out(tmp_path / "painter")) if word == "PAINTER" else word for word in arguments]
    place = folder(LADDER)
    assert refused(place, *words, "--resume") == f"fp8doctor: {place} {says}\n"


def test_images_of_other_words_or_steps_are_not_gone_on_with(folder: Callable[..., Path], tmp_path: Path) -> None:
    from tests.checks.test_pipeline_folder import laid_out

    painter, place = str(laid_out(tmp_path / "painter")), folder(IMAGES)
    pipeline = ("--pipeline", painter, "--resume")
    assert refused(place, *pipeline, "--prompt", "a fox").endswith("holds images of another --prompt.\n")
    assert refused(place, *pipeline, "--steps", "4").endswith("holds images in 28 steps, not in 4.\n")
    assert refused(place, "flux", "--resume").endswith("holds images of painter, not a run of flux.\n")


@without_gpu
def test_a_run_of_a_gpu_is_left_alone_where_there_is_none(folder: Callable[..., Path]) -> None:
    place = folder(LADDER)
    assert refused(place, "flux", "--resume") == (
        f"fp8doctor: --resume: the run in {place} is of an NVIDIA H200; here no GPU is visible. Nothing was changed.\n"
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if stub_nvml.compiler() is None:
        pytest.skip("needs a C compiler to build the stub library")
    return stub_nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def shown(library: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the driver of the processes to come show this GPU."""

    def show(**script: object) -> None:
        for name, value in stub_nvml.environment(library, {**H200, **script}).items():
            if os.environ.get(name) != value:
                monkeypatch.setenv(name, value)

    return show


def test_a_run_of_another_gpu_is_left_alone(folder: Callable[..., Path], shown: Callable[..., None]) -> None:
    shown(name="NVIDIA H100 80GB HBM3")
    place = folder(LADDER)
    assert refused(place, "flux", "--resume") == (
        f"fp8doctor: --resume: the run in {place} is of an NVIDIA H200; here is an NVIDIA H100 80GB HBM3. "
        "Nothing was changed.\n"
    )


@without_gpu
def test_where_the_child_alone_sees_that_the_gpu_is_gone_nothing_is_lost(
    folder: Callable[..., Path], shown: Callable[..., None]
) -> None:
    shown()
    place = folder(LADDER)
    before = content(place)
    run = called("bench", "flux", "-o", str(place), "--resume")
    assert run.returncode == 2
    assert content(place) == before
    first, last = run.stderr.splitlines()
    assert first == f"fp8doctor: kept {FINISHED} finished rungs of {place}"
    assert last.startswith("fp8doctor: --resume: ")
    assert last.endswith(f"; {place} was left as it was")
    assert "torch sees no GPU" in last or "there is no torch" in last


# --- what a run that went on has kept --------------------------------------------------------------------------------


def test_what_is_kept_is_what_was_finished(folder: Callable[..., Path]) -> None:
    place = folder(more(failed("te-fp8-current", "error", "no backend"), ladder=LADDER))
    earlier = Earlier.of(place)
    assert earlier is not None
    assert len(earlier.finished) == FINISHED
    assert earlier.lost(api.diagnose(document(LADDER))) is None
    fewer = only("torch-bf16", ladder=LADDER)
    assert earlier.lost(api.diagnose(document(fewer))) == "13 of the finished rungs are not in the new run"
    gone = replace(LADDER, rungs=(), measurable=False, why_not="the earlier run is of an NVIDIA H200")
    assert earlier.lost(api.diagnose(document(gone))) == "the earlier run is of an NVIDIA H200"
    assert earlier.lost(api.diagnose(document())) == "14 of the finished rungs are not in the new run"


def test_a_folder_without_a_finished_rung_holds_no_run(folder: Callable[..., Path], tmp_path: Path) -> None:
    assert Earlier.of(tmp_path) is None
    assert Earlier.of(tmp_path / "none") is None
    (tmp_path / "report.json").touch()
    assert Earlier.of(tmp_path) is None
    assert Earlier.of(folder(NO_GPU)) is None
    assert Earlier.of(folder(PipelineRun(asked=False, measurable=False), name="no-images")) is None


def test_a_model_of_the_same_name_is_another_one() -> None:
    ladder: Ladder = replace(LADDER, model_class="diffusers.QwenImageTransformer2DModel")
    earlier = Earlier(Path("r"), "2026-11-21", ladder)
    assert earlier.differs("flux", full=False, pipeline=None, prompt=None, steps=None) == (
        "r holds a run of another flux: diffusers.QwenImageTransformer2DModel"
    )
