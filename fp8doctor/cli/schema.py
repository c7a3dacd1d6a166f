"""`fp8doctor schema`: the JSON Schema of the report."""

from __future__ import annotations

import click

from fp8doctor.cli import options


@click.command("schema")
def command() -> int:
    """Print the JSON Schema of the report."""
    from importlib.resources import files

    from fp8doctor.cli.output import write

    write(options.STDOUT, files("fp8doctor").joinpath("schema").joinpath("report-1.0.json").read_text(encoding="utf-8"))
    return 0
