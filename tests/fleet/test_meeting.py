"""Ranks that meet: what one says the other hears, and of who is missing it is told why."""

from __future__ import annotations

import os
import random
import socket
import sys
import time
import zlib
from dataclasses import replace

import pytest

from fp8doctor.fleet.launched import Launched
from fp8doctor.fleet.meeting import Heard, Meeting, unpacked

FIRST = Launched("test", 0, 2, 0, 1, "node0", "localhost", 1, True, "run")
SECOND = replace(FIRST, rank=1, name="node1", holds_store=False)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


@pytest.mark.torch
def test_a_report_of_several_chunks_arrives_whole_and_the_end_is_heard() -> None:
    port = free_port()
    report = random.Random(0).randbytes(3 << 20)
    with (
        Meeting(replace(FIRST, port=port), sys.executable, 60) as first,
        Meeting(replace(SECOND, port=port), sys.executable, 60) as second,
    ):
        second.deliver(report)
        first.wait(time.monotonic() + 60)
        assert first.missing() == []
        first.__exit__(None, None, None)
        assert second.over.wait(10)
    heard = first.heard[1].report
    assert heard is not None
    assert unpacked(heard) == report


@pytest.mark.torch
def test_a_port_that_is_taken_is_why_nobody_is_heard_of() -> None:
    with socket.create_server(("", 0)) as taken:
        one = replace(FIRST, port=taken.getsockname()[1])
        with Meeting(one, sys.executable, 60) as first:
            first.wait(time.monotonic() + 60)
            (missing,) = first.missing()
    assert missing.name == "rank 1"
    assert missing.why.startswith(f"not heard of: torch's store at localhost port {one.port} was not reached (")


def test_ranks_that_never_came_are_told_node_by_node() -> None:
    names = [one.name for one in Meeting(replace(FIRST, world=12, local_world=4), sys.executable, 1).missing()]
    assert names == ["ranks 1 to 3", "ranks 4 to 7", "ranks 8 to 11"]


def test_the_nodes_that_a_launcher_names_are_told_if_nothing_was_heard_of_them() -> None:
    first = Meeting(replace(FIRST, world=3, hosts=("node0", "node1", "node2")), sys.executable, 1)
    first.heard[1] = Heard("node1", report=b"")
    (missing,) = first.missing()
    assert (missing.name, missing.why) == ("rank 2", "never came; nothing was heard of node2")


def test_a_rank_that_its_launcher_ended_took_leave_and_is_not_missing() -> None:
    first = Meeting(replace(FIRST, world=3), sys.executable, 1)
    first.heard[1] = Heard("node0", local_rank=1, left=True, ended=False)
    first.heard[2] = Heard("node1", local_rank=0, left=True)
    (missing,) = first.missing()
    assert (missing.name, missing.why) == ("rank 2 on node1", "it was ended before its report came")


@pytest.mark.parametrize("damaged", [b"", b"no zlib", zlib.compress(b"report" * 100)[:-8]])
def test_a_damaged_report_is_none(damaged: bytes) -> None:
    assert unpacked(damaged) is None


def test_a_report_larger_than_any_is_not_unpacked() -> None:
    assert unpacked(zlib.compress(bytes(65 << 20))) is None


def test_a_messenger_that_cannot_start_is_told(tmp_path: os.PathLike[str]) -> None:
    with Meeting(FIRST, "/bin/false", 1) as first:
        first.wait(time.monotonic() + 10)
        (missing,) = first.missing()
    assert missing.why == "not heard of: what speaks to torch's store ended (status 1)"
