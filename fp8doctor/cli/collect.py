"""`fp8doctor collect`: the facts of this box, to be judged elsewhere."""

from __future__ import annotations

from typing import Any

import click

from fp8doctor.cli import FAILED, options


@click.command("collect")
@click.option(
    "-o", "--output", "place", type=options.OutputFile(), required=True, metavar="FILE", help='Where to; "-": stdout.'
)
@options.examination
@options.cache
@options.redaction
def command(place: str, **chosen: Any) -> int:
    """Examine this box and save its facts, for `fp8doctor diagnose`."""
    from fp8doctor import api
    from fp8doctor.cli import examination, output

    report, whole = examination.examine(chosen)
    output.write(place, api.facts_to_json(report, redact=not chosen["no_redact"]))
    return 0 if whole else FAILED
