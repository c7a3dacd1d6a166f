"""`fp8doctor bench`: one workload in depth, configuration by configuration, or a pipeline of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fp8doctor.cli import FAILED, options

# The report in the folder of -o, which --resume goes on from and `fp8doctor diagnose` reads back.
REPORT = "report.json"


class OutputFolder(options.Type):
    """A folder that exists or can be made."""

    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The folder, made if it was not there: an hour of measuring must not end in "no such folder"."""
        path = Path(value)
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / REPORT).touch()
        except OSError as error:
            self.fail(f"cannot write into {value}: {error.strerror or error}.", param, ctx)
        if not (path / REPORT).stat().st_size:
            (path / REPORT).unlink()
        return path


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


@click.command("bench")
@click.argument("workload", required=False, callback=options.workload)
@click.option(
    "-o", "--output", "folder", type=OutputFolder(), metavar="FOLDER", help="Write report, tables and images here."
)
@click.option(
    "--rung", "rungs", multiple=True, callback=_rungs, metavar="CONFIG", help="Only this configuration. Repeatable."
)
@click.option("--full", is_flag=True, help="Build the model in its true depth, not two blocks of each kind.")
@click.option("--resume", is_flag=True, help="Keep the finished rungs of an earlier run into the same folder.")
@click.option(
    "--hit-rate", type=click.FloatRange(0, 1), metavar="SHARE", help="Share of the steps that your step cache skips."
)
@click.option("--pipeline", type=PipelineFolder(), metavar="FOLDER", help="Draw with this diffusers pipeline.")
@click.option("--prompt", help="What the pipeline draws.")
@click.option("--steps", type=click.IntRange(1, 1000), help="In how many steps.")
@click.option("--budget", type=options.Seconds(), metavar="SECONDS", help="Time for the whole run. [default: 1200]")
@click.option("--python", metavar="PATH", help="Use the packages of this interpreter or environment.")
@click.option("--gpu", type=click.IntRange(0, 1023), default=0, metavar="INDEX", help="The GPU to measure.")
@options.cache
@options.output
def command(workload: str | None, folder: Path | None, resume: bool, **chosen: Any) -> int:
    """Measure a WORKLOAD or a pipeline in every configuration that runs here.

    WORKLOAD is a built-in one (flux, llama-8b, qwen-image, train-454m, train-8b) or the config.json of a model of
    diffusers or transformers: whole steps of it are measured, with random weights.

    With --pipeline FOLDER, a diffusers pipeline on this disk draws whole images instead. Nothing is downloaded.
    """
    from fp8doctor.cli import examination, output, results

    if (workload is None) == (chosen["pipeline"] is None):
        raise click.UsageError("Name a workload, or a folder with --pipeline.")
    if chosen["pipeline"] is None and (chosen["prompt"] is not None or chosen["steps"] is not None):
        raise click.UsageError("--prompt and --steps go with --pipeline FOLDER.")
    if chosen["pipeline"] is not None and (chosen["full"] or chosen["hit_rate"] is not None):
        raise click.UsageError("--full and --hit-rate go with a workload; a pipeline is measured as it is.")
    if resume and folder is None:
        raise click.UsageError("--resume goes with -o FOLDER, the folder of the earlier run.")
    outputs = output.Outputs.of(chosen)
    earlier = folder / REPORT if folder and resume and (folder / REPORT).exists() else None
    report, whole = examination.bench(chosen, workload, folder, earlier)
    if folder is not None:
        results.write(report, folder, redact=outputs.redact)
    status = outputs.deliver(report, whole)
    return status if whole else FAILED
