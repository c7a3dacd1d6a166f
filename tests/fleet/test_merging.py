"""What the reports of many nodes say together."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import fp8doctor
from fp8doctor.fleet.digest import MAX_FILE_BYTES
from fp8doctor.fleet.record import FleetReport
from fp8doctor.reporting.fleet_words import named

BOX = Path(__file__).parent.parent / "boxes" / "h200.json"
Document = dict[str, Any]


@pytest.fixture(scope="module")
def report() -> Document:
    document: Document = json.loads(fp8doctor.diagnose(BOX).to_json())
    return document


def write(folder: Path, name: str, report: Document, change: Callable[[Document], None] = lambda facts: None) -> Path:
    document = copy.deepcopy(report)
    change(document["facts"])
    file = folder / f"{name}.json"
    file.write_text(json.dumps(document))
    return file


def driver(version: str) -> Callable[[Document], None]:
    def change(facts: Document) -> None:
        facts["driver"]["version"] = version

    return change


def slower(share: float) -> Callable[[Document], None]:
    def change(facts: Document) -> None:
        for name in ("bf16", "fp8"):
            facts["linear"]["ceilings"][name]["sustained_tflops"] *= 1 - share

    return change


def merged(*files: Path) -> FleetReport:
    return fp8doctor.merge(files)


def test_nodes_that_are_alike_are_one_group_without_a_difference(tmp_path: Path, report: Document) -> None:
    found = merged(*(write(tmp_path, f"node-{i}", report) for i in range(4)))
    assert [len(group.nodes) for group in found.groups] == [4]
    assert (found.differences, found.odd, found.missing, found.superseded) == ((), (), (), ())
    assert found.headline == (
        "4 nodes (4 GPUs) answered. FP8 pays on all 4 nodes. None of 4 measured GPUs is slower than its kind."
    )


def test_what_differs_is_told_with_the_nodes_that_differ(tmp_path: Path, report: Document) -> None:
    files = [write(tmp_path, f"node-{i}", report) for i in range(3)]
    found = merged(*files, write(tmp_path, "node-3", report, driver("570.86.15")))
    (difference,) = found.differences
    assert (difference.name, difference.among) == ("driver", "1 x NVIDIA H200")
    assert [(one.value, one.nodes) for one in difference.variants] == [
        ("580.159.04", ("node-0", "node-1", "node-2")),
        ("570.86.15", ("node-3",)),
    ]


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("torch_build.version", "2.12.0", "torch"),
        ("libraries.installed.torchao", "0.16.0", "torchao"),
        ("libraries.cudnn_version", "9.10.2", "cuDNN that torch loads"),
        ("machine.environment.CUDA_LAUNCH_BLOCKING", "1", "CUDA_LAUNCH_BLOCKING"),
        ("gpus.gpus.0.power_limit_w", 500.0, "power limit"),
        ("gpus.gpus.0.mig_enabled", True, "MIG"),
        ("gpus.gpus.0.pcie_width", 8, "PCIe lanes"),
        ("gpus.gpus.0.ecc_enabled", False, "ECC"),
        ("machine.kernel", "5.4.0", "kernel"),
    ],
)
def test_each_difference_of_software_or_settings_is_found(
    tmp_path: Path, report: Document, path: str, value: Any, name: str
) -> None:
    def change(facts: Document) -> None:
        *way, last = path.split(".")
        at: Any = facts
        for step in way:
            at = at[int(step)] if step.isdigit() else at[step]
        at[last] = value

    found = merged(*(write(tmp_path, f"n{i}", report) for i in range(2)), write(tmp_path, "odd", report, change))
    assert name in [one.name for one in found.differences if one.variants[1].nodes == ("odd",)]


def test_an_odd_gpu_is_told_with_what_differs_there(tmp_path: Path, report: Document) -> None:
    def both(facts: Document) -> None:
        slower(0.1)(facts)
        driver("570.86.15")(facts)

    files = [write(tmp_path, f"node-{i}", report) for i in range(9)]
    found = merged(*files, write(tmp_path, "node-9", report, both))
    (odd,) = found.odd
    assert (odd.node, odd.index, odd.measure) == ("node-9", 0, "compute")
    assert odd.differs == ("driver: 570.86.15, elsewhere 580.159.04",)
    assert "The odd one is node-9 GPU 0, 10.0 % slower than the median of its kind." in found.headline


def test_a_broken_node_is_a_group_of_its_own_with_its_finding(tmp_path: Path, report: Document) -> None:
    broken = json.loads(fp8doctor.diagnose(BOX.with_name("no-gpu.json")).to_json())
    found = merged(write(tmp_path, "a", report), write(tmp_path, "b", report), write(tmp_path, "c", broken))
    assert [group.nodes for group in found.groups] == [("a", "b"), ("c",)]
    (finding,) = found.findings
    assert (finding.name, finding.nodes) == ("no-gpu-visible", ("c",))
    assert found.differences == (), "its packages have their own reasons to differ"


BAD = {
    "cut": (b'{"schema": "fp8doctor.rep', "not JSON, or cut short"),
    "empty": (b"", "the file is empty"),
    "other": (b'{"a": 1}', "no report of fp8doctor"),
    "list": (b"[]", "no report of fp8doctor"),
    "deep": (b"[" * 100_000, "no report of fp8doctor"),
    "binary": (bytes(range(256)), "not JSON, or cut short"),
    "newer": (
        b'{"schema": "fp8doctor.report", "schema_version": "2.0", "facts": {}, "verdict": {"status": "ready",'
        b' "headline": "x"}}',
        "schema version 2.0 is not known here: update fp8doctor",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_report_is_told_and_never_left_out(tmp_path: Path, report: Document, name: str) -> None:
    data, why = BAD[name]
    bad = tmp_path / f"{name}.json"
    bad.write_bytes(data)
    found = merged(write(tmp_path, "good", report), bad)
    (missing,) = found.missing
    assert missing.name == f"{name}.json"
    assert missing.why.startswith(why)
    assert found.headline.startswith("1 node (1 GPU) answered, 1 did not.")


def test_a_file_that_is_not_there_or_too_large_is_told(tmp_path: Path, report: Document) -> None:
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    found = merged(write(tmp_path, "good", report), tmp_path / "gone.json", large)
    assert {one.name: one.why for one in found.missing} == {
        "gone.json": "No such file or directory",
        "large.json": "larger than 64 MiB",
    }


def test_a_report_of_a_newer_minor_version_counts(tmp_path: Path, report: Document) -> None:
    newer = {**report, "schema_version": "1.7", "something_new": [1]}
    newer["facts"] = {**report["facts"], "a_subject_of_tomorrow": {"x": 1}}
    newer["facts"]["driver"] = {**report["facts"]["driver"], "unknown_field": 1}
    file = tmp_path / "newer.json"
    file.write_text(json.dumps(newer))
    found = merged(write(tmp_path, "now", report), file)
    assert found.missing == ()
    assert len(found.nodes) == 2


def test_of_two_reports_of_one_node_the_later_counts(tmp_path: Path, report: Document) -> None:
    def of(name: str, created: str, version: str) -> Path:
        document = copy.deepcopy(report)
        document["created"] = created
        document["facts"]["driver"]["version"] = version
        gpu = {"index": 0, "name": "NVIDIA H200", "fingerprint": "0123456789ab"}
        document["facts"]["each_gpu"] = {"measurable": True, "gpus": [gpu]}
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(document))
        return file

    late, early = of("late", "2026-03-02T00:00:00+00:00", "2"), of("early", "2026-03-01T00:00:00+00:00", "1")
    for files in ((late, early), (early, late)):
        found = merged(*files)
        assert [node.name for node in found.nodes] == ["late"]
        assert found.superseded == (("early", "late"),)


def test_files_of_one_name_in_several_folders_are_several_nodes(tmp_path: Path, report: Document) -> None:
    files = []
    for folder in ("n1", "n2", "n3"):
        (tmp_path / folder).mkdir()
        files.append(write(tmp_path / folder, "report", report))
    found = merged(*files)
    assert [node.name for node in found.nodes] == ["report", "report#2", "report#3"]
    assert found.superseded == ()


def test_thousands_are_read_by_several_processes_and_in_their_order(tmp_path: Path, report: Document) -> None:
    small = {**report, "exhibits": [], "facts": {"driver": report["facts"]["driver"], "gpus": report["facts"]["gpus"]}}
    files = [write(tmp_path, f"node-{i:04}", small) for i in range(200)]
    assert [node.name for node in merged(*files).nodes] == [file.stem for file in files]


@pytest.mark.charts
def test_every_form_says_the_same(tmp_path: Path, report: Document) -> None:
    files = [write(tmp_path, f"node-{i}", report) for i in range(9)]
    found = merged(*files, write(tmp_path, "node-9", report, slower(0.1)))
    markdown, page, data = found.to_markdown(), found.to_html(), json.loads(found.to_json())
    for text in (markdown, page):
        assert "The odd one is" in text
        assert "node-9" in text
    assert (data["schema"], data["schema_version"], data["odd"][0]["node"]) == ("fp8doctor.fleet", "1.0", "node-9")
    assert len(markdown) < 60_000


def test_its_json_is_what_the_shipped_schema_says(tmp_path: Path, report: Document) -> None:
    schema = json.loads((Path(fp8doctor.__file__).parent / "schema" / "fleet-1.0.json").read_text())
    files = [write(tmp_path, f"node-{i}", report) for i in range(9)]
    found = merged(*files, write(tmp_path, "node-9", report, slower(0.1)), tmp_path / "gone.json")
    jsonschema.validate(json.loads(found.to_json()), schema)


@pytest.mark.charts
def test_a_strangers_name_breaks_out_of_nothing(tmp_path: Path, report: Document) -> None:
    document = {**report, "node": "<script>alert(1)</script>`|\x1b[31m\n# x"}
    file = tmp_path / "x.json"
    file.write_text(json.dumps(document))
    found = merged(file, write(tmp_path, "good", report, driver("1")))
    assert "<script>" not in found.to_html()
    assert "\x1b" not in found.to_html() + found.to_markdown()
    assert "\n# x" not in found.to_markdown()


def test_nodes_are_named_in_ranges() -> None:
    assert named([f"node-{i}" for i in (1, 2, 3, 7, 9, 10)]) == "node-[1-3], node-7, node-9, node-10"
    assert named([f"n{i:03}" for i in range(100)]) == "n[000-099]"
    assert named([f"h{i}x" for i in range(9)]) == "h0x, h1x, h2x, h3x, h4x, h5x and 3 more"
    assert named(["a" + "9" * 50]) == "a" + "9" * 50


def test_what_was_measured_inside_of_a_node_is_shown_of_one_node_of_each_group(tmp_path: Path) -> None:
    four = json.loads(fp8doctor.diagnose(BOX.with_name("h200-x4.json")).to_json())

    def another(facts: Document) -> None:
        for gpu in facts["each_gpu"]["gpus"]:
            gpu["fingerprint"] = gpu["fingerprint"][::-1]

    found = merged(write(tmp_path, "a", four), write(tmp_path, "b", four, another))
    assert [node.gpus[3].bf16_tflops for node in found.nodes] == [643.48835, 643.48835], (
        "the better of alone and together"
    )
    shown = {one.id for one in found.exhibits}
    assert {"each-gpu-a", "each-gpu-links-a", "parallel-collectives-a"} <= shown
    assert not any(name.endswith("-b") for name in shown)
    assert "a: every GPU of this box" in found.to_markdown()


def test_without_a_report_there_is_nothing_to_merge() -> None:
    with pytest.raises(ValueError, match="no report"):
        fp8doctor.merge([])
