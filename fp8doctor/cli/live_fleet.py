"""`fp8doctor fleet` on the nodes themselves: what the rank that writes the report does, and what the others do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

if TYPE_CHECKING:
    from fp8doctor.fleet.launched import Launched
    from fp8doctor.fleet.record import FleetReport
    from fp8doctor.fleet.running import Examined, Gathered
    from fp8doctor.reporting.progress import Progress


def lead(
    one: Launched | None,
    chosen: dict[str, Any],
    budget_s: float,
    folder: Path | None,
    deliver: Callable[[FleetReport], int],
) -> int:
    """Examine this node, and gather the others if this is rank 0 of several; returns the exit status."""
    from fp8doctor import api
    from fp8doctor.fleet import running
    from fp8doctor.fleet.launched import node_name, nodes_of_job
    from fp8doctor.fleet.meeting import NoTorchError
    from fp8doctor.probing.interpreters import NoInterpreterError
    from fp8doctor.reporting.progress import Progress

    if folder is not None:
        _make(folder)
    if one is None and (nodes := nodes_of_job(os.environ)) > 1:
        click.echo(f"fp8doctor: this is one node of {nodes}; srun fp8doctor fleet examines them all", err=True)
    began_s = time.monotonic()
    try:
        with running.ended_once():
            with Progress(budget_s) as progress:
                examine = partial(_examine, chosen, budget_s, progress)
                if one is None or one.world == 1:
                    found = running.Gathered({one.name if one else node_name(os.environ): examine().report})
                else:
                    found = running.lead(
                        one, _messenger(chosen), budget_s + (chosen["wait"] or running.WAIT_S), examine
                    )
            if folder is not None:
                _keep(found, folder)
            return deliver(_merged(found, began_s))
    except (NoInterpreterError, NoTorchError) as error:
        raise click.ClickException(str(error)) from None
    except api.CannotExamineError as cannot:
        raise click.ClickException(str(cannot)) from None


def follow(one: Launched, chosen: dict[str, Any], budget_s: float) -> int:
    """Do the part of a rank other than 0, which never fails the launch: the report tells what it lacks."""
    from fp8doctor.fleet import running
    from fp8doctor.fleet.meeting import NoTorchError
    from fp8doctor.probing.interpreters import NoInterpreterError

    try:
        with running.ended_once():
            seconds = budget_s + (chosen["wait"] or running.WAIT_S)
            running.follow(one, _messenger(chosen), seconds, partial(_examine, chosen, budget_s, None))
    except (running.FollowerError, NoTorchError, NoInterpreterError) as error:
        if one.local_rank == 0:  # once a node
            click.echo(f"fp8doctor: rank {one.rank} on {one.name}: {error}", err=True)
    except KeyboardInterrupt:
        pass
    return 0


def _messenger(chosen: dict[str, Any]) -> str:
    """Which Python speaks to the other nodes."""
    from fp8doctor.fleet.meeting import messenger_python
    from fp8doctor.probing.interpreters import choose

    return messenger_python(choose(chosen["python"]).path)


def _examine(chosen: dict[str, Any], budget_s: float, progress: Progress | None) -> Examined:
    """The report of this node, also if it is interrupted."""
    from fp8doctor import api
    from fp8doctor.cli import limits
    from fp8doctor.fleet.running import OF_ONE_RANK, Examined
    from fp8doctor.model import Mode

    if (why := limits.why_no_children()) is not None:
        raise click.ClickException(why)
    for variable in OF_ONE_RANK:
        os.environ.pop(variable, None)
    mode: Any = "fleet" if "fleet" in get_args(Mode) else "default"
    wanted = api.Options(mode=mode, budget_s=budget_s, python=chosen["python"], keep_cache=not chosen["no_cache"])
    interrupted = False
    try:
        report = api.examine(wanted, progress.observe) if progress is not None else api.examine(wanted)
    except api.InterruptedExaminationError as error:
        report, interrupted = error.report, True
    return Examined(report.to_json(redact=not chosen["no_redact"]).encode(), interrupted)


def _merged(found: Gathered, began_s: float) -> FleetReport:
    """One report of all nodes."""
    from fp8doctor import api, store
    from fp8doctor.fleet.digest import NoNodeError, digest
    from fp8doctor.fleet.merging import merge
    from fp8doctor.fleet.record import Missing

    registry = api.knowledge()
    digests = []
    missing = list(found.missing)
    for name, report in found.reports.items():
        try:
            digests.append(digest(report, name, registry))
        except NoNodeError as error:
            missing.append(Missing(name, str(error)))
    return merge(digests, missing, store.now(), began_s)


def _make(folder: Path) -> None:
    """Make the folder before a run of minutes ends in "no permission"."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"cannot make the folder {folder}: {error.strerror or error}") from None
    if not os.access(folder, os.W_OK):
        raise click.ClickException(f"cannot write in {folder}: no permission.")


def _keep(found: Gathered, folder: Path) -> None:
    """Write each node's own report; what cannot be written costs no other, nor the report of all."""
    from fp8doctor.cli import output

    for name, report in found.reports.items():
        file = folder / f"{re.sub(r'[^A-Za-z0-9._#-]', '_', name)}.json"
        with contextlib.suppress(ValueError):
            text = json.dumps({**json.loads(report), "node": name}, indent=2, ensure_ascii=False)
            try:
                output.write(str(file), text + "\n")
            except click.ClickException as error:
                click.echo(f"fp8doctor: {error.format_message()}", err=True)
