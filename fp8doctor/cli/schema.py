"""`fp8doctor schema`: the JSON Schema of the report, of a difference, or of a report of many nodes."""

from __future__ import annotations

import click

from fp8doctor.cli import options


@click.command("schema")
@click.argument("of", type=click.Choice(["report", "difference", "fleet"]), default="report")
def command(of: str) -> int:
    """Print the JSON Schema of the report, or of what `diff --json` or `fleet --json` writes."""
    from importlib.resources import files

    from fp8doctor.cli.output import write

    write(options.STDOUT, files("fp8doctor").joinpath("schema").joinpath(f"{of}-1.0.json").read_text(encoding="utf-8"))
    return 0
