"""`fp8doctor trace`: diagnose from a profiler's trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fp8doctor.cli import completing, options


@click.command("trace")
@click.argument("traces", nargs=-1, required=True, metavar="FILE...", shell_complete=completing.files)
@options.output
def command(traces: tuple[str, ...], **chosen: Any) -> int:
    """Say where a step's time went, by a profiler's trace in FILE.

    FILE is what `torch.profiler` exports (JSON, gzipped or not), or an SQLite export of Nsight Systems
    (nsys export --type sqlite). Several FILEs are the ranks of one run.
    """
    from fp8doctor import api
    from fp8doctor.cli.meant import meant
    from fp8doctor.cli.output import Outputs
    from fp8doctor.reading.trace import NotATraceError

    outputs = Outputs.of(chosen, *traces)
    if options.STDOUT in traces:
        raise click.UsageError("A trace is read from a file, not from standard input.")
    if twice := options.named_twice(traces):
        raise click.UsageError(f"{twice} is named twice: each FILE is the trace of another rank.")
    try:
        return outputs.deliver(api.trace(*map(Path, traces), selection=outputs.selection))
    except NotATraceError as error:
        hints = (meant(file, "trace") for file in traces)
        raise click.ClickException(f"{error}{next(filter(None, hints), '')}") from None
