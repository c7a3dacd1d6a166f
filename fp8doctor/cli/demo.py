"""`fp8doctor demo`: the report of a recorded real box, for a machine without a GPU."""

from __future__ import annotations

from typing import Any

import click

from fp8doctor.cli import options

# The H200 with everything installed: it shows the most.
FIRST = "h200"


@click.command("demo")
@click.argument("box", required=False)
@click.option("--list", "list_them", is_flag=True, help="List the recorded boxes.")
@options.output
def command(box: str | None, list_them: bool, **chosen: Any) -> int:
    """Show the report of a recorded BOX (a real machine's facts)."""
    from fp8doctor import api
    from fp8doctor.cli.output import Outputs, write

    boxes = recorded()
    if list_them:
        write(options.STDOUT, "".join(f"{name}\n" for name in boxes))
        return 0
    options.refuse_command_names(chosen, boxes, "demo ")
    outputs = Outputs.of(chosen)
    if not boxes:
        raise click.ClickException("this installation has no recorded box")
    name = box or next(iter(boxes))
    if name not in boxes:
        raise click.ClickException(f"no box {name!r}; there is {', '.join(boxes)}")
    outputs.deliver(api.diagnose(boxes[name], source="demo"))
    return 0


def recorded() -> dict[str, bytes]:
    """The facts of the recorded boxes by name, the first the one to show."""
    from importlib.resources import files

    found = {
        entry.name.removesuffix(".json"): entry.read_bytes()
        for entry in files("fp8doctor.boxes").iterdir()
        if entry.name.endswith(".json")
    }
    return dict(sorted(found.items(), key=lambda item: (item[0] != FIRST, item[0])))
