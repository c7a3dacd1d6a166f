"""`fp8doctor model`: a model of one's own, in a process of its own."""

from __future__ import annotations

import re
from typing import Any

import click

from fp8doctor.cli import FAILED, options


def _factory(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", value):
        raise click.BadParameter(f"{value!r} is no package.module:factory.", ctx, param, "FACTORY")
    return value


def _inputs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not re.fullmatch(r"\d+(x\d+)*(:(u?int\d+|bool|float\d+(_\w+)?|bfloat16|half|long))?", value):
            raise click.BadParameter(f"{value!r} is no SHAPE:DTYPE, such as 1x4096:int64.", ctx, param)
    return values


@click.command("model")
@click.argument("factory", callback=_factory, metavar="FACTORY")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="SHAPE:DTYPE",
    callback=_inputs,
    help="What the model is called with, such as 1x4096:int64 or 8x3x64x64:bfloat16 (torch's names; without one the "
    "model's own type, or int64 if it begins with an embedding). Repeatable; without it the factory says.",
)
@click.option("--check-plan", is_flag=True, help="Put the best configuration into the whole model and measure it.")
@click.option(
    "--budget",
    type=options.Seconds(),
    metavar="SECONDS",
    help="Time for the whole run. [default: 180, with --check-plan 480]",
)
@options.python("Use")
@click.option("--gpu", type=click.IntRange(0, 1023), default=0, metavar="INDEX", help="The GPU that inputs lie on.")
@options.cache
@options.output
def command(factory: str, inputs: tuple[str, ...], **chosen: Any) -> int:
    """Look at a model of your own, run its step and say what holds it back.

    FACTORY is package.module:name, found from this folder or on the Python path: a callable that returns a
    torch.nn.Module, or (module, inputs), or (module, None, step). It runs in a process of its own.
    """
    from fp8doctor.cli import examination, output

    outputs = output.Outputs.of(chosen)
    examination.refuse_no_python(chosen["python"])
    report, whole = examination.model(chosen, factory, inputs, outputs.selection)
    status = outputs.deliver(report, whole)
    return status if whole else FAILED
