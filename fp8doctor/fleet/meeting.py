"""How do the ranks find one another, and who is missing?"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from fp8doctor.fleet.launched import Launched
from fp8doctor.fleet.record import Missing

MESSENGER_SCRIPT = Path(__file__).with_name("messenger.py")
# How often a rank says that it is there; with many of them more seldom: torch's store takes some thousand messages a
# second.
BEAT_S = 2.0
BEATS_A_SECOND = 1000.0
# A rank of which nothing was heard for so many beats has died, or hangs.
SILENT_BEATS = 3
# How long the messenger's interpreter may take to start, and how long one that is not needed any more is waited for.
START_S = 15.0
END_S = 1.0
# A message: a report of a megabyte has a tenth of it when compressed.
MOST_MESSAGE_BYTES = 64 << 20
MOST_REPORT_BYTES = 64 << 20
# Nodes of which nothing was heard that are named.
MOST_NAMED = 20


class NoTorchError(Exception):
    """The ranks cannot speak to one another: there is no torch."""


@dataclass
class Heard:
    """What was heard of another rank; seconds since this one began."""

    name: str = ""
    local_rank: int = 0
    last_s: float = 0.0
    # Its process has ended; and it took leave before, as one does that its launcher ends.
    ended: bool = False
    left: bool = False
    # Why it has nothing to say.
    failed: str | None = None
    # The report of its node, compressed.
    report: bytes | None = None


class Meeting:
    """One rank among the others, whom it reaches through a child of its own; leaving this context ends that.

    Attributes:
        store: where the ranks meet, in words.
        heard: what rank 0 knows of the others.
        failure: why nobody can be reached, or can no longer be.
        met: the store was reached.
        over: rank 0 has what it needs, or nobody can be reached any more.
    """

    def __init__(self, launched: Launched, python: str, seconds: float) -> None:
        self.launched = launched
        self.store = f"torch's store at {launched.address} port {launched.port}"
        self.heard: dict[int, Heard] = {}
        self.failure: str | None = None
        self.met = False
        self.over = threading.Event()
        self._began = time.monotonic()
        self._beat_s = max(BEAT_S, launched.world / BEATS_A_SECOND)
        self._python = python
        self._seconds = seconds
        self._answered = threading.Event()
        self._closing = threading.Event()
        self._no_torch = False
        self._writing = threading.Lock()

    def __enter__(self) -> Meeting:
        """Begin to speak and to listen.

        Raises:
            NoTorchError: if the messenger's Python has no torch.
        """
        one = self.launched
        # Neither the signals of a launcher, which ends all ranks when one has died, nor a GPU are for the messenger.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        self._child = subprocess.Popen(
            [self._python, str(MESSENGER_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        self._send(
            {
                "rank": one.rank,
                "address": one.address,
                "port": one.port,
                "holds_store": one.holds_store,
                "run": one.run,
                "seconds": self._seconds,
            }
        )
        if not self._answered.wait(START_S):
            self.failure = f"{self._python} did not start within {START_S:.0f} s"
        if self._no_torch:
            raise NoTorchError(f"the nodes reach one another through torch, and {self._python} has none")
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take leave; rank 0 says that it is over, and who holds the store stays for a while, so that all hear it."""
        self._closing.set()
        last = {"over": True} if self.launched.rank == 0 else {"left": True}
        # Aside: a messenger that hangs reads nothing.
        threading.Thread(target=self._send, args=(last,), daemon=True).start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(END_S)

    def deliver(self, report: bytes) -> None:
        """Send the report of this node."""
        self._send({"report": base64.b64encode(zlib.compress(report, 6)).decode()})

    def say_failed(self, why: str) -> None:
        """Say why this node has no report."""
        self._send({"failed": why[:300]})

    def wait(self, deadline: float) -> None:
        """Wait until every other rank has said what it has to, or nothing more can come, or the deadline."""
        while time.monotonic() < deadline and self.failure is None:
            if self._is_complete():
                return
            time.sleep(0.1)

    def missing(self) -> list[Missing]:
        """The ranks that did not do their part, and why."""
        now = self._now()
        told = [
            Missing(f"rank {rank} on {heard.name}" if heard.name else f"rank {rank}", why)
            for rank, heard in sorted(self.heard.items())
            if (why := self._why(heard, now)) is not None
        ]
        never = [rank for rank in range(1, self.launched.world) if rank not in self.heard]
        why = f"never came{self._unheard_hosts()}" if self.failure is None else f"not heard of: {self.failure}"
        return told + [Missing(_ranks(some), why) for some in _runs(never, self.launched.local_world)]

    def _is_complete(self) -> bool:
        now = self._now()
        if len(self.heard) < self.launched.world - 1:
            return False
        return all(
            heard.local_rank != 0
            or heard.report is not None
            or heard.failed is not None
            or heard.ended
            or heard.left
            or self._is_silent(heard, now)
            for heard in list(self.heard.values())
        )

    def _is_silent(self, heard: Heard, now: float) -> bool:
        return now - heard.last_s > SILENT_BEATS * self._beat_s

    def _why(self, heard: Heard, now: float) -> str | None:
        """Why a rank that came is missing all the same; None if it is not."""
        if heard.local_rank == 0 and heard.report is not None:
            return None
        if heard.failed is not None:
            return heard.failed
        if heard.ended:
            return f"its process ended at second {heard.last_s:.0f}"
        if heard.left:
            return "it was ended before its report came" if heard.local_rank == 0 else None
        if self._is_silent(heard, now):
            return f"does not answer, last heard of at second {heard.last_s:.0f}"
        if heard.local_rank == 0:
            return f"did not finish within {now:.0f} s"
        return None

    def _unheard_hosts(self) -> str:
        """Which of the nodes that the launcher names nothing was heard of."""
        names = {self.launched.name, *(heard.name for heard in self.heard.values())}
        hosts = [host for host in self.launched.hosts if host not in names]
        if not hosts:
            return ""
        more = f" and {len(hosts) - MOST_NAMED} more" if len(hosts) > MOST_NAMED else ""
        return f"; nothing was heard of {', '.join(hosts[:MOST_NAMED])}{more}"

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _beat(self) -> None:
        """Say that this rank is there, and again and again that it still is."""
        one = self.launched
        self._send({"name": one.name, "local_rank": one.local_rank})
        while not self._closing.wait(self._beat_s):
            self._send({"beat": True})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._child.stdin is not None
        with self._writing, contextlib.suppress(OSError, ValueError):  # it has ended: that is heard elsewhere
            self._child.stdin.write(json.dumps(message).encode() + b"\n")
            self._child.stdin.flush()

    def _listen(self) -> None:
        assert self._child.stdout is not None
        for line in iter(lambda: self._child.stdout.readline(MOST_MESSAGE_BYTES), b""):  # type: ignore[union-attr]
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                self._take(json.loads(line))
            self._answered.set()
        status = self._child.wait()
        if not self.over.is_set() and self.failure is None and not self._closing.is_set():
            self.failure = f"what speaks to torch's store ended ({_ending(status)})"
        self._answered.set()
        self.over.set()

    def _take(self, message: dict[str, Any]) -> None:
        if "heard" in message:
            self._note(message["heard"])
        elif "failed" in message:
            self._no_torch = bool(message.get("no_torch"))
            self.failure = f"{self.store} was not reached ({message['failed']})"
        elif "lost" in message:
            self.failure = f"torch's store was lost at second {self._now():.0f}"
        elif "met" in message:
            self.met = True
        elif "over" in message:
            self.over.set()

    def _note(self, message: dict[str, Any]) -> None:
        rank = int(message["rank"])
        if not 0 < rank < self.launched.world:
            return
        heard = self.heard.setdefault(rank, Heard())
        heard.last_s = self._now()
        if "name" in message:
            heard.name, heard.local_rank = str(message["name"])[:100], int(message["local_rank"])
        heard.ended = heard.ended or bool(message.get("ended"))
        heard.left = heard.left or bool(message.get("left"))
        if "failed" in message:
            heard.failed = str(message["failed"])[:300]
        if "report" in message:
            heard.report = base64.b64decode(message["report"])


def unpacked(report: bytes) -> bytes | None:
    """The report as it was sent; None if it is damaged, or larger than any report."""
    try:
        unpacker = zlib.decompressobj()
        found = unpacker.decompress(report, MOST_REPORT_BYTES)
    except zlib.error:
        return None
    return found if unpacker.eof else None


def _runs(ranks: Sequence[int], block: int | None) -> Iterator[list[int]]:
    """Ranks that follow one another, at most those of one node together where it is known how many a node has."""
    some: list[int] = []
    for rank in ranks:
        if some and (rank != some[-1] + 1 or (block and rank % block == 0)):
            yield some
            some = []
        some.append(rank)
    if some:
        yield some


def _ranks(some: Sequence[int]) -> str:
    return f"rank {some[0]}" if len(some) == 1 else f"ranks {some[0]} to {some[-1]}"


def _ending(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def messenger_python(examined: str) -> str:
    """Which Python speaks to the store: the doctor's own if it has torch, else the examined one."""
    import importlib.util

    return sys.executable if sys.executable and importlib.util.find_spec("torch") is not None else examined
