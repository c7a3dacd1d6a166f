"""`fp8doctor fleet`: many GPUs and many nodes, and which of them is the odd one."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fp8doctor.cli import options

if TYPE_CHECKING:
    from fp8doctor.cli.output import Outputs
    from fp8doctor.fleet.launched import Launched
    from fp8doctor.fleet.record import FleetReport

# Eight GPUs, together and then one at a time.
BUDGET_S = 110.0


class _OneWriter(click.Command):
    """Of the ranks of a launch, 0 alone writes: where it writes need not be writable for the others."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look at the files that are to be written in the process that writes them."""
        one = _launched()
        if one is not None and one.rank != 0:
            for param in self.params:
                if isinstance(param.type, options.OutputFile):
                    param.type = click.STRING
        return super().parse_args(ctx, args)


@click.command("fleet", cls=_OneWriter)
@click.argument("reports", nargs=-1, metavar="[REPORT]...", type=click.Path(path_type=Path))
@click.option(
    "--budget", type=options.Seconds(), metavar="SECONDS", help=f"Time for examining a node. [default: {BUDGET_S:.0f}]"
)
@click.option(
    "--wait",
    type=options.Seconds(),
    metavar="SECONDS",
    help="How long to wait for other nodes beyond that, as some start late. [default: 6]",
)
@options.python("Examine")
@click.option(
    "--reports",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Also keep each node's own report here, as NAME.json.",
)
@options.cache
@partial(options.output, fail_on="never", html=True)
def command(reports: tuple[Path, ...], folder: Path | None, **chosen: Any) -> int:
    """Compare GPUs and nodes: what differs, which one is slower than its kind, which did not answer.

    REPORTs are files that nodes wrote (fp8doctor --json FILE), or folders of them. Without any, this node is examined
    with all its GPUs; started by torchrun or srun, all nodes are, and rank 0 writes the report.
    """
    from fp8doctor import api
    from fp8doctor.cli import live_fleet
    from fp8doctor.cli.output import Outputs

    if reports:
        live = {
            "--budget": chosen["budget"],
            "--wait": chosen["wait"],
            "--python": chosen["python"],
            "--reports": folder,
        }
        if unused := next((flag for flag, value in live.items() if value is not None), None):
            raise click.UsageError(f"{unused} is for examining nodes, and REPORTs are merged: leave out one of them.")
        outputs = Outputs.of(chosen, *map(str, reports))
        return _deliver(api.merge(_files(reports)), outputs)
    one = _launched()
    budget_s = chosen["budget"] or BUDGET_S
    if one is not None and one.rank != 0:
        return live_fleet.follow(one, chosen, budget_s)
    outputs = Outputs.of(chosen)
    return live_fleet.lead(one, chosen, budget_s, folder, lambda found: _deliver(found, outputs))


def _launched() -> Launched | None:
    from fp8doctor.fleet.launched import NoLaunchError, launched

    try:
        return launched(os.environ)
    except NoLaunchError as error:
        raise click.ClickException(str(error)) from None


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
