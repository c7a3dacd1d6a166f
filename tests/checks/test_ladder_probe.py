"""The ladder as its probe climbs it, in real children: what hangs, dies or is refused costs its own rung."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tests.ladder_climb
from fp8doctor import store
from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.ladder.probe import Run, gather
from fp8doctor.checks.ladder.slugs import FORWARD
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.workload import WorkloadSeen
from fp8doctor.measuring.workloads import built_in
from fp8doctor.model import Estimate, ProbeRun, Request
from fp8doctor.plain import to_plain
from fp8doctor.probing.children import importable_here, run_probe
from fp8doctor.probing.schedule import child_environment
from fp8doctor.registry import Registry
from tests.ladder_climb import PLAN

FILE = tests.ladder_climb.__file__
REGISTRY = Registry(plugin_paths={"tests.ladder_climb": FILE})
REGISTRY.collect(tests.ladder_climb)
TE = tuple(slug for slug in FORWARD if slug.startswith("te-"))
# The first import hangs; the second meets an extension of another build.
BROKEN_PEFT = """
import os, pathlib, signal, time
seen = pathlib.Path(__file__).with_name("seen")
if not seen.exists():
    seen.touch()
    time.sleep(60)
os.kill(os.getpid(), signal.SIGSEGV)
"""


def climbed(
    rungs: tuple[str, ...],
    # As long as a busy machine may need; a rung that hangs is ended after its share of them.
    seconds_left: float = 60.0,
    steps: tuple[str, ...] = ("prefill",),
    so_far: Ladder | None = None,
    least_s: float = 0.2,
    **environment: str,
) -> ProbeRun[Any]:
    workload = json.dumps({"steps": steps, "least_s": least_s})
    return run_probe(
        REGISTRY.probes["ladder"],
        Request(mode="bench", workload=workload, seconds_left=seconds_left, rungs=rungs),
        interpreter=sys.executable,
        importable=importable_here({"tests": str(Path(FILE).parent / "__init__.py"), **REGISTRY.plugin_paths}),
        runs={},
        environment={**child_environment([], None)[0], "OMP_NUM_THREADS": "1", **environment},
        deadline_s=2 * max(30.0, seconds_left),
        decode=store.decode_facts,
        cancel=threading.Event(),
        so_far=to_plain(so_far) if so_far else None,
    )


def record(run: ProbeRun[Any]) -> Ladder:
    assert run.outcome == "ok", run.stderr_tail
    assert isinstance(run.facts, Ladder)
    return run.facts


def by_config(ladder: Ladder, step: str = "prefill") -> dict[str | None, Rung]:
    return {rung.config: rung for rung in ladder.rungs or () if rung.step == step}


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    """A climb on which one rung's library hangs, and then ends the process."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "peft").mkdir()
    (folder / "peft" / "__init__.py").write_text(BROKEN_PEFT)
    slugs = ("torch-bf16", "torch-bf16+lora", "torch-bf16+lora-fused", "torch-fp16", *TE)
    run = climbed(slugs, PYTHONPATH=str(folder))
    assert run.detail == "went on in a fresh child after: SIGALRM; SIGSEGV"
    return record(run)


@pytest.mark.torch
def test_a_rung_that_takes_longer_than_its_share_is_ended_and_said(ladder: Ladder) -> None:
    hung = by_config(ladder)["torch-bf16+lora"]
    assert (hung.outcome, hung.error) == ("too-long", "it took longer than its share of the budget")


@pytest.mark.torch
def test_a_rung_that_ends_its_process_costs_itself(ladder: Ladder) -> None:
    dead = by_config(ladder)["torch-bf16+lora-fused"]
    assert (dead.outcome, dead.error) == ("crashed", "it ended the process: SIGSEGV")
    for slug in ("torch-bf16", "torch-fp16"):
        assert by_config(ladder)[slug].outcome == "ok"


@pytest.mark.torch
def test_a_library_that_is_not_there_is_said_and_nothing_is_tried(ladder: Ladder) -> None:
    for slug in TE:
        rung = by_config(ladder)[slug]
        assert (rung.outcome, rung.error) == ("not-measured", "transformer_engine is not installed")


@pytest.mark.torch
def test_each_rung_is_measured_once_and_none_is_under_way_at_the_end(ladder: Ladder) -> None:
    configs = [rung.config for rung in ladder.rungs or ()]
    assert len(set(configs)) == len(configs)
    assert ladder.attempting is None
    assert ladder.tokens == {"prefill": 32}
    assert ladder.measurable is True


@pytest.mark.torch
def test_what_a_person_named_is_all_that_is_measured(ladder: Ladder) -> None:
    assert set(by_config(ladder)) == {"torch-bf16", "torch-bf16+lora", "torch-bf16+lora-fused", "torch-fp16", *TE}


@pytest.mark.torch
def test_winners_are_combined_also_where_the_last_rung_was_no_part_of_this_box(ladder: Ladder) -> None:
    times = {"torch-bf16": 3.0, "torch-fp16": 2.0, "torch-bf16+attention-math": 2.5}

    def done(slug: str) -> Rung:
        if slug not in times:
            return Rung(slug, "prefill", "refused", "as it was in an earlier run")
        return replace(
            by_config(ladder)["torch-fp16"], config=slug, step_ms=Estimate(times[slug], times[slug], times[slug], 20)
        )

    earlier = tuple(done(slug) for slug in FORWARD if slug not in TE)
    run = climbed((), so_far=replace(ladder, rungs=earlier))
    added = {slug: rung for slug, rung in by_config(record(run)).items() if slug not in FORWARD}
    assert {slug: rung.outcome for slug, rung in added.items()} == {
        "torch-fp16+attention-math": "ok",
        "torch-fp16+cudagraph": "refused",
    }
    assert added["torch-fp16+cudagraph"].error == "CUDA graphs need a GPU"
    (again,) = record(run).again or ()
    assert (again.config, again.outcome) == ("torch-bf16", "ok"), "BF16 once more, for what drifted meanwhile"


@pytest.mark.torch
def test_a_resumed_run_keeps_what_finished_and_tries_the_rest_again(ladder: Ladder) -> None:
    wanted = ("torch-bf16", "torch-bf16+attention-math", "torch-fp16")
    crashed = Rung("torch-bf16+attention-math", "prefill", "crashed", "it ended the process: SIGSEGV")
    earlier = replace(ladder, rungs=(*(ladder.rungs or ()), crashed))
    run = climbed(wanted, so_far=earlier)
    assert run.detail is None
    before, after = by_config(ladder), by_config(record(run))
    for slug in ("torch-bf16", "torch-fp16"):
        assert after[slug] == before[slug], "not measured again"
    assert after["torch-bf16+attention-math"].outcome == "ok"
    assert after["torch-bf16+lora"] == before["torch-bf16+lora"], "nobody asked for it this time"


DONE = Rung("torch-fp16", "prefill", "refused", "no")
TRIED = Rung("torch-bf16+attention-math", "prefill", "crashed", "it ended the process: SIGSEGV")
FAILED = Rung("torch-bf16+lora", "prefill", "error", "ImportError: no peft")
EARLIER = Ladder(workload="tiny", full=False, tokens={"prefill": 32}, rungs=(DONE, TRIED, FAILED))


@pytest.mark.torch
def test_what_is_not_tried_again_keeps_its_reason() -> None:
    wanted = ("torch-bf16", "torch-bf16+attention-math")
    after = record(climbed(wanted, so_far=EARLIER))
    assert by_config(after)["torch-bf16+attention-math"].outcome == "ok"
    assert by_config(after)["torch-bf16+lora"] == FAILED
    assert after.untried == ("torch-bf16+lora @ prefill",)
    assert len(after.rungs or ()) == 4
    short = record(climbed(wanted, so_far=EARLIER, least_s=100.0))
    assert short.rungs == EARLIER.rungs
    assert [words.partition(":")[0] for words in short.not_measured or ()] == ["torch-bf16 @ prefill"], "told once"
    assert short.untried == ("torch-bf16+attention-math @ prefill", "torch-bf16+lora @ prefill")


def test_a_run_of_another_gpu_is_not_gone_on_with() -> None:
    def begun(*rungs: Rung) -> Run:
        plan = replace(PLAN, steps=PLAN.steps[:1])
        saved = replace(EARLIER, rungs=rungs, device_name="NVIDIA H200")
        return Run(Request(mode="bench", so_far=to_plain(saved)), plan, None, None)

    run = begun(DONE, FAILED)
    assert run._differs_from("NVIDIA H200") is None
    assert run._differs_from("NVIDIA H100") == "the earlier run is of another GPU (NVIDIA H200; here: NVIDIA H100)"
    nothing = begun(FAILED)
    assert nothing._differs_from("NVIDIA H100") is None
    assert (nothing.record.rungs, nothing.record.untried) == ((), None)


@pytest.mark.parametrize(
    "other",
    [{"workload": "flux"}, {"full": True}, {"tokens": {"prefill": 64}}],
    ids=["another model", "another depth", "other sizes"],
)
def test_the_record_of_something_else_is_no_part_of_a_resumed_run(other: dict[str, Any]) -> None:
    tokens = {step.name: step.tokens for step in PLAN.steps}
    earlier = Ladder(
        workload="tiny", full=False, tokens=tokens, rungs=(Rung("torch-fp16", "prefill", "refused", "no"),)
    )
    for saved, kept in ((earlier, earlier.rungs), (replace(earlier, **other), ())):
        run = Run(Request(mode="bench", so_far=to_plain(saved)), PLAN, None, None)
        assert run.record.rungs == kept


@pytest.mark.torch
def test_a_budget_that_is_too_short_says_what_the_rest_needs() -> None:
    slugs = ("torch-bf16", "torch-fp16", "torch-bf16+lora")
    run = climbed(slugs, seconds_left=12, steps=("prefill", "decode"), least_s=9.0)
    assert record(run).rungs == ()
    assert record(run).not_measured == tuple(
        f"{slug} @ {step}: the time budget was spent{said}"
        for step in ("prefill", "decode")
        for slug, said in zip(slugs, ("", "", "; these 3 need about 27 s (--budget)"), strict=True)
    )


@pytest.mark.parametrize(
    ("build", "seen", "why"),
    [
        (None, WorkloadSeen("flux", built_in("flux")), "there is no torch to measure with"),
        (TorchBuild(installed=True, devices=()), WorkloadSeen("flux", built_in("flux")), "torch sees no GPU"),
    ],
)
def test_without_a_gpu_nothing_is_climbed(build: TorchBuild | None, seen: WorkloadSeen, why: str) -> None:
    (said,) = gather(Request(workload="flux"), build, seen, None)
    assert said == Ladder(workload="flux", measurable=False, why_not=why)


@pytest.mark.parametrize("why", ["torch sees no GPU", "there is no torch to measure with"])
def test_without_a_gpu_the_rungs_of_another_box_are_none_of_this(why: str) -> None:
    build = TorchBuild(installed=True, devices=()) if "GPU" in why else None
    request = Request(workload="flux", so_far=to_plain(replace(EARLIER, workload="flux")))
    (said,) = gather(request, build, WorkloadSeen("flux", built_in("flux")), None)
    assert said == Ladder(workload="flux", measurable=False, why_not=why)
