"""Progress: on a terminal one line that goes away, elsewhere silence; events may come from any thread."""

from __future__ import annotations

import io
import threading
import time

from rich.console import Console

from fp8doctor.probing.schedule import Event
from fp8doctor.reporting.progress import Progress


def console(stream: io.StringIO, *, terminal: bool) -> Console:
    return Console(file=stream, force_terminal=terminal, width=80, highlight=False, color_system=None)


def test_silent_where_nobody_looks() -> None:
    stream = io.StringIO()
    with Progress(60, console(stream, terminal=False)) as progress:
        progress.observe(Event("started", "a", "Calling it once"))
    assert stream.getvalue() == ""


def test_it_says_what_runs_and_how_long_it_may_take() -> None:
    stream = io.StringIO()
    with Progress(60, console(stream, terminal=True)) as progress:
        threads = [
            threading.Thread(target=progress.observe, args=(Event("started", str(i), f"Calling number {i}\x1b[31m"),))
            for i in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i in range(1, 8):
            progress.observe(Event("ended", str(i), "", "ok"))
        progress.observe(Event("ended", "never started", "", "skipped"))
        time.sleep(0.4)
    text = stream.getvalue()
    assert "Calling number 0" in text
    assert "60 s left" in text
    assert "\x1b[31m" not in text
