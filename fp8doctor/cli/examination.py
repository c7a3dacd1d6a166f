"""A live examination as the command line runs it: with progress, and with what was learnt until Ctrl-C."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fp8doctor import api
    from fp8doctor.judging.report import Report
    from fp8doctor.judging.silencing import Selection


# Loading a model of some billion parameters takes a minute.
MODEL_BUDGET_S = 180.0
# Compiling all of its blocks may take minutes more.
CHECK_BUDGET_S = 480.0


def examine(chosen: dict[str, Any], selection: Selection | None = None) -> tuple[Report, bool]:
    """Examine this box as the options say; returns the report, and whether the examination was whole."""
    from fp8doctor import api

    if chosen["quick"] and chosen["thorough"]:
        raise click.UsageError("--quick and --thorough exclude one another.")
    timed = "--for" if chosen["workload"] else "--shape" if chosen["shapes"] else None
    if chosen["quick"] and timed:
        raise click.UsageError(f"--quick times nothing, and {timed} says what to time: leave out one of them.")
    mode: Any = "quick" if chosen["quick"] else "thorough" if chosen["thorough"] else "default"
    options = api.Options(
        mode=mode,
        budget_s=chosen["budget"],
        python=chosen["python"],
        gpu=chosen["gpu"],
        shapes=tuple(chosen["shapes"]),
        workload=chosen["workload"],
        keep_cache=not chosen["no_cache"],
    )
    return _run(options, selection)


def bench(
    chosen: dict[str, Any], workload: str | None, folder: Path | None, earlier: Path | None, selection: Selection
) -> tuple[Report, bool]:
    """Measure a workload or a pipeline in depth; `earlier` is the report whose finished rungs are kept."""
    from fp8doctor import api

    return _run(
        api.Options(
            mode="bench",
            budget_s=chosen["budget"],
            python=chosen["python"],
            gpu=chosen["gpu"],
            workload=workload,
            keep_cache=not chosen["no_cache"],
            rungs=chosen["rungs"],
            full=chosen["full"],
            hit_rate=chosen["hit_rate"],
            pipeline=chosen["pipeline"],
            prompt=chosen["prompt"],
            steps=chosen["steps"],
            output_dir=str(folder.absolute()) if folder else None,
            resume=earlier,
        ),
        selection,
    )


def model(chosen: dict[str, Any], factory: str, inputs: tuple[str, ...], selection: Selection) -> tuple[Report, bool]:
    """Examine a model of the person's own; of the box, what needs no timing."""
    from fp8doctor import api

    return _run(
        api.Options(
            mode="quick",
            budget_s=chosen["budget"] or (CHECK_BUDGET_S if chosen["check_plan"] else MODEL_BUDGET_S),
            python=chosen["python"],
            gpu=chosen["gpu"],
            keep_cache=not chosen["no_cache"],
            model=factory,
            model_inputs=inputs,
            check_plan=chosen["check_plan"],
        ),
        selection,
    )


def refuse_no_python(python: str | None) -> None:
    """End the command if --python names no Python, before it changes anything."""
    from fp8doctor.probing.interpreters import NoInterpreterError, choose

    try:
        choose(python)
    except NoInterpreterError as error:
        raise click.ClickException(str(error)) from None


def _run(options: api.Options, selection: Selection | None) -> tuple[Report, bool]:
    from fp8doctor import api, store
    from fp8doctor.cli import last_report, limits
    from fp8doctor.probing.interpreters import NoInterpreterError
    from fp8doctor.reporting.progress import Progress

    if selection is not None:
        options = dataclasses.replace(options, selection=selection)
    if (why := limits.why_no_children()) is not None:
        raise click.ClickException(why)
    try:
        with _ended_like_ctrl_c(), Progress(options.budget_s or api.BUDGET_S[options.mode]) as progress:
            report = api.examine(options, progress.observe)
    except (NoInterpreterError, store.NotAFactsFileError) as error:
        raise click.ClickException(str(error)) from None
    except api.CannotExamineError as cannot:
        click.echo(f"fp8doctor: {cannot}", err=True)
        return cannot.report, False
    except api.InterruptedExaminationError as interrupted:
        click.echo("fp8doctor: interrupted; this is what was learnt until then", err=True)
        return interrupted.report, False
    if options.keep_cache:
        # Once the command has delivered it: nothing that fails here may cost the report.
        click.get_current_context().call_on_close(partial(last_report.keep, report))
    return report, True


@contextlib.contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Have SIGTERM (`timeout 30 fp8doctor`, a stopped container) end an examination as Ctrl-C does: with its report."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
