"""The command `fp8doctor` itself, and how its other commands are found: each in the module of its name."""

from __future__ import annotations

import importlib
from typing import Any

import click
from click.core import ParameterSource

import fp8doctor
from fp8doctor.cli import did_you_mean, options

COMMANDS = (
    "model",
    "bench",
    "collect",
    "diagnose",
    "read",
    "trace",
    "diff",
    "fleet",
    "explain",
    "rules",
    "demo",
    "schema",
    "completion",
)


class LazyGroup(click.Group):
    """A group whose commands are imported when one is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of the module `fp8doctor.cli.<name>`."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"fp8doctor.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name; options of the examination do not go with one."""
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"No such command {args[0]!r}{did_you_mean(args[0], COMMANDS)}", ctx)
        name, command, rest = super().resolve_command(ctx, args)
        given = [p for p in ctx.command.params if ctx.get_parameter_source(p.name or "") is ParameterSource.COMMANDLINE]
        if given and not ctx.resilient_parsing:  # that is, unless a shell asks for completions
            raise click.UsageError(f"{given[0].opts[0]} goes after the command: fp8doctor {name} {given[0].opts[0]}.")
        return name, command, rest


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 nothing at or above --fail-on, 1 findings, 2 the doctor could not do its work, or Ctrl-C.",
)
@click.version_option(fp8doctor.__version__, "-V", "--version", message="fp8doctor %(version)s")
@options.examination
@options.cache
@options.output
@click.pass_context
def cli(ctx: click.Context, /, **chosen: Any) -> int | None:
    """Say why FP8 is slow, missing or broken on this box, and what to use instead.

    Without a command: examine this box and report. Nothing is changed, no network is used.
    """
    if ctx.invoked_subcommand is not None:
        return None
    options.refuse_command_names(chosen, COMMANDS)
    from fp8doctor.cli import examination, output

    outputs = output.Outputs.of(chosen)
    return outputs.deliver(*examination.examine(chosen, outputs.selection))
