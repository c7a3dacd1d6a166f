"""`fp8doctor trace`: diagnose from a profiler's trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fp8doctor.cli import options


@click.command("trace")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@options.output
def command(files: tuple[str, ...], **chosen: Any) -> int:
    """Say where a step's time went, by a profiler's trace in FILE.

    FILE is what `torch.profiler` exports (JSON, gzipped or not), or an SQLite export of Nsight Systems
    (nsys export --type sqlite). Several FILEs are the ranks of one run.
    """
    from fp8doctor import api
    from fp8doctor.cli.meant import meant
    from fp8doctor.cli.output import Outputs
    from fp8doctor.reading.trace import NotATraceError

    outputs = Outputs.of(chosen, *files)
    if options.STDOUT in files:
        raise click.UsageError("A trace is read from a file, not from standard input.")
    if twice := options.named_twice(files):
        raise click.UsageError(f"{twice} is named twice: each FILE is the trace of another rank.")
    try:
        return outputs.deliver(api.trace(*map(Path, files)))
    except NotATraceError as error:
        hints = (meant(file, "trace") for file in files)
        raise click.ClickException(f"{error}{next(filter(None, hints), '')}") from None
