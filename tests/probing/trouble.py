"""Probes that end in every way a child can end. Imported in children by its file, as a plug-in is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fp8doctor.model import Facts, Request
from fp8doctor.registry import probe


@dataclass(frozen=True)
class Trouble(Facts, key="trouble"):
    number: float | None = None
    words: tuple[str, ...] | None = None
    table: dict[str, float | None] | None = None


def returns() -> Any:
    return Trouble(number=1.5, words=("a", "b"))


def raises() -> Any:
    raise ValueError("the driver said no")


def raises_something_unprintable() -> Any:
    class Silent(BaseException):
        def __str__(self) -> str:
            raise RuntimeError("no text either")

    raise Silent


def raises_what_is_no_utf8() -> Any:
    raise OSError(os.fsdecode(b"/mnt/\xff/libcudnn.so"))


def exits() -> Any:
    sys.exit(5)


def exits_at_once() -> Any:
    os._exit(0)


def aborts() -> Any:
    os.abort()


def segfaults() -> Any:
    import ctypes

    print("about to read address 8", file=sys.stderr, flush=True)
    ctypes.string_at(8)


def is_killed() -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def hangs() -> Any:
    time.sleep(600)


def hangs_ignoring_signals() -> Any:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(600)


def leaves_grandchildren_behind() -> Any:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
    return Trouble(number=sleeper.pid)


def leaves_one_in_a_group_of_its_own() -> Any:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print(f"pid {sleeper.pid}", flush=True)
    time.sleep(600)


def leaves_one_that_nobody_can_find() -> Any:
    daemon = os.fork()
    if daemon == 0:  # a session of its own, and its parent is gone
        os.setsid()
        time.sleep(60)
        os._exit(0)
    time.sleep(0.2)
    return Trouble(number=daemon)


def prints_a_hundred_megabytes() -> Any:
    for _ in range(100):
        sys.stdout.write("x" * 999_999 + "\n")
    print("the last line")
    return Trouble(number=1.0)


def prints_what_is_no_text() -> Any:
    os.write(1, bytes(range(256)))
    return Trouble(number=1.0)


def closes_its_output() -> Any:
    sys.stdout.close()
    sys.stderr.close()
    raise ValueError("said into nothing")


def reads_its_input() -> Any:
    return Trouble(words=(sys.stdin.read(),))


def writes_into(*lines: bytes) -> Callable[[], Any]:
    def write() -> Any:
        for line in lines:
            os.write(channel(), line)
        return Trouble(number=1.0)

    return write


def writes_a_record_too_long() -> Any:
    with os.fdopen(os.dup(channel()), "wb") as stream:
        stream.write(b'{"facts": {"number": 7}}\n')
        for _ in range(40):
            stream.write(b"y" * (1 << 20))
    return Trouble(number=1.0)


def gives_infinity() -> Any:
    return Trouble(number=float("inf"), table={"a": float("nan"), "b": 2.0})


def gives_what_is_no_utf8() -> Any:
    return Trouble(words=(os.fsdecode(b"/mnt/\xff"), "ü"))


def gives_the_wrong_type() -> Any:
    return Trouble(number="fast")  # type: ignore[arg-type]


def gives_what_is_no_json() -> Any:
    return Trouble(words=(object(),))  # type: ignore[arg-type]


def gives_something_else() -> Any:
    return {"number": 1.0}


def gives_nothing() -> Any:
    return None


def lists_its_path() -> Any:
    return Trouble(words=tuple(sys.path))


def imports_widely() -> Any:
    import json
    import statistics
    import wave

    found = {name: module.__file__ for name, module in sys.modules.items() if name.startswith("fp8doctor")}
    own = tuple(f"{name}={file}" for name, file in found.items())
    return Trouble(words=(str(wave.__file__), str(json.__file__), str(statistics.__file__), *own))


def looks_for_others() -> Any:
    import importlib.util

    wanted = ("psutil", "msgspec", "rich", "click", "pynvml", "pytest", "tests", "trouble", "fp8doctor")
    return Trouble(words=tuple(name for name in wanted if importlib.util.find_spec(name)))


def reached() -> None:
    """Tell the test that the point it waits for was reached, however slow this machine is."""
    if file := os.environ.get("REACHED"):
        Path(file).touch()


def channel() -> int:
    """The descriptor that the engine gave this child for its records: the last pipe that is open."""
    return max(int(entry.name) for entry in Path("/proc/self/fd").iterdir() if _is_pipe(entry))


def _is_pipe(entry: Path) -> bool:
    try:
        return int(entry.name) > 2 and str(entry.readlink()).startswith("pipe:")
    except OSError:
        return False


FAULTS: dict[str, Callable[[], Any]] = {
    **{name: value for name, value in list(globals().items()) if callable(value) and name[0].islower()},
    "garbage": writes_into(b"\x00\xff not json\n"),
    "no object": writes_into(b"[1, 2]\n"),
    "empty object": writes_into(b"{}\n"),
    "deep": writes_into(b"[" * 30_000 + b"\n"),
    "nan": writes_into(b'{"facts": {"number": NaN}}\n{"done": true}\n'),
    "1e999": writes_into(b'{"facts": {"number": 1e999}}\n{"done": true}\n'),
    "unknown field": writes_into(b'{"facts": {"nummer": 1}}\n{"done": true}\n'),
    "no text": writes_into(b'{"facts": {"words": ["\\ud800"]}}\n{"done": true}\n'),
    "facts of another kind": writes_into(b'{"facts": 17}\n{"done": true}\n'),
    "unknown message": writes_into(b'{"weather": "rain"}\n'),
}


@probe(runs_in="target", timeout_s=30)
def fail(request: Request) -> Trouble:
    """Failing as asked."""
    result: Trouble = FAULTS[request.workload or ""]()
    if request.workload in ("nan", "1e999", "unknown field", "no text", "facts of another kind"):
        os._exit(0)  # so that the record written by hand is the last
    return result


@dataclass(frozen=True)
class Growth(Facts, key="growth"):
    steps: tuple[str, ...] = ()
    attempting: str | None = None
    children: int | None = None
    seconds_left: float | None = None
    ended: tuple[str, ...] = ()


@probe(runs_in="target", timeout_s=30)
def grow(request: Request) -> Iterator[Growth]:
    """Growing step by step."""
    before = Growth(**request.so_far) if request.so_far else Growth()
    steps = list(before.steps)
    children = (before.children or 0) + 1
    ended = (*before.ended, *([request.so_far_ended] if request.so_far_ended else []))
    if before.attempting is not None:
        steps.append(f"{before.attempting} failed")

    def record(attempting: str | None) -> Growth:
        return Growth(tuple(steps), attempting, children, request.seconds_left, ended)

    plan = (request.workload or "").split()
    if plan == ["silent"]:
        return
    if plan == ["odd"]:
        yield "a word"  # type: ignore[misc]
    while len(steps) < len(plan):
        step = plan[len(steps)]
        if step != "unannounced":
            yield record(step)
        if step == "crash":
            os.abort()
        if step == "raise":
            raise ValueError("step failed")
        if step == "wait":
            time.sleep(1.2)
            os.abort()
        if step == "hang":
            reached()
            time.sleep(600)
        if step == "unannounced":
            os.abort()
        steps.append(f"{step} done")
    yield record(None)


@dataclass(frozen=True)
class Samples(Facts, key="samples"):
    count: int | None = None


@probe(runs_in="target", timeout_s=30, watches=True)
def watch(request: Request) -> Iterator[Samples]:
    """Sampling until it is stopped."""
    if request.workload == "slow":
        time.sleep(600)
    for count in range(1, 10_000):
        yield Samples(count)
        if count == 6:
            reached()
        time.sleep(0.01)
        if request.workload == "crash":
            os.abort()


def get_ready() -> None:
    """Do what the environment asks for, before the probe's turn has come."""
    fault = os.environ.get("WHILE_PREPARING")
    if fault == "reads":
        sys.stdin.read()
        subprocess.run(["cat"], check=True)
    elif fault:
        FAULTS[fault]()
    print("ready", flush=True)


@dataclass(frozen=True)
class Ready(Facts, key="ready"):
    pid: int | None = None


@probe(runs_in="target", timeout_s=30, prepare=get_ready)
def be_ready(request: Request) -> Ready:
    """Being ready early."""
    return Ready(os.getpid())
