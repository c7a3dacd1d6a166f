"""How does a rank speak to the others? Run as a script, in a Python that has torch: through torch.distributed's store.

It is a child of its rank, for three reasons. torch may be installed in the examined environment alone. Its import may
crash or hang, which then costs the messages, and not the report. And what outlives a rank can say that it has ended.

Standard input brings a line of JSON that says where the store is, then messages to be sent; standard output takes what
was heard. Only the standard library and torch are imported.
"""

import sys

# The script's folder would shadow modules of theirs.
sys.path[:] = [entry for entry in sys.path if entry and entry != __file__.rpartition("/")[0]]

import base64  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import queue  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from datetime import timedelta  # noqa: E402
from typing import Any  # noqa: E402

# How often news is looked for, and whether the run is over.
POLL_S = 0.25
OVER_POLL_S = 1.0
# torch's store takes some megabytes in a value (MAX_PAYLOAD_LEN in TCPStoreLibUvBackend.cpp: 8 MiB).
CHUNK_BYTES = 1 << 20
MOST_CHUNKS = 64
# Messages that are fetched at a time.
AT_ONCE = 256
# How long one attempt to reach the store takes, and what follows the end of the rank.
ATTEMPT_S = 5.0
LAST_WORDS_S = 5.0
# How long whoever holds the store stays, so that the others hear that the run is over.
STAY_S = 2 * OVER_POLL_S

Message = dict[str, Any]


def main() -> None:
    """Send and hear until the rank ends, or the run is over."""
    head = json.loads(sys.stdin.buffer.readline())
    if importlib.util.find_spec("torch") is None:
        tell({"failed": "torch is not installed", "no_torch": True})
        return
    tell({"started": True})
    inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(inbox,), daemon=True).start()
    try:
        store = _reach(head)
    except Exception as error:
        tell({"failed": _one_line(error)})
        return
    tell({"met": True})
    try:
        _Messenger(store, head["rank"]).run(inbox)
    except Exception as error:  # the store is gone, with whoever held it
        tell({"lost": _one_line(error)})
    if head["holds_store"]:
        time.sleep(STAY_S)


def tell(message: Message) -> None:
    """Write a line for the rank."""
    try:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    except OSError:  # it has ended
        return


def _listen(inbox: "queue.SimpleQueue[Message | None]") -> None:
    """Hear the rank; its end is None."""
    for line in sys.stdin.buffer:
        inbox.put(json.loads(line))
    inbox.put(None)
    # The last words may hang in the store, or its address may never have answered.
    time.sleep(LAST_WORDS_S)
    os._exit(0)


def _reach(head: Message) -> Any:
    """The store, begun here or reached within the time given: its host may start later than this one."""
    from torch.distributed import PrefixStore, TCPStore

    until = time.monotonic() + head["seconds"]
    holds = head["holds_store"]
    while True:
        try:
            # The one who holds it need not know its own name; the store listens on all interfaces.
            store = TCPStore(
                "localhost" if holds else head["address"],
                head["port"],
                is_master=holds,
                timeout=timedelta(seconds=ATTEMPT_S),
                wait_for_workers=False,
            )
        except (RuntimeError, ValueError):
            if holds or time.monotonic() > until:
                raise
            time.sleep(POLL_S)
        else:
            return PrefixStore(f"fp8doctor/{head['run']}", store)


class _Messenger:
    """Messages are numbered by a counter in the store; rank 0 reads them in that order, and each one once."""

    def __init__(self, store: Any, rank: int) -> None:
        self._store = store
        self._rank = rank
        self._read = 0
        # Counted, and not yet written when they were looked for.
        self._late: list[int] = []
        self._next_look = 0.0

    def run(self, inbox: "queue.SimpleQueue[Message | None]") -> None:
        """Go on until the rank ends or the run is over."""
        while True:
            try:
                message = inbox.get(timeout=POLL_S)
            except queue.Empty:
                message = {}
            if message is None:
                if self._rank != 0:
                    self._post({"ended": True})
                return
            if "report" in message:
                self._deliver(base64.b64decode(message["report"]))
            elif message.get("over"):
                self._store.set("over", "1")
                return
            elif message:
                self._post(message)
            if message.get("left"):
                return
            if self._rank == 0:
                self._fetch()
            elif self._is_over():
                tell({"over": True})
                return

    def _post(self, message: Message) -> None:
        number = self._store.add("count", 1)
        self._store.set(f"message/{number}", json.dumps({"rank": self._rank, **message}))

    def _deliver(self, data: bytes) -> None:
        chunks = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
        for place, chunk in enumerate(chunks):
            self._store.set(f"report/{self._rank}/{place}", chunk)
        self._post({"chunks": len(chunks)})

    def _is_over(self) -> bool:
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + OVER_POLL_S
        return bool(self._store.check(["over"]))

    def _fetch(self) -> None:
        """Tell the rank what is new."""
        last = self._store.add("count", 0)
        numbers = [*self._late, *range(self._read + 1, last + 1)]
        self._read, self._late = last, []
        for start in range(0, len(numbers), AT_ONCE):
            some = numbers[start : start + AT_ONCE]
            there = some if self._has(some) else [one for one in some if self._has([one])]
            self._late += [one for one in some if one not in there]
            if there:
                for number, value in zip(there, self._store.multi_get(_keys(there)), strict=True):
                    self._store.delete_key(f"message/{number}")
                    self._hear(value)

    def _has(self, numbers: list[int]) -> bool:
        return bool(self._store.check(_keys(numbers)))

    def _hear(self, value: bytes) -> None:
        try:
            message = json.loads(value)
            rank, chunks = int(message["rank"]), int(message.get("chunks", 0))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return  # nothing that a rank of ours wrote
        if 0 < chunks <= MOST_CHUNKS:
            keys = [f"report/{rank}/{place}" for place in range(chunks)]
            if self._store.check(keys):
                message["report"] = base64.b64encode(b"".join(self._store.multi_get(keys))).decode()
            for key in keys:
                self._store.delete_key(key)
        tell({"heard": message})


def _keys(numbers: list[int]) -> list[str]:
    return [f"message/{number}" for number in numbers]


def _one_line(error: BaseException) -> str:
    # torch appends where in its C++ it was raised.
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:300]}"


if __name__ == "__main__":
    main()
    # The thread that listens may be in the middle of a line: an orderly end would wait for it, or abort.
    os._exit(0)
