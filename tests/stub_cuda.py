"""A torch whose `cuda` is a stub, so that the timing of a GPU is seen on a machine without one.

All else is torch's own, on the CPU. Its device finishes at once; whether a queue was held, what an event pair takes
and what the replay of a graph does to its output are the test's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

L2_BYTES = 4096


class StubTorch:
    """Torch, and in the place of `cuda` what is written here."""

    def __init__(self, torch: Any, *, launches_show: bool = False, pair_ms: float = 1.0) -> None:
        self._torch = torch
        self.launches_show = launches_show
        self.pair_ms = pair_ms
        self.queues = 0
        self.on_replay: Callable[[], Any] = lambda: None
        self.capture_error: str | None = None
        self.cuda = SimpleNamespace(
            Event=lambda enable_timing=False: _Event(self),
            CUDAGraph=lambda: SimpleNamespace(replay=lambda: self.on_replay()),
            OutOfMemoryError=torch.cuda.OutOfMemoryError,
            empty_cache=lambda: None,
            get_device_properties=lambda device: SimpleNamespace(L2_cache_size=L2_BYTES),
            graph=self._graph,
            synchronize=lambda device=None: None,
            _sleep=self._spin,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    def _spin(self, cycles: int) -> None:
        self.queues += 1

    @contextmanager
    def _graph(self, graph: Any) -> Iterator[None]:
        if self.capture_error:
            raise RuntimeError(self.capture_error)
        yield


class _Event:
    def __init__(self, torch: StubTorch) -> None:
        self.torch = torch

    def record(self) -> None:
        """Nothing runs that could be marked."""

    def query(self) -> bool:
        """Whether the spinning kernel was over before the queue stood."""
        return self.torch.launches_show

    def elapsed_time(self, other: _Event) -> float:
        """Milliseconds from this event to the other."""
        return self.torch.pair_ms
