"""What was drawn before a crash, or in an earlier run, is kept, and what cannot be drawn here says why."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.pipeline.facts import ImageRung, PipelineRun
from fp8doctor.checks.pipeline.folder import NoPipelineError
from fp8doctor.checks.pipeline.probe import CONFIGS, LOADING, REFERENCE, Run, gather
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torch_build.facts import TorchDevice
from fp8doctor.model import Request
from fp8doctor.plain import to_plain
from tests.checks.test_pipeline_folder import laid_out

DONE = ImageRung(config="torch-bf16", outcome="ok", started_s=10.0, ended_s=40.0)
REFUSED = ImageRung(config="te-fp8-current", outcome="refused", error="no")
FAILED = ImageRung(config="torchao-fp8-rowwise", outcome="error", error="RuntimeError: no")
EARLIER = PipelineRun(
    asked=True,
    folder="painter",
    class_name="FluxPipeline",
    measurable=True,
    own_prompt=False,
    steps=28,
    height=1024,
    rungs=(DONE, REFUSED, FAILED),
)


@pytest.fixture(autouse=True)
def alarms() -> Iterator[None]:
    """The probe sets the process's alarm, which here belongs to the tests."""
    handler, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    yield
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, *timer)


def last(tmp_path: Path, torch_build: TorchBuild | None = None, **asked: Any) -> PipelineRun:
    """The last record of a run that has no time to load anything."""
    devices = TorchBuild(installed=True, devices=(TorchDevice(),))
    request = Request(mode="bench", **{"pipeline": str(laid_out(tmp_path / "painter")), "seconds_left": 20.0, **asked})
    return list(gather(request, torch_build or devices, None))[-1]


def names(run: PipelineRun) -> list[tuple[str | None, str | None]]:
    return [(rung.config, rung.outcome) for rung in run.rungs or ()]


def test_a_rung_that_ends_the_process_costs_itself_alone(tmp_path: Path) -> None:
    earlier = replace(EARLIER, attempting="torch-bf16+compile")
    run = last(tmp_path, so_far=to_plain(earlier), so_far_ended="SIGSEGV")
    assert names(run)[:3] == [(r.config, r.outcome) for r in (DONE, REFUSED, FAILED)]
    crashed = (run.rungs or ())[3]
    assert (crashed.config, crashed.outcome) == ("torch-bf16+compile", "crashed")
    assert "SIGSEGV" in (crashed.error or "")
    assert (run.measurable, run.attempting) == (True, None)
    assert len(run.not_measured or ()) == len(CONFIGS) - 4
    assert all("(--budget)" in words for words in run.not_measured or ())


def test_one_that_takes_longer_than_its_share_says_so(tmp_path: Path) -> None:
    earlier = replace(EARLIER, attempting="torch-bf16+compile")
    run = last(tmp_path, so_far=to_plain(earlier), so_far_ended="SIGALRM")
    assert names(run)[3] == ("torch-bf16+compile", "too-long")


@pytest.mark.parametrize("attempting", [LOADING, REFERENCE])
def test_a_restart_that_ends_while_loading_keeps_what_is_done(attempting: str, tmp_path: Path) -> None:
    earlier = replace(EARLIER, attempting=attempting)
    run = last(tmp_path, so_far=to_plain(earlier), so_far_ended="SIGKILL")
    assert names(run) == names(EARLIER)
    assert run.measurable is True
    assert any(f"{attempting}: it ended the process: SIGKILL" in words for words in run.not_measured or ())


def test_a_pipeline_whose_loading_ends_the_process_cannot_be_measured(tmp_path: Path) -> None:
    earlier = replace(EARLIER, rungs=(), measurable=None, attempting=LOADING)
    run = last(tmp_path, so_far=to_plain(earlier), so_far_ended="SIGALRM")
    assert run.measurable is False
    assert run.why_not == "loading the pipeline: it took longer than its share of the budget"


def test_resuming_keeps_what_is_finished_and_tries_the_rest_again(tmp_path: Path) -> None:
    run = last(tmp_path, so_far=to_plain(EARLIER))
    assert run.height == 1024
    assert run.rungs == EARLIER.rungs, "what there was no time for keeps its reason"
    assert run.untried == ("torchao-fp8-rowwise",)
    assert not any("torchao-fp8-rowwise: " in words for words in run.not_measured or ()), "told once"
    begun = Run(Request(mode="bench", pipeline=str(tmp_path / "painter"), so_far=to_plain(run)), None)
    begun.record = replace(run)
    assert "torchao-fp8-rowwise" in begun._todo()
    begun._keep(replace(FAILED, outcome="ok", error=None))
    assert names(begun.record)[-1] == ("torchao-fp8-rowwise", "ok")
    assert len(begun.record.rungs or ()) == len(EARLIER.rungs or ())
    assert begun.record.untried is None


@pytest.mark.parametrize(
    ("there", "here", "says"),
    [
        ({"device_name": "NVIDIA H200"}, {}, "of another GPU .NVIDIA H200; here: none"),
        ({"steps": 4}, {}, "in 4 steps, not in 28"),
    ],
)
def test_images_that_do_not_compare_are_not_gone_on_with(
    there: dict[str, Any], here: dict[str, Any], says: str, tmp_path: Path
) -> None:
    run = Run(Request(mode="bench", pipeline=str(tmp_path / "painter")), None)
    run.record = replace(EARLIER, **there)
    with pytest.raises(NoPipelineError, match=says):
        run._compares(here.get("device_name"), 28)
    assert run.stopped("x").measurable is False
    assert run.record.rungs == ()
    run.record = replace(EARLIER, rungs=(FAILED,), **there)
    run._compares(None, 28)
    assert run.record.rungs == (), "nothing was finished"


@pytest.mark.parametrize("asked", [{"prompt": "a fox"}, {"steps": 4}])
def test_resuming_with_another_prompt_or_other_steps_begins_anew(asked: dict[str, Any], tmp_path: Path) -> None:
    run = last(tmp_path, so_far=to_plain(EARLIER), **asked)
    assert names(run) == []
    assert run.measurable is False


def test_two_prompts_are_told_apart_and_neither_is_kept(tmp_path: Path) -> None:
    one, other = (last(tmp_path / words, prompt=words) for words in ("a fox", "a cat"))
    assert one.prompt_digest != other.prompt_digest
    assert "a fox" not in str(to_plain(one))


def test_what_is_missing_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    assert last(tmp_path, TorchBuild(installed=True, devices=())).why_not == "torch sees no GPU"
    assert last(tmp_path, TorchBuild(installed=False)).why_not == "there is no torch to measure with"
    gone = last(tmp_path, TorchBuild(installed=False), pipeline=str(tmp_path / "nowhere"))
    assert (gone.measurable, gone.why_not) == (False, "there is no such folder")
    assert last(tmp_path, pipeline=None).asked is False


def test_what_is_left_says_how_long_it_takes(tmp_path: Path) -> None:
    run = Run(Request(mode="bench", pipeline=str(tmp_path)), None)
    run.record = replace(EARLIER, rungs=(DONE,))
    run._leave(["torch-fp16", "te-fp8-current"], "the time budget was spent", run._needs(2))
    assert run.record.not_measured == (
        "torch-fp16: the time budget was spent",
        "te-fp8-current: the time budget was spent; these 2 need about 60 s (--budget)",
    )
