"""Each GPU of a box by itself and all together: what is measured, and which rule says what of it."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace

import pytest

from fp8doctor.checks.each_gpu import EachGpu, Link, OneGpu, Rates, rules, worker
from fp8doctor.checks.each_gpu.exhibits import links_of_each, rates_of_each
from fp8doctor.checks.each_gpu.probe import Box, gather
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torch_build.facts import TorchDevice
from fp8doctor.model import Finding, NotApplicable, Request, RuleResult, Unknown

GOOD = Rates(680.0, 1280.0, 4200.0, 0.037, 0.057, 1500.0, 698.0, 60.0)
# What the process of a GPU says, in place of one that has a GPU: number 2 ends, number 3 comes to no end.
STUB = """
import json, sys, time
index = int(sys.argv[1])
print(json.dumps({"name": "NVIDIA H200", "compute_capability": "9.0", "fingerprint": f"f{index}"}), flush=True)
for line in sys.stdin:
    what = json.loads(line)["do"]
    if index == 2:
        sys.exit(3)
    if index == 3:
        time.sleep(60)
    rates = {"bf16_tflops": 680.0, "fp8_tflops": 1280.0, "copy_gb_s": 4200.0}
    links = [{"source": 0, "target": 1, "direct": True, "gb_s": 300.0}]
    print(json.dumps({"links": links} if what == "links" else rates), flush=True)
"""


def box(*alone: Rates | None, name: str = "NVIDIA H200", links: tuple[Link, ...] | None = None) -> EachGpu:
    gpus = tuple(OneGpu(index, name, "9.0", f"f{index}", GOOD, rates) for index, rates in enumerate(alone))
    return EachGpu(measurable=True, gpus=gpus, links=links)


def fired(result: RuleResult) -> list[Finding]:
    return [one for one in (result if isinstance(result, list) else [result]) if isinstance(one, Finding)]


def measured(indices: list[int], seconds: float = 20.0) -> EachGpu:
    *_, last = Box(indices, Request(mode="fleet", seconds_left=seconds), [sys.executable, "-c", STUB]).records()
    return last


def test_every_gpu_is_measured_together_and_alone_and_the_links_between_them() -> None:
    seen = measured([0, 1])
    assert [(gpu.index, gpu.fingerprint, gpu.error) for gpu in seen.gpus or ()] == [(0, "f0", None), (1, "f1", None)]
    assert all(gpu.alone == gpu.together == Rates(680.0, 1280.0, 4200.0) for gpu in seen.gpus or ())
    assert seen.links == (Link(0, 1, True, 300.0),)
    assert seen.not_measured == ()


def test_a_gpu_whose_process_ends_or_hangs_costs_itself_alone() -> None:
    seen = measured([0, 1, 2, 3], seconds=12.0)
    errors = {gpu.index: gpu.error for gpu in seen.gpus or ()}
    assert (errors[0], errors[1], errors[2]) == (None, None, "its process ended (status 3)")
    assert (errors[3] or "").startswith("no answer after")
    assert seen.not_measured
    assert "links: not every GPU answered" in seen.not_measured
    assert [one.about for one in fired(rules.fails(seen))] == ["gpu:2", "gpu:3"]


def test_what_there_is_no_time_for_is_said() -> None:
    seen = measured([0, 1], seconds=2.0)
    assert seen.not_measured is not None
    assert "all GPUs at once: the time budget was spent" in seen.not_measured
    assert all(gpu.alone is None for gpu in seen.gpus or ())


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (TorchBuild(installed=True, devices=(TorchDevice(index=0),)), "there is one GPU"),
        (TorchBuild(installed=True, devices=()), "torch sees no GPU"),
        (None, "torch sees no GPU"),
    ],
)
def test_one_gpu_has_nothing_to_be_compared_with(build: TorchBuild | None, why: str) -> None:
    (seen,) = gather(Request(), build)
    assert (seen.measurable, seen.why_not) == (False, why)
    for rule in (rules.slower_than_its_kind, rules.slow_one_another, rules.computes_wrongly, rules.fails,
                 rules.slow_link):  # fmt: skip
        assert rule(seen) == NotApplicable(why)


def test_a_process_that_cannot_start_says_why_in_one_line() -> None:
    answers = io.StringIO()
    worker.serve(io.StringIO('{"do": "measure"}\n'), answers, 0, 0.0)
    said = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert len(said) == 1
    assert set(said[0]) == {"error"}


def test_gpu_slower_than_its_kind() -> None:
    slow = replace(GOOD, bf16_tflops=600.0, fp8_tflops=1130.0, sm_clock_mhz=1300.0)
    dipped = box(GOOD, GOOD, slow, GOOD)
    assert rules.slower_than_its_kind(dipped) is None, "beside the others it was as fast as they"
    gpus = dipped.gpus or ()
    always = replace(dipped, gpus=(*gpus[:2], replace(gpus[2], together=slow), gpus[3]))
    (finding,) = fired(rules.slower_than_its_kind(always))
    assert finding.title == "GPU 2 is 12% slower in matrix products than the other NVIDIA H200 of this box"
    assert [one.text for one in finding.evidence] == [
        "matrix products: 823 TFLOP/s, the others' median 933",
        "SM clock meanwhile: 1,300 MHz, the others' 1,500",
    ]
    nearly = replace(GOOD, bf16_tflops=660.0, fp8_tflops=1250.0)
    assert rules.slower_than_its_kind(box(GOOD, GOOD, nearly, GOOD)) is None


def test_gpus_of_unlike_names_are_not_held_against_one_another() -> None:
    one, other = box(GOOD).gpus or (), box(replace(GOOD, bf16_tflops=300.0), name="NVIDIA A100").gpus or ()
    assert isinstance(rules.slower_than_its_kind(EachGpu(measurable=True, gpus=one + other)), Unknown)


def test_gpus_slow_one_another() -> None:
    faster = replace(GOOD, bf16_tflops=760.0, fp8_tflops=1420.0)
    (finding,) = fired(rules.slow_one_another(box(faster, faster)))
    assert finding.title == "With all 2 GPUs at work each reaches 90% of what it does alone"
    assert rules.slow_one_another(box(GOOD, GOOD)) is None


def test_one_that_is_slow_only_beside_the_others_is_named() -> None:
    gpus = box(GOOD, GOOD, GOOD, GOOD).gpus or ()
    throttled = replace(gpus[3], together=replace(GOOD, bf16_tflops=544.0, fp8_tflops=1024.0))
    (finding,) = fired(rules.slow_one_another(EachGpu(measurable=True, gpus=(*gpus[:3], throttled))))
    assert finding.title == "With all GPUs at work GPU 3 reaches 80% of what it does alone, the others 100%"
    assert finding.about == "gpu:3"


def test_a_gpu_that_computes_wrongly_only_beside_the_others_is_named() -> None:
    gpus = box(GOOD, GOOD).gpus or ()
    wrong = replace(gpus[1], together=replace(GOOD, fp8_error=0.4))
    (finding,) = fired(rules.computes_wrongly(EachGpu(measurable=True, gpus=(gpus[0], wrong))))
    assert finding.about == "gpu:1"


def test_gpu_computes_wrongly() -> None:
    (finding,) = fired(rules.computes_wrongly(box(GOOD, replace(GOOD, fp8_error=0.4))))
    assert (finding.about, finding.title) == ("gpu:1", "GPU 1 gives a wrong FP8 product")
    assert rules.computes_wrongly(box(GOOD, GOOD)) is None


def test_gpu_link_slow() -> None:
    links = tuple(Link(a, b, True, 300.0) for a in range(3) for b in range(3) if a != b)
    broken = (replace(links[0], gb_s=20.0, direct=False), *links[1:])
    (finding,) = fired(rules.slow_link(box(GOOD, GOOD, GOOD, links=broken)))
    assert finding.title == "1 of 6 links between GPUs reach less than half of the others"
    assert "do not reach one another directly" in finding.evidence[0].text
    assert rules.slow_link(box(GOOD, GOOD, GOOD, links=links)) is None


def test_exhibits_name_every_gpu_and_every_link() -> None:
    seen = box(GOOD, GOOD, links=(Link(0, 1, True, 300.0), Link(1, 0, False, 20.0)))
    table, links = rates_of_each(seen), links_of_each(seen)
    assert table is not None
    assert links is not None
    assert [row["cells"][""] for row in table.rows] == ["alone", "together"] * 2
    assert [(row["x"], row["y"], row["value"], row["note"]) for row in links.rows] == [
        ("to GPU 0", "from GPU 0", None, None),
        ("to GPU 1", "from GPU 0", 300.0, None),
        ("to GPU 0", "from GPU 1", 20.0, "through the host"),
        ("to GPU 1", "from GPU 1", None, None),
    ]
    assert rates_of_each(EachGpu(measurable=False)) is None
