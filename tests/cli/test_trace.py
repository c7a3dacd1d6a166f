"""`fp8doctor trace`: several files are the ranks of one run, and the report says of which it is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from tests.command import called, complaint

TRACES = Path(__file__).parent.parent / "traces"


def of_rank(rank: int, folder: Path) -> str:
    """A recorded trace as the profiler writes it on one rank of several."""
    with gzip.open(TRACES / "eager-bf16.json.gz") as packed:
        trace = json.load(packed)
    trace["distributedInfo"] = {"backend": "nccl", "rank": rank, "world_size": 8}
    place = folder / f"rank{rank}.json"
    place.write_text(json.dumps(trace))
    return str(place)


def test_a_report_of_several_files_says_which_rank_it_is_of(tmp_path: Path) -> None:
    files = [of_rank(3, tmp_path), of_rank(2, tmp_path)]
    assert "rank 2 of 2 files" in " ".join(called("trace", *files).stdout.partition("VERDICT")[0].split())
    assert "rank 2 of 2 files" in called("trace", *files, "--markdown").stdout.splitlines()[0]
    assert "rank" not in called("trace", files[0]).stdout.partition("VERDICT")[0]


def test_the_same_file_is_not_two_ranks(tmp_path: Path) -> None:
    file = of_rank(0, tmp_path)
    (tmp_path / "link.json").symlink_to(file)
    assert "is named twice" in complaint("trace", file, file)
    assert "link.json is named twice" in complaint("trace", file, str(tmp_path / "link.json"))
