"""What is going on while the doctor works: one line on stderr, gone when it is done."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fp8doctor.reporting.text import can_show, one_line, to_ascii

BAR_COLUMNS = 24


class Event(Protocol):
    """What is told of a probe: that it started or ended, and what it does in words."""

    @property
    def kind(self) -> str:
        """Either "started" or "ended"."""

    @property
    def key(self) -> str:
        """Which probe."""

    @property
    def title(self) -> str:
        """What it does."""


class Progress:
    """A bar with what runs now and the time left; silent where stderr is no terminal."""

    def __init__(self, budget_s: float, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._budget_s = budget_s
        self._started = time.monotonic()
        self._running: dict[str, str] = {}
        self._lock = threading.Lock()
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self._draw, console=self._console, refresh_per_second=8, transient=True,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def observe(self, event: Event) -> None:
        """Take notice of an event; called from any thread."""
        with self._lock:
            if event.kind == "started":
                self._running[event.key] = event.title
            else:
                self._running.pop(event.key, None)

    def _draw(self) -> RenderableType:
        with self._lock:
            titles = [one_line(title) for title in self._running.values()]
        passed_s = time.monotonic() - self._started
        left_s = max(0.0, self._budget_s - passed_s)
        # What started last is what the eye wants; the rest is counted.
        now = titles[-1] if titles else "Judging"
        more = f" (+{len(titles) - 1})" if len(titles) > 1 else ""
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(width=BAR_COLUMNS)
        line.add_column(width=11, no_wrap=True)
        line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        text = f"{now}{more}"
        ascii_only = not can_show(self._console.encoding)
        line.add_row(
            ProgressBar(total=self._budget_s, completed=min(passed_s, self._budget_s), width=BAR_COLUMNS),
            Text(f"{left_s:4.0f} s left", style="dim"),
            Text(to_ascii(text) if ascii_only else text),
        )
        return line
