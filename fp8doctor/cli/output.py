"""Where a report goes, in which form, and which exit status follows from it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fp8doctor.cli import FAILED
from fp8doctor.cli.options import STDOUT, refuse_inputs

if TYPE_CHECKING:
    from rich.console import Console

    from fp8doctor.judging.report import Report

_RANKS = {"error": ("error",), "warning": ("error", "warning"), "never": ()}


@dataclass(frozen=True)
class Outputs:
    """The forms and places that a person asked for."""

    json_to: str | None
    markdown_to: str | None
    redact: bool
    verbose: bool
    fail_on: str = "never"

    @classmethod
    def of(cls, chosen: dict[str, Any], *inputs: str) -> Outputs:
        """The outputs that a command's options name; none of them is one of the command's `inputs`."""
        refuse_inputs(chosen, inputs)
        if chosen["json_to"] == chosen["markdown_to"] == STDOUT:
            raise click.UsageError("--json and --markdown cannot both go to standard output; give one a FILE.")
        return cls(
            chosen["json_to"], chosen["markdown_to"], not chosen["no_redact"], chosen["verbose"], chosen["fail_on"]
        )

    def deliver(self, report: Report, whole: bool = True) -> int:
        """Write the report everywhere, and return the exit status."""
        if self.json_to is not None:
            write(self.json_to, report.to_json(redact=self.redact))
        if self.markdown_to is not None:
            write(self.markdown_to, report.to_markdown(redact=self.redact))
        if STDOUT not in (self.json_to, self.markdown_to):
            self._show(report)
        if not whole:
            return FAILED
        return int(any(finding.severity.value in _RANKS[self.fail_on] for finding in report.findings))

    def _show(self, report: Report) -> None:
        from fp8doctor import api
        from fp8doctor.reporting import terminal

        with reader_may_leave():
            terminal.render(api.view(report, redact=self.redact, facts=False), console(), verbose=self.verbose)


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
