"""The rules on several GPUs: where each speaks, where it is silent, where it cannot tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fp8doctor.checks.parallel
from fp8doctor.checks.machine.facts import Machine
from fp8doctor.checks.parallel import exhibits, gain_rules, rules
from fp8doctor.checks.parallel.collectives import bandwidths
from fp8doctor.checks.parallel.facts import Collective, Parallel, ParallelStep
from fp8doctor.checks.parallel.plan import (
    BF16,
    DATA,
    FP8,
    GATHERED,
    GATHERED_EACH,
    SHARDED,
    SINGLE,
    TENSOR,
    Case,
    Sizes,
    cases,
    numbers,
)
from fp8doctor.checks.parallel.probe import why_not
from fp8doctor.checks.parallel.profiling import sums
from fp8doctor.checks.parallel.starting import is_sound, together
from fp8doctor.checks.torch_build import TorchBuild, TorchDevice
from fp8doctor.model import EXHIBIT_ROWS, Estimate, Finding, NotApplicable, Unknown
from fp8doctor.plain import from_plain
from fp8doctor.registry import Registry

FOUR_H200S = Path(__file__).parent.parent / "several_gpus" / "h200-x4.json"


def step(parallelism: str, config: str, gpus: int, ms: float, exposed: float | None = None) -> ParallelStep:
    return ParallelStep(
        parallelism=parallelism,
        config=f"{config}+compile",
        gpus=gpus,
        tokens=4096,
        outcome="ok",
        step_ms=Estimate(ms, ms * 0.995, ms * 1.005, 20),
        profiled_ms=None if exposed is None else ms,
        exposed_ms=exposed,
    )


ALONE = (step(SINGLE, BF16, 1, 20.0), step(SINGLE, FP8, 1, 14.0))


def facts(*steps: ParallelStep) -> Parallel:
    return Parallel(measurable=True, width=4096, hidden=14336, kv_width=1024, steps=(*ALONE, *steps))


def found(verdict: Any) -> Finding:
    if isinstance(verdict, list):
        findings = [one for one in verdict if isinstance(one, Finding)]
        assert len(findings) == 1, verdict
        return findings[0]
    assert isinstance(verdict, Finding), verdict
    return verdict


EVERY_RULE = [rules.communicates, rules.shards, rules.reduces_scales, rules.gathers, gain_rules.loses]


@pytest.mark.parametrize("rule", EVERY_RULE)
def test_one_gpu_is_no_case_and_nothing_timed_is_unknown(rule: Any) -> None:
    assert isinstance(rule(Parallel(measurable=False, why_not="there is one GPU")), NotApplicable)
    assert isinstance(rule(Parallel(measurable=True)), Unknown)
    assert isinstance(rule(facts()), Unknown)


def test_fp8_that_wins_on_one_gpu_and_loses_on_several_is_told_with_both() -> None:
    loses = facts(step(TENSOR, BF16, 4, 14.0), step(TENSOR, FP8, 4, 20.0))
    finding = found(gain_rules.loses(loses))
    assert finding.title == "FP8 runs at 0.70x BF16's speed in tensor parallel on 4 GPUs, and at 1.43x on one GPU"
    wins = facts(step(DATA, BF16, 4, 22.0), step(DATA, FP8, 4, 18.0))
    assert gain_rules.loses(wins) == [None]
    inside_the_noise = facts(step(DATA, BF16, 4, 22.0), step(DATA, FP8, 4, 22.5))
    assert gain_rules.loses(inside_the_noise) == [None]


def test_what_four_h200s_showed_is_told() -> None:
    """Recorded by `python -m benchmarks.several_gpus` on four H200s (benchmarks/RESULTS.md)."""
    seen = from_plain(Parallel, json.loads(FOUR_H200S.read_text()))
    assert found(gain_rules.loses(seen)).title == (
        "FP8 runs at 0.65x BF16's speed in tensor parallel on 4 GPUs, and at 1.28x on one GPU"
    )
    assert found(rules.reduces_scales(seen)).title == (
        "On 4 GPUs, scales exchanged weight by weight make a step 1.42x as long"
    )
    assert isinstance(rules.shards(seen), Unknown), "its kernels were not looked at"


# --- communication


def test_communication_that_nothing_hides_takes_from_the_gain() -> None:
    seen = facts(step(SHARDED, BF16, 4, 26.0, 6.0), step(SHARDED, FP8, 4, 21.5, 7.5))
    finding = found(rules.communicates(seen))
    assert "keeps 1.21x of FP8's 1.43x: 35% of the step is communication alone" in finding.title
    assert finding.about == "parallel:sharded-data"


def test_hidden_communication_and_a_gain_that_stays_are_no_finding() -> None:
    kept = facts(step(DATA, BF16, 4, 20.4, 0.4), step(DATA, FP8, 4, 14.4, 0.4))
    assert rules.communicates(kept) == [None]
    hidden = facts(step(DATA, BF16, 4, 26.0, 0.2), step(DATA, FP8, 4, 21.5, 0.3))
    assert rules.communicates(hidden) == [None]


def test_a_lost_gain_whose_kernels_nobody_saw_is_unknown() -> None:
    unseen = facts(step(DATA, BF16, 4, 26.0), step(DATA, FP8, 4, 21.5))
    verdict = rules.communicates(unseen)
    assert isinstance(verdict, list)
    assert isinstance(verdict[0], Unknown)
    assert isinstance(
        rules.communicates(Parallel(measurable=True, steps=unseen.steps[2:] if unseen.steps else ())), Unknown
    )


# --- shards


def test_products_that_shrink_with_the_gpus_lose_the_gain() -> None:
    seen = facts(
        *(step(TENSOR, BF16, 2, 11.0, 1.0), step(TENSOR, FP8, 2, 9.0, 1.0)),
        *(step(TENSOR, BF16, 8, 4.0, 1.0), step(TENSOR, FP8, 8, 4.0, 1.0)),
    )
    finding = found(rules.shards(seen))
    assert "On 8 GPUs tensor parallelism leaves products that gain 1.00x from FP8, on one GPU 1.43x" in finding.title
    assert any("feed-forward, down 4096x1792x4096" in evidence.text for evidence in finding.evidence)


def test_a_gain_that_only_communication_hides_is_not_the_shards_fault() -> None:
    # Without 4 ms of communication: 8.0 against 5.6 ms, as on one GPU.
    seen = facts(step(TENSOR, BF16, 4, 12.0, 4.0), step(TENSOR, FP8, 4, 9.6, 4.0))
    assert rules.shards(seen) is None
    assert "communication alone" in found(rules.communicates(seen)).title


# --- scales and weights


def test_scales_exchanged_one_by_one_are_told_where_they_cost() -> None:
    pair = (step(SHARDED, BF16, 4, 22.0), step(SHARDED, FP8, 4, 16.0))
    slow = facts(*pair, step(SHARDED, GATHERED, 4, 15.0), step(SHARDED, GATHERED_EACH, 4, 17.0))
    finding = found(rules.reduces_scales(slow))
    assert finding.gain is not None
    assert finding.gain.speedup == pytest.approx(1.13, abs=0.01)
    alike = facts(*pair, step(SHARDED, GATHERED, 4, 15.0), step(SHARDED, GATHERED_EACH, 4, 15.2))
    assert rules.reduces_scales(alike) is None
    assert isinstance(rules.reduces_scales(facts(*pair)), Unknown)


def test_gathering_weights_in_fp8_is_advised_where_it_is_faster() -> None:
    pair = (step(SHARDED, BF16, 4, 22.0), step(SHARDED, FP8, 4, 18.0))
    assert "1.20x as fast" in found(rules.gathers(facts(*pair, step(SHARDED, GATHERED, 4, 15.0)))).title
    assert rules.gathers(facts(*pair, step(SHARDED, GATHERED, 4, 18.1))) is None


def test_one_connection_is_a_hint_where_fsdp_was_measured() -> None:
    seen = facts(step(SHARDED, BF16, 4, 22.0), step(SHARDED, FP8, 4, 16.0))
    one = Machine(environment={"CUDA_DEVICE_MAX_CONNECTIONS": "1"})
    assert "too few for FSDP" in found(rules.connections(seen, one)).title
    assert rules.connections(seen, Machine(environment={})) is None
    assert isinstance(rules.connections(seen, Machine()), Unknown)
    tensor = facts(step(TENSOR, BF16, 4, 22.0), step(TENSOR, FP8, 4, 16.0))
    assert isinstance(rules.connections(tensor, one), NotApplicable)


# --- the sums


def test_what_runs_beside_products_is_not_exposed() -> None:
    ran = [
        (0.0, 1000.0, "nvjet_sm90_qqtst"),
        (500.0, 2000.0, "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)"),
        (1500.0, 1700.0, "vectorized_elementwise_kernel"),
        (2000.0, 2500.0, "ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL"),
    ]
    assert sums(ran) == {"profiled_ms": 2.5, "communication_ms": 2.0, "exposed_ms": 1.3, "communications": 2}
    assert sums(ran[1:2]) == {}


def test_bandwidths_are_those_of_nccl_tests() -> None:
    # 1 GB in 10 ms: 100 GB/s; among 4, each link of an all-reduce carries 1.5 times that.
    assert bandwidths("all-reduce", 4, 1_000_000_000, 10_000.0) == (100.0, 150.0)
    assert bandwidths("all-gather", 4, 1_000_000_000, 10_000.0) == (100.0, 75.0)
    assert bandwidths("reduce-scatter", 2, 1_000_000_000, 10_000.0) == (100.0, 50.0)


def test_who_said_why_counts_before_those_who_waited() -> None:
    assert together([None, {"outcome": "error", "error": "no"}]) == {"outcome": "error", "error": "GPU 1: no"}
    assert together([{"outcome": "error", "error": "lost"}, {"outcome": "crashed", "error": "signal 9"}]) == {
        "outcome": "crashed",
        "error": "GPU 1: signal 9",
    }
    assert together([{"outcome": "ok"}, None]) == {"outcome": "hung", "error": "no answer from GPU 1"}


def test_workers_that_failed_alike_can_be_asked_again() -> None:
    ok, no = {"outcome": "ok"}, {"outcome": "refused", "error": "not supported"}
    assert is_sound([ok, ok])
    assert is_sound([no, dict(no)])
    assert not is_sound([no, ok])
    assert not is_sound([ok, None])
    full = {"outcome": "out-of-memory", "error": "CUDA out of memory"}
    assert not is_sound([full, dict(full)]), "some may have run out of it later than others"


# --- the plan


def test_all_gpus_come_before_fewer_and_kernels_last() -> None:
    assert numbers(8) == (8, 4, 2)
    assert numbers(3) == (2,)
    order = list(cases(4, Sizes()))
    assert {case.do for case in order[:12]} == {"collective"}, "tenths of a second each; a step is compiled first"
    assert order[12] == Case("step", 1, SINGLE, BF16)
    assert [case.gpus for case in order if case.do == "step" and case.parallelism == TENSOR] == [4, 4, 2, 2]
    assert {case.do for case in order[-8:]} == {"profile"}
    sent = {(c.dtype, c.size_bytes) for c in order if c.collective == "all-gather"}
    assert {("bf16", 64 << 20), ("uint8", 32 << 20)} <= sent, "as many elements, half as many bytes"


def test_it_wants_two_gpus() -> None:
    assert why_not(None) == "there is no torch to measure with"
    assert why_not(TorchBuild(installed=True, devices=())) == "torch sees no GPU"
    assert why_not(TorchBuild(installed=True, devices=(TorchDevice(index=0),))) == "there is one GPU"
    assert why_not(TorchBuild(installed=True, devices=(TorchDevice(index=0), TorchDevice(index=1)))) is None
    registry = Registry()
    registry.collect(fp8doctor.checks.parallel)
    spec = registry.probes["parallel"]
    assert (spec.times_gpu, spec.runs_in, spec.modes, spec.order) == (True, "target", ("fleet",), 90)


# --- to look at


def test_lines_begin_with_one_gpu_and_tables_name_what_failed() -> None:
    seen = facts(
        *(step(TENSOR, BF16, 2, 11.0, 1.0), step(TENSOR, FP8, 2, 9.0, 1.0)),
        ParallelStep(parallelism=DATA, config=f"{FP8}+compile", gpus=2, outcome="hung", error="no answer from GPU 1"),
    )
    lines = exhibits.gain_by_gpus(seen)
    assert lines is not None
    assert [(row["series"], row["x"], row["y"]) for row in lines.rows] == [
        ("tensor parallel", 1, 1.429),
        ("tensor parallel", 2, 1.222),
    ]
    assert all(row.keys() == EXHIBIT_ROWS["lines"].keys() for row in lines.rows)
    table = exhibits.steps(seen)
    assert table is not None
    assert table.rows[-1]["cells"]["step, ms"] == "hung"
    assert exhibits.gain_by_gpus(facts()) is None
    assert exhibits.steps(facts()) is None


def test_collectives_are_listed_with_their_bandwidths() -> None:
    one = Collective(
        "all-gather", "uint8", 4, 1 << 20, 1 << 20, "ok", None, Estimate(50.0, 49.0, 51.0, 20), 20.97, 15.73
    )
    table = exhibits.collectives(Parallel(measurable=True, collectives=(one,)))
    assert table is not None
    cells = table.rows[0]["cells"]
    assert (cells["size"], cells["time, us"], cells["bus, GB/s"]) == ("1 MiB", "50.0 [49.0, 51.0]", "15.7")
    assert exhibits.collectives(Parallel(measurable=True)) is None
