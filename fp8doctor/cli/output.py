"""Where a report goes, in which form, and which exit status follows from it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fp8doctor.cli import FAILED, selecting, settings
from fp8doctor.cli.options import FORMS, STDOUT, refuse_inputs

if TYPE_CHECKING:
    from rich.console import Console

    from fp8doctor.differing import Difference
    from fp8doctor.fleet.record import FleetReport
    from fp8doctor.judging.report import Report
    from fp8doctor.judging.silencing import Selection

# The width of a report in a text file.
COLUMNS = 100
_RANKS = {"error": ("error",), "warning": ("error", "warning"), "never": ()}


@dataclass(frozen=True)
class Outputs:
    """The forms and places that a person asked for, and what is told there."""

    # ("json", "-"): a form, and a file or standard output.
    places: tuple[tuple[str, str], ...]
    redact: bool
    verbose: bool
    selection: Selection
    fail_on: str = "never"
    # The command's own level where a file's stands in for it, and that file.
    instead_of: tuple[str, str] | None = None

    @classmethod
    def of(cls, chosen: dict[str, Any], *inputs: str) -> Outputs:
        """The outputs that a command's options name; none of them is one of the command's `inputs`.

        Raises:
            click.ClickException: for outputs that do not go together, and for settings of this folder that are none.
        """
        refuse_inputs(chosen, inputs)
        if chosen["json_to"] == chosen["markdown_to"] == STDOUT:
            raise click.UsageError("--json and --markdown cannot both go to standard output; give one a FILE.")
        named = [(form, chosen.get(f"{form}_to")) for form in ("json", "markdown", "html")]
        places = [(form, place) for form, place in named if place is not None]
        places += [(FORMS[Path(file).suffix.lower()], file) for file in chosen["files"]]
        if (twice := _same_file([place for _, place in places])) is not None:
            raise click.UsageError(f"{twice} is named twice: each form of the report needs a file of its own.")
        asked = settings.find()
        own = chosen["fail_on"]
        fail_on = _fail_on(own, asked.fail_on)
        return cls(
            tuple(places),
            not chosen["no_redact"],
            chosen["verbose"],
            selecting.selection(chosen["selected"], chosen["ignored"], asked),
            fail_on,
            (own, asked.name) if fail_on != own else None,
        )

    def deliver(self, report: Report, whole: bool = True) -> int:
        """Write the report everywhere, and return the exit status."""
        from fp8doctor import api
        from fp8doctor.reporting import terminal

        def show(console: Console) -> None:
            terminal.render(
                api.terminal_view(report, verbose=self.verbose, redact=self.redact), console, verbose=self.verbose
            )

        self.save(report, show)
        if not whole:
            return FAILED
        return self._status(report)

    def _status(self, report: Report) -> int:
        """The exit status by the findings; where a file makes it another, that is said."""
        status = _fails(report, self.fail_on)
        if self.instead_of is not None:
            level, file = self.instead_of
            if (without := _fails(report, level)) != status:
                why = f'by fail-on = "{self.fail_on}" in {file}'
                click.echo(f"fp8doctor: exit status {status:d} and not {without:d}, {why}", err=True)
        return int(status)

    def save(self, found: Report | Difference | FleetReport, show: Callable[[Console], None]) -> None:
        """Write a report or a difference everywhere; `show` shows it on a console."""
        for form, place in self.places:
            write(place, _plain(show) if form == "text" else getattr(found, f"to_{form}")(redact=self.redact))
        if not any(place == STDOUT for _, place in self.places):
            with reader_may_leave():
                show(console())


def _fails(report: Report, level: str) -> bool:
    """Whether a finding is as grave as this level."""
    return any(finding.severity.value in _RANKS[level] for finding in report.findings)


def _fail_on(asked: str, by_file: str | None) -> str:
    """The level: a file's stands in for the command's own, unless that is to fail never (`demo`, `diff`)."""
    context = click.get_current_context()
    by_default = context.get_parameter_source("fail_on") is ParameterSource.DEFAULT
    return by_file if by_file is not None and by_default and asked != "never" else asked


def _same_file(places: list[str]) -> str | None:
    """The first file that was named before, whether it is there yet or not."""
    files = [(place, Path(place).resolve()) for place in places if place != STDOUT]
    paths = [path for _, path in files]
    return next((place for number, (place, path) in enumerate(files) if path in paths[:number]), None)


def _plain(show: Callable[[Console], None]) -> str:
    """What `show` shows, as text without colours."""
    from rich.console import Console

    stream = io.StringIO()
    show(Console(file=stream, width=COLUMNS, color_system=None, highlight=False, markup=False, emoji=False))
    return stream.getvalue()


def write(place: str, text: str) -> None:
    """Write to a file, or to standard output for "-"."""
    if place == STDOUT:
        with reader_may_leave():
            sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        return
    try:
        Path(place).write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {place}: {error.strerror or error}") from None
    click.echo(f"fp8doctor: wrote {place}", err=True)


def console() -> Console:
    """Standard output for text that comes from anywhere: nothing in it is markup, and what cannot be shown is "?"."""
    from rich.console import Console

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")

    class OurConsole(Console):
        def on_broken_pipe(self) -> None:
            # Rich would end the process with status 1, which means findings.
            raise BrokenPipeError

    return OurConsole(highlight=False, markup=False, emoji=False)


class reader_may_leave:  # noqa: N801
    """Writing to a pipe whose reader has seen enough (`| head`) is no failure, and changes no exit status."""

    def __enter__(self) -> None:
        sys.stdout.flush()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        try:
            if kind is None:
                sys.stdout.flush()
        except BrokenPipeError:
            kind = BrokenPipeError
        if kind is None or not issubclass(kind, BrokenPipeError):
            return False
        # The interpreter flushes once more at its end, and must find no closed pipe then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
