"""`srun fp8doctor fleet` on a Slurm of two nodes that is started here; where its programs are not, this is skipped."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.test_meeting import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sinfo")
# Of Debian's packages the daemons lie in sbin.
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(shutil.which(one, path=SEARCHED) for one in PROGRAMS),
        reason="needs root, and the packages slurm-wlm and munge",
    ),
]
# Two nodes of this machine, each with a daemon of its own.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmUser=root
NodeName=gpu01 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=gpu02 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=all Nodes=ALL Default=YES State=UP OverSubscribe=FORCE
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment in which srun starts tasks on the nodes gpu01 and gpu02."""
    # A socket's path has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, contextlib.ExitStack() as daemons:
        folder = Path(name)
        for part in ("state", "gpu01", "gpu02"):
            (folder / part).mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        configuration = folder / "slurm.conf"
        ports = [free_port() for _ in range(3)]
        configuration.write_text(CONFIGURATION.format(host=socket.gethostname(), folder=folder, ports=ports))
        environment = {**os.environ, "PATH": SEARCHED, "SLURM_CONF": str(configuration), "MASTER_ADDR": "127.0.0.1"}
        files = [
            f"--{one}={folder}/munge.{one.split('-')[0]}" for one in ("socket", "pid-file", "log-file", "seed-file")
        ]
        for command in (
            ["munged", "--foreground", "--force", f"--key-file={key}", *files],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", "gpu01"],
            ["slurmd", "-D", "-N", "gpu02"],
        ):
            daemons.callback(_end, _start(command, environment))
            time.sleep(0.5)
        until = time.monotonic() + 20
        while _idle(environment) != 2:
            if time.monotonic() > until:
                pytest.skip("Slurm does not start here")
            time.sleep(0.2)
        yield environment


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        daemon.wait(5)
    daemon.kill()
    daemon.wait()


def _idle(environment: dict[str, str]) -> int:
    """How many nodes wait for work."""
    command = ["sinfo", "--noheader", "--Node", "--format", "%t"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.count("idle")


def srun(slurm: dict[str, str], python: str, *arguments: str) -> dict[str, Any]:
    """The report of `srun fp8doctor fleet` with two ranks on each of two nodes."""
    doctor = [sys.executable, "-m", "fp8doctor", "fleet", "--json", "--python", python, *arguments]
    command = ["srun", "--nodes", "2", "--ntasks", "4", "--overcommit", *doctor]
    run = subprocess.run(command, env=slurm, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)  # type: ignore[no-any-return]


def test_srun_examines_each_node_once(slurm: dict[str, str], other_python: str) -> None:
    report = srun(slurm, other_python, "--budget", "40")
    assert report["missing"] == []
    assert [node["name"] for node in report["nodes"]] == ["gpu01", "gpu02"]
