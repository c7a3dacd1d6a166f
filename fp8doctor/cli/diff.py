"""`fp8doctor diff`: what changed between two reports."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fp8doctor.cli import completing, options

if TYPE_CHECKING:
    from fp8doctor.cli.output import Outputs
    from fp8doctor.differing import Difference
    from fp8doctor.judging.report import Report
    from fp8doctor.judging.silencing import Selection


@click.command("diff")
@click.argument("before", metavar="A", shell_complete=completing.boxes_and_files)
@click.argument("after", metavar="B", shell_complete=completing.boxes_and_files)
@partial(options.output, fail_on="never", html=False)
def command(before: str, after: str, **chosen: Any) -> int:
    """Say what changed from report A to report B, and which change may explain a slow-down.

    A and B are facts files, reports, folders that bench -o wrote, pasted texts or recorded boxes (demo --list); "-"
    reads one of them from standard input. With --fail-on the exit status is 1 if something is slower in B beyond the
    noise, or if such a finding is new there.
    """
    from fp8doctor import api
    from fp8doctor.cli.output import Outputs

    outputs = Outputs.of(chosen, before, after)
    if before == after == options.STDOUT:
        raise click.UsageError('A and B cannot both be "-".')
    names = (_name(before), _name(after))
    reports = (_read(before, outputs.selection), _read(after, outputs.selection))
    found = api.diff(*reports, names=names if names[0] != names[1] else (before, after))
    return _deliver(found, outputs)


def _deliver(found: Difference, outputs: Outputs) -> int:
    """Write the difference everywhere, and return the exit status."""
    from fp8doctor import api
    from fp8doctor.model import Severity
    from fp8doctor.reporting.difference import render

    view = api.difference_view(found, redact=outputs.redact)
    outputs.save(found, lambda console: render(view, console, verbose=outputs.verbose))
    return int(outputs.fail_on != "never" and found.fails(Severity(outputs.fail_on)))


def _name(source: str) -> str:
    """What a report is called: its file's name, or its folder's."""
    return "standard input" if source == options.STDOUT else Path(source).name or source


def _read(source: str, selection: Selection) -> Report:
    """The report that a path, a folder, a recorded box's name or "-" leads to.

    Raises:
        click.ClickException: if there is none, or nothing in it is known.
    """
    from fp8doctor import api, store
    from fp8doctor.cli.bench import REPORT
    from fp8doctor.cli.demo import recorded
    from fp8doctor.cli.meant import report_first

    place = Path(source)
    try:
        if source == options.STDOUT:
            return _judge(sys.stdin.buffer.read(store.MAX_FILE_BYTES + 1), selection)
        if (place / REPORT).is_file():
            place /= REPORT
        elif place.is_dir():
            raise click.ClickException(f"{source} has no {REPORT}; a folder that bench -o wrote has one")
        if not place.exists() and source in (boxes := recorded()):
            return api.diagnose(boxes[source], source="demo", selection=selection)
        with place.open("rb") as file:
            return _judge(file.read(store.MAX_FILE_BYTES + 1), selection)
    except OSError as error:
        raise click.ClickException(f"{source}: {error.strerror or error}") from None
    except (api.NothingRecognisedError, store.NotAFactsFileError) as error:
        raise click.ClickException(f"{source}: {error}{report_first(source)}") from None
    except ValueError as error:  # a NUL in the name
        raise click.ClickException(f"{source!r}: {error}") from None


def _judge(data: bytes, selection: Selection) -> Report:
    """Facts or a report as JSON, else a text."""
    from fp8doctor import api, store

    if len(data) > store.MAX_FILE_BYTES:
        raise store.NotAFactsFileError(f"larger than {store.MAX_FILE_BYTES >> 20} MiB")
    if data.lstrip()[:1] == b"{":
        return api.diagnose(data, selection=selection)
    return api.read(data, selection=selection)
