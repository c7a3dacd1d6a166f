"""`fp8doctor fleet` as launchers start it: all nodes in one report, and of a rank that is not there it says why."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fp8doctor.fleet.meeting import BEAT_S, SILENT_BEATS
from tests.command import process
from tests.fleet.test_meeting import free_port

pytestmark = pytest.mark.torch
# What is allowed beyond the budget, from the start of the ranks to the end of rank 0.
BEYOND_S = 10.0
DOCTOR = ["-m", "fp8doctor", "fleet"]


@contextlib.contextmanager
def torchrun(*arguments: str, before: tuple[str, ...] = ()) -> Iterator[psutil.Popen]:
    """torchrun, ended with all that it started."""
    command = [*before, sys.executable, "-m", "torch.distributed.run", *arguments]
    launcher = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield launcher
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [launcher, *launcher.children(recursive=True)]
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        launcher.wait(10)


def ranks(launcher: psutil.Popen) -> dict[int, psutil.Process]:
    """The ranks that a launcher has started."""
    found = {}
    for one in launcher.children():
        with contextlib.suppress(psutil.Error):
            environment = one.environ()
            if "RANK" in environment:
                found[int(environment["RANK"])] = one
    return found


def met(rank: psutil.Process) -> bool:
    """Whether it has reached the store: its messenger is connected to it."""
    port = int(rank.environ()["MASTER_PORT"])
    return any(
        connection.raddr and connection.raddr.port == port and connection.status == psutil.CONN_ESTABLISHED
        for child in rank.children()
        for connection in child.net_connections(kind="tcp")
    )


def three_met_and_one_hangs(launcher: psutil.Popen) -> dict[int, psutil.Process]:
    """The ranks 0 to 2 once they have reached the store; rank 3 is stopped as soon as it has started."""
    hangs = False
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(psutil.NoSuchProcess):
            found = ranks(launcher)
            if 3 in found and not hangs:
                found[3].send_signal(signal.SIGSTOP)
                hangs = True
            if len(found) == 4 and all(met(found[rank]) for rank in range(3)):
                time.sleep(1.0)
                return found
        time.sleep(0.02)
    raise AssertionError("the ranks did not meet")


# Four ranks, whose agent holds the store.
ON_THIS_MACHINE = ["--nnodes", "1", "--nproc-per-node", "4", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]


def written(file: Path, within_s: float) -> dict[str, Any]:
    """The report, once it is there."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError):
            return json.loads(file.read_text())  # type: ignore[no-any-return]
        time.sleep(0.1)
    raise AssertionError(f"no report within {within_s} s")


def test_a_rank_that_is_killed_is_named_and_the_report_is_written(other_python: str, tmp_path: Path) -> None:
    file = tmp_path / "fleet.json"
    doctor = [*DOCTOR, "--python", other_python, "--budget", "60", "-o", str(file)]
    with torchrun(*ON_THIS_MACHINE, *doctor) as launcher:
        three_met_and_one_hangs(launcher)[2].kill()
        # torchrun asks all others to end.
        report = written(file, BEYOND_S)
    killed, hangs = report["missing"]
    assert killed["name"] == f"rank 2 on {socket.gethostname()}"
    assert killed["why"].startswith("its process ended at second ")
    assert hangs == {"name": "rank 3", "why": "never came"}
    assert [node["name"] for node in report["nodes"]] == [socket.gethostname()]


def test_a_rank_that_hangs_is_named_and_holds_nobody(other_python: str, tmp_path: Path) -> None:
    file = tmp_path / "fleet.json"
    doctor = [*DOCTOR, "--python", other_python, "--budget", "60", "-o", str(file)]
    with torchrun(*ON_THIS_MACHINE, *doctor) as launcher:
        found = three_met_and_one_hangs(launcher)
        found[1].send_signal(signal.SIGSTOP)
        time.sleep(SILENT_BEATS * BEAT_S + 1)
        # The last of them comes late: nobody but the one that hangs is missing then.
        found[3].send_signal(signal.SIGCONT)
        report = written(file, 30)
        found[0].wait(5)
    (hangs,) = report["missing"]
    assert hangs["name"] == f"rank 1 on {socket.gethostname()}"
    assert hangs["why"].startswith("does not answer, last heard of at second ")


def test_a_rank_that_never_comes_is_waited_for_no_longer_than_the_budget_allows(other_python: str) -> None:
    began = time.monotonic()
    run = process(
        "fleet", "--json", "--python", other_python, "--budget", "5",
        RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()),
    )  # fmt: skip
    assert time.monotonic() - began < 5 + BEYOND_S
    report = json.loads(run.stdout)
    assert report["missing"] == [{"name": "rank 1", "why": "never came"}]
    assert len(report["nodes"]) == 1


def test_two_nodes_of_one_name_are_told_apart(other_python: str) -> None:
    plain = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, *DOCTOR, "--json", "--python", other_python, "--budget", "60"]
    first, second = (
        subprocess.Popen(
            command,
            env={**os.environ, **plain, "RANK": str(rank), "FP8DOCTOR_FLEET_NODE": "gpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    )
    report = json.loads(first.communicate(timeout=60)[0])
    assert [node["name"] for node in report["nodes"]] == ["gpu", "gpu#2"]
    assert second.communicate(timeout=10) == (b"", b"")
    assert second.returncode == 0


def test_without_rank_0_the_others_say_so_in_a_line_and_fail_no_launch(other_python: str) -> None:
    run = process(
        "fleet", "-o", "/no/such/folder/fleet.json", "--python", other_python, "--budget", "5",
        RANK="1", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()),
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, "")
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"fp8doctor: rank 1 on {socket.gethostname()}: torch's store at 127.0.0.1 port ")


def _can_make_networks() -> bool:
    """Whether this machine lets us make two networks and join them."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        return False
    name = f"fp8{uuid.uuid4().hex[:8]}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made


@pytest.fixture
def networks() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them: 10.77.0.1 and 10.77.0.2."""
    if not _can_make_networks():
        pytest.skip("needs root, and ip netns")
    mark = uuid.uuid4().hex[:6]
    names = (f"fp8a{mark}", f"fp8b{mark}")
    commands = [f"ip netns add {name}" for name in names]
    commands.append(f"ip -n {names[0]} link add end0 type veth peer name end0 netns {names[1]}")
    for number, name in enumerate(names, 1):
        commands += [
            f"ip -n {name} addr add 10.77.0.{number}/24 dev end0",
            f"ip -n {name} link set lo up",
            f"ip -n {name} link set end0 up",
        ]
    try:
        for command in commands:
            subprocess.run(command.split(), check=True, capture_output=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_two_nodes_meet_over_a_network(networks: tuple[str, str], other_python: str, tmp_path: Path) -> None:
    file, folder = tmp_path / "fleet.json", tmp_path / "reports"
    launch = ["--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-id", "two"]
    launch += ["--rdzv-endpoint", "node-a:29400"]
    doctor = [*DOCTOR, "--python", other_python, "--budget", "20", "-o", str(file), "--reports", str(folder)]
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n10.77.0.1 node-a\n10.77.0.2 node-b\n")
    with contextlib.ExitStack() as nodes:
        for network, name in zip(networks, ("node-a", "node-b"), strict=True):
            # Each with a host name of its own, as nodes have; `ip netns exec` gives it a mount namespace.
            become = f'hostname {name}; mount --bind {hosts} /etc/hosts; exec "$@"'
            before = ("ip", "netns", "exec", network, "unshare", "--uts", "sh", "-c", become, "-")
            nodes.enter_context(torchrun(*launch, *doctor, before=before))
        report = written(file, 60)
    assert {node["name"] for node in report["nodes"]} == {"node-a", "node-b"}
    assert report["missing"] == []
    assert sorted(one.name for one in folder.iterdir()) == ["node-a.json", "node-b.json"]
    again = json.loads(process("fleet", str(folder), "--json").stdout)
    assert [node["name"] for node in again["nodes"]] == ["node-a", "node-b"]


def test_without_torch_it_says_in_a_line_what_is_missing(other_python: str, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    venv.create(bare, symlinks=True, with_pip=False)
    # All that the doctor needs itself, and nothing that it examines.
    site = tmp_path / "site"
    site.mkdir()
    for name in ("click", "msgspec", "packaging", "psutil", "pynvml", "rich", "fp8doctor", "tomli"):
        if (found := importlib.util.find_spec(name)) is not None and found.origin is not None:
            origin = Path(found.origin)
            origin = origin.parent if origin.name == "__init__.py" else origin
            (site / origin.name).symlink_to(origin)
    run = subprocess.run(
        [bare / "bin" / "python", *DOCTOR, "--json", "--python", other_python],
        env={**os.environ, "PYTHONPATH": str(site), "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        | {"MASTER_PORT": str(free_port())},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"fp8doctor: the nodes reach one another through torch, and {other_python} has none\n"
