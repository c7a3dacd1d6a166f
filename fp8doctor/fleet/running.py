"""What does this rank do?

The first rank of each node examines it, with all its GPUs. The others say that they are there, so that one that dies
or hangs is told. Rank 0 gathers what they say until its deadline, and no longer.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fp8doctor.fleet.launched import Launched
from fp8doctor.fleet.meeting import Meeting, unpacked
from fp8doctor.fleet.record import Missing

# How long the reports of other nodes are waited for beyond the budget unless a person says it, and when the launcher
# has asked all to end.
WAIT_S = 6.0
HURRY_S = 3.0
# Set by torch's launchers for one rank; a probe that starts ranks of its own must not take them for its own.
OF_ONE_RANK = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_ERROR_FILE",
)  # fmt: skip


@dataclass(frozen=True)
class Examined:
    """The report of this node as JSON, and whether it was ended before its time."""

    report: bytes
    interrupted: bool = False


@dataclass(frozen=True)
class Gathered:
    """The reports of all nodes that answered, by their names, and who did not."""

    reports: dict[str, bytes]
    missing: tuple[Missing, ...] = ()


class FollowerError(Exception):
    """A rank other than 0 could not do its part; the text says why in one line."""


@contextlib.contextmanager
def ended_once() -> Iterator[None]:
    """Have the first SIGTERM or SIGINT end the work with what is known; later ones must not cost the report."""

    def interrupt(*_: object) -> None:
        _ignore_the_end()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_the_end() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def lead(launched: Launched, python: str, seconds: float, examine: Callable[[], Examined]) -> Gathered:
    """Examine this node, and gather the reports of the others: what rank 0 does.

    Args:
        launched: which rank of which launch this is.
        python: who speaks to torch's store.
        seconds: how long the other nodes may take, counted from now.
        examine: examines this node; it bears being interrupted.

    Raises:
        fp8doctor.fleet.meeting.NoTorchError: if that Python has no torch.
    """
    deadline = time.monotonic() + seconds
    with Meeting(launched, python, seconds) as meeting:
        own: Examined | None = None
        try:
            own = examine()
            meeting.wait(min(deadline, time.monotonic() + HURRY_S) if own.interrupted else deadline)
        except KeyboardInterrupt:
            with contextlib.suppress(KeyboardInterrupt):
                meeting.wait(time.monotonic() + HURRY_S)
        _ignore_the_end()
        return _gathered(meeting, own)


def _gathered(meeting: Meeting, own: Examined | None) -> Gathered:
    reports: dict[str, bytes] = {}
    missing = meeting.missing()
    if own is not None:
        reports[meeting.launched.name] = own.report
    else:
        missing.insert(0, Missing(f"rank 0 on {meeting.launched.name}", "it was interrupted"))
    for rank, heard in sorted(meeting.heard.items()):
        if heard.report is None:
            continue
        if (report := unpacked(heard.report)) is None:
            missing.append(Missing(f"rank {rank} on {heard.name}", "its report came damaged"))
        else:
            reports[_another(heard.name, reports)] = report
    return Gathered(reports, tuple(missing))


def _another(name: str, taken: dict[str, bytes]) -> str:
    """The name, told from that of another node that is called the same."""
    number = 2
    found = name
    while found in taken:
        found, number = f"{name}#{number}", number + 1
    return found


def follow(launched: Launched, python: str, seconds: float, examine: Callable[[], Examined]) -> None:
    """Do what a rank other than 0 does: examine its node if it is the first there, and be heard of; as `lead`.

    Raises:
        FollowerError: if nobody hears it, or this node cannot be examined.
    """
    deadline = time.monotonic() + seconds
    with Meeting(launched, python, seconds) as meeting, contextlib.suppress(KeyboardInterrupt):
        if launched.local_rank == 0:
            try:
                own = examine()
            except Exception as error:
                why = f"it could not be examined: {error}"
                meeting.say_failed(why)
                raise FollowerError(why) from error
            if meeting.failure is not None:
                raise FollowerError(meeting.failure)
            meeting.deliver(own.report)
            deadline = min(deadline, time.monotonic() + HURRY_S) if own.interrupted else deadline
        meeting.over.wait(max(0.0, deadline - time.monotonic()))
        if not meeting.met:
            raise FollowerError(meeting.failure or f"{meeting.store} was not reached")
