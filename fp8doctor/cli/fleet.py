"""`fp8doctor fleet`: many GPUs and many nodes, and which of them is the odd one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fp8doctor.cli import options

if TYPE_CHECKING:
    from fp8doctor.cli.output import Outputs
    from fp8doctor.fleet.record import FleetReport


@click.command("fleet")
@click.argument("reports", nargs=-1, metavar="[REPORT]...", type=click.Path(path_type=Path))
@partial(options.output, fail_on="never", html=True)
def command(reports: tuple[Path, ...], **chosen: Any) -> int:
    """Compare GPUs and nodes: what differs, which one is slower than its kind, which did not answer.

    REPORTs are files that nodes wrote (fp8doctor --json FILE), or folders of them.
    """
    from fp8doctor import api
    from fp8doctor.cli.output import Outputs

    outputs = Outputs.of(chosen, *map(str, reports))
    files = list(_files(reports))
    if not files:
        raise click.UsageError("Name the reports that the nodes wrote: fp8doctor fleet reports/*.json")
    return _deliver(api.merge(files), outputs)


def _files(reports: tuple[Path, ...]) -> list[Path]:
    """The files that were named, and those of the folders."""
    found: list[Path] = []
    for report in reports:
        if report.is_dir():
            inside = sorted(report.glob("*.json"))
            if not inside:
                raise click.ClickException(f"{report} holds no .json file")
            found += inside
        else:
            found.append(report)
    return found


def _deliver(found: FleetReport, outputs: Outputs) -> int:
    """Write the report everywhere, and return the exit status."""
    from fp8doctor import api
    from fp8doctor.model import Severity
    from fp8doctor.reporting.fleet import render

    view = api.fleet_view(found, redact=outputs.redact)
    outputs.save(found, lambda console: render(view, console, verbose=outputs.verbose))
    return int(outputs.fail_on != "never" and found.fails(Severity(outputs.fail_on)))
