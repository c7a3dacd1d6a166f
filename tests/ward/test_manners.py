"""The doctor's manners on a box that is not its own: what it writes, runs and reaches, seen by the kernel (strace)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ward.fault import Ground, has_real_torch

STRACE = shutil.which("strace")
CALLS = "trace=open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,link,linkat,symlink,"
CALLS += "symlinkat,truncate,chmod,fchmodat,chown,fchownat,execve,socket,connect,bind,listen,sendto,sendmsg"
WRITING = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")
# Where every program may write: terminals, pipes and what is no file.
NO_FILES = re.compile(r"^(/dev/(null|tty|shm/.*|urandom|pts/.*)|/proc/(self|\d+)/(oom_score_adj|task/\d+/comm))$")
# Python itself keeps what it compiled beside the modules that it imports, if nobody did so before.
BYTECODE = re.compile(r"/__pycache__(/[^/]+)?$")

# What trying a C compiler runs.
COMPILER = {"gcc", "cc", "clang", "cc1", "as", "collect2", "ld", "lto-wrapper"}


@dataclass(frozen=True)
class Seen:
    """What the kernel saw one call of the command do."""

    written: frozenset[str]
    run: tuple[str, ...]
    sockets: frozenset[str]
    reached: tuple[str, ...]


def watched(ground: Ground, *arguments: str) -> Seen:
    """Call the command under strace in a network namespace of its own, which has no network."""
    log = ground.folder / "strace.txt"
    command = [sys.executable, "-m", "fp8doctor", "--json", "--python", ground.python, *arguments]
    apart = ["unshare", "-n"] if _may_be_apart() else []
    done = subprocess.run(
        [str(STRACE), "-f", "-qq", "-s", "300", "-y", "-e", CALLS, "-o", str(log), *apart, *command],
        env=ground.environment,
        cwd=ground.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr[-2000:]
    assert json.loads(done.stdout)["probes"]["machine"]["outcome"] == "ok"
    return _read(log.read_text(errors="replace"))


def _may_be_apart() -> bool:
    return subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode == 0


def _read(log: str) -> Seen:
    written, run, sockets, reached = set(), [], set(), []
    for line in log.splitlines():
        call = re.match(r"\d+ +(\w+)\((.*)", line)
        if call is None or " = -1 " in line:
            continue
        name, rest = call[1], call[2]
        if name == "execve":
            run.append(rest.split('"')[1])
        elif name == "socket":
            sockets.add(rest.split(",")[0])
        elif name in ("connect", "bind", "listen", "sendto", "sendmsg"):
            if "AF_INET" in rest:
                reached.append(line[:200])
        elif name not in ("open", "openat") or WRITING.search(rest):
            written.update(_named(name, rest))
    return Seen(frozenset(written), tuple(run), frozenset(sockets), tuple(reached))


def _named(call: str, rest: str) -> list[str]:
    """The files that a call names, absolute; a folder that it is given as a descriptor is shown by strace -y."""
    opened = re.search(r" = \d+<(/[^>]*)>$", rest)
    if call in ("open", "openat", "creat") and opened:
        return [opened[1].removesuffix(" (deleted)").removesuffix("(deleted)")]
    folders = re.findall(r"<(/[^>]*)>", rest)
    names = re.findall(r'"((?:[^"\\]|\\.)*)"', rest)
    return [name if name.startswith("/") or not folders else f"{folders[0]}/{name}" for name in names]


def outside(seen: Seen, ground: Ground) -> list[str]:
    """The files written that lie neither in the temporary folder nor in the doctor's own cache folder."""
    allowed = (str(ground.folder / "tmp") + "/", str(ground.folder / "home" / ".cache" / "fp8doctor"))
    inside = (str(ground.folder / "tmp"), str(ground.folder / "home" / ".cache"))
    return sorted(
        file
        for file in seen.written
        if not file.startswith(allowed)
        and file not in inside
        and not NO_FILES.match(file)
        and not BYTECODE.search(file)
    )


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ground, Seen]:
    ground = Ground(tmp_path_factory.mktemp("manners") / "ground")
    return ground, watched(ground, "--quick")


@pytest.fixture(scope="module")
def with_torch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ground, Seen]:
    if not has_real_torch():
        pytest.skip("needs torch")
    ground = Ground(tmp_path_factory.mktemp("manners") / "ground")
    ground.real_torch()
    return ground, watched(ground)


pytestmark = pytest.mark.skipif(STRACE is None, reason="needs strace")


@pytest.mark.parametrize("box", ["without_torch", "with_torch"])
def test_it_writes_into_the_temporary_and_its_own_cache_folder_alone(box: str, request: pytest.FixtureRequest) -> None:
    ground, seen = request.getfixturevalue(box)
    assert outside(seen, ground) == []


@pytest.mark.parametrize("box", ["without_torch", "with_torch"])
def test_it_reaches_no_network(box: str, request: pytest.FixtureRequest) -> None:
    _, seen = request.getfixturevalue(box)
    assert seen.reached == ()


@pytest.mark.parametrize("box", ["without_torch", "with_torch"])
def test_it_runs_interpreters_and_the_compiler_alone(box: str, request: pytest.FixtureRequest) -> None:
    ground, seen = request.getfixturevalue(box)
    own = {ground.python, sys.executable, str(Path(sys.executable).resolve())}
    others = {Path(program).name for program in seen.run if program not in own}
    assert others <= COMPILER | {"unshare"}
