"""`fp8doctor bench`: one workload in depth, configuration by configuration, or a pipeline of one's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fp8doctor.cli import FAILED, completing, options

if TYPE_CHECKING:
    from fp8doctor.cli.earlier import Earlier

# The report in the folder of -o, which --resume goes on from and `fp8doctor diagnose` reads back.
REPORT = "report.json"
# What looking at a box takes at least: the first rungs on an H200 began after 14 to 21 s (tests/boxes/h200-bench-*).
LOOKING_S = 15.0


def _refuse_too_short(budget_s: float | None, images: bool) -> None:
    from fp8doctor import api
    from fp8doctor.checks.ladder import probe as ladder
    from fp8doctor.checks.pipeline import probe as pipeline

    first_s, end_s = (
        (pipeline.LEAST_RUNG_S, pipeline.RESERVE_S) if images else (ladder.LEAST_RUNG_S["bench"], ladder.RESERVE_S)
    )
    end_s += api.RESERVE_S
    least_s = LOOKING_S + first_s + end_s
    if budget_s is not None and budget_s < least_s:
        raise click.UsageError(
            f"--budget {budget_s:g}: bench needs {least_s:.0f} s at least: {LOOKING_S:.0f} to look at the box, "
            f"{first_s:.0f} to begin a configuration and {end_s:.0f} to end in order."
        )


def _make(folder: Path) -> None:
    """Make the folder if it is not there: an hour of measuring must not end in "no such folder"."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / REPORT).touch()
    except OSError as error:
        raise click.ClickException(f"cannot write into {folder}: {error.strerror or error}") from None
    if not (folder / REPORT).stat().st_size:
        (folder / REPORT).unlink()


def _to_go_on_with(folder: Path, resume: bool, **asked: Any) -> Earlier | None:
    """The earlier run in the folder; one that this run would mix with its own, or overwrite, ends the command."""
    from fp8doctor.cli.earlier import Earlier

    earlier = Earlier.of(folder)
    if earlier is None:
        return None
    differs = earlier.differs(**asked)
    if not resume:
        raise earlier.in_the_way(differs)
    if differs is not None:
        raise click.ClickException(f"{differs}.")
    if (gone := earlier.gpu_is_gone()) is not None:
        raise click.ClickException(f"--resume: {gone}. Nothing was changed.")
    click.echo(f"fp8doctor: kept {len(earlier.finished)} finished rungs of {folder}", err=True)
    return earlier


def _rungs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    from fp8doctor.checks.ladder.slugs import NoSuchConfigError, config_of

    for value in values:
        try:
            config_of(value)
        except NoSuchConfigError as error:
            raise click.BadParameter(str(error), ctx, param) from None
    return values


class PipelineFolder(options.Type):
    """A folder that holds a whole pipeline of diffusers."""

    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Its path, once it was read: an examination must not begin with a part missing."""
        from fp8doctor.checks.pipeline.folder import NoPipelineError, read_folder

        try:
            read_folder(value)
        except NoPipelineError as error:
            self.fail(f"{value} cannot be measured: {error}.", param, ctx)
        return str(Path(value).absolute())


class ReportFileOrFolder(options.ReportFile):
    """A file for the report by the ending of its name; anything else is a folder for all results."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path of a file as text, that of a folder as a path."""
        place = Path(value)
        return super().convert(value, param, ctx) if options.form_of(value) and not place.is_dir() else place


_saved: Any = click.option(
    "-o", "--output", "files", type=ReportFileOrFolder(), multiple=True, metavar="FOLDER",
    help="Write report, tables and images here; or the report into a FILE (.json, .md, .html, .txt). Repeatable.",
)  # fmt: skip


def _apart(places: tuple[str | Path, ...]) -> tuple[tuple[str, ...], Path | None]:
    """The files among the places of -o, and the folder."""
    folders = [place for place in places if isinstance(place, Path)]
    if len(folders) > 1:
        raise click.UsageError(f"-o takes one FOLDER, not both {folders[0]} and {folders[1]}.")
    return tuple(place for place in places if isinstance(place, str)), next(iter(folders), None)


@click.command("bench")
@click.argument("workload", required=False, callback=options.workload, shell_complete=completing.workloads)
@click.option(
    "--rung", "rungs", multiple=True, callback=_rungs, metavar="CONFIG", shell_complete=completing.rungs,
    help="Only this configuration. Repeatable.",
)  # fmt: skip
@click.option("--full", is_flag=True, help="Build the model in its true depth, not two blocks of each kind.")
@click.option("--resume", is_flag=True, help="Keep the finished rungs of an earlier run into the same folder.")
@click.option(
    "--hit-rate", type=click.FloatRange(0, 1), metavar="SHARE", help="Share of the steps that your step cache skips."
)
@click.option(
    "--pipeline", type=PipelineFolder(), metavar="FOLDER", shell_complete=completing.folders,
    help="Draw with this diffusers pipeline.",
)  # fmt: skip
@click.option("--prompt", help="What the pipeline draws.")
@click.option("--steps", type=click.IntRange(1, 1000), help="In how many steps.")
@click.option("--budget", type=options.Seconds(), metavar="SECONDS", help="Time for the whole run. [default: 1200]")
@options.python("Use")
@click.option("--gpu", type=click.IntRange(0, 1023), default=0, metavar="INDEX", help="The GPU to measure.")
@options.cache
@partial(options.output, saved=_saved)
def command(workload: str | None, files: tuple[str | Path, ...], resume: bool, **chosen: Any) -> int:
    """Measure a WORKLOAD or a pipeline in every configuration that runs here.

    WORKLOAD is a built-in one (flux, llama-8b, qwen-image, train-454m, train-8b) or the config.json of a model of
    diffusers or transformers: whole steps of it are measured, with random weights.

    With --pipeline FOLDER, a diffusers pipeline on this disk draws whole images instead. Nothing is downloaded.
    """
    from fp8doctor.cli import examination, output, results

    chosen["files"], folder = _apart(files)
    if (workload is None) == (chosen["pipeline"] is None):
        raise click.UsageError(f"Name a workload, or a folder with --pipeline{options.swallowed(chosen)}.")
    if chosen["pipeline"] is None and (chosen["prompt"] is not None or chosen["steps"] is not None):
        raise click.UsageError("--prompt and --steps go with --pipeline FOLDER.")
    if chosen["pipeline"] is not None and (chosen["full"] or chosen["hit_rate"] is not None):
        raise click.UsageError("--full and --hit-rate go with a workload; a pipeline is measured as it is.")
    if resume and folder is None:
        raise click.UsageError("--resume goes with -o FOLDER, the folder of the earlier run.")
    outputs = output.Outputs.of(chosen)
    _refuse_too_short(chosen["budget"], chosen["pipeline"] is not None)
    examination.refuse_no_python(chosen["python"])
    earlier = None
    if folder is not None:
        asked = {name: chosen[name] for name in ("full", "pipeline", "prompt", "steps")}
        earlier = _to_go_on_with(folder, resume, workload=workload, **asked)
        _make(folder)
    saved = folder / REPORT if folder and resume and (folder / REPORT).exists() else None
    report, whole = examination.bench(chosen, workload, folder, saved, outputs.selection)
    if earlier is not None and (why := earlier.lost(report)) is not None:
        click.echo(f"fp8doctor: --resume: {why}; {folder} was left as it was", err=True)
        whole = False
    elif folder is not None:
        results.write(report, folder, redact=outputs.redact)
    status = outputs.deliver(report, whole)
    return status if whole else FAILED
