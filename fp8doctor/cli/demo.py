"""`fp8doctor demo`: the report of a recorded real box, for a machine without a GPU."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from fp8doctor.cli import completing, options

if TYPE_CHECKING:
    from fp8doctor.judging.report import Report

# The H200 with everything installed: it shows the most.
FIRST = "h200"
# Captions that are nearly the same for all boxes.
BESIDE = ("driver ", "triton ")


@click.command("demo")
@click.argument("box", required=False, shell_complete=completing.boxes)
@click.option("--list", "list_them", is_flag=True, help="List the recorded boxes.")
@partial(options.output, fail_on="never")
def command(box: str | None, list_them: bool, **chosen: Any) -> int:
    """Show the report of a recorded BOX (a real machine's facts)."""
    from fp8doctor import api
    from fp8doctor.cli.output import Outputs, write

    boxes = recorded()
    if list_them:
        wide = max(map(len, boxes), default=0)
        phrases = {name: phrase(api.diagnose(facts, source="demo")) for name, facts in boxes.items()}
        write(options.STDOUT, "".join(f"{name:{wide}}  {words}\n" for name, words in phrases.items()))
        return 0
    options.refuse_command_names(chosen, boxes, "demo ")
    outputs = Outputs.of(chosen)
    if not boxes:
        raise click.ClickException("this installation has no recorded box")
    name = box or next(iter(boxes))
    if name not in boxes:
        raise click.ClickException(f"no box {name!r}; there is {', '.join(boxes)}")
    return outputs.deliver(api.diagnose(boxes[name], source="demo", selection=outputs.selection))


def phrase(report: Report) -> str:
    """What was recorded: the GPU, the workload or pipeline that was timed, and the libraries that FP8 depends on."""
    gpu, *others = report.captions
    ladder, pipeline = (report.facts.get(key) or {} for key in ("ladder", "pipeline"))
    climbed = ((ladder.get("workload"), ladder.get("rungs")), (pipeline.get("class_name"), pipeline.get("rungs")))
    steps = "".join(f"{name}, {len(rungs)} rungs; " for name, rungs in climbed if name and rungs)
    libraries = ", ".join(caption for caption in others if not caption.startswith(BESIDE))
    return f"{gpu.partition(' · ')[0]}: {steps}{libraries}"


def recorded() -> dict[str, bytes]:
    """The facts of the recorded boxes by name, the first the one to show."""
    from importlib.resources import files

    return {name: files("fp8doctor.boxes").joinpath(f"{name}.json").read_bytes() for name in names()}


def names() -> list[str]:
    """The recorded boxes, the first the one to show."""
    from importlib.resources import files

    entries = (entry.name for entry in files("fp8doctor.boxes").iterdir())
    found = (name.removesuffix(".json") for name in entries if name.endswith(".json"))
    return sorted(found, key=lambda name: (name != FIRST, name))
