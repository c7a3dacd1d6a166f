"""`fp8doctor diagnose`: judge facts that were saved here or elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from fp8doctor.cli import completing, options


@click.command("diagnose")
@click.argument("file", shell_complete=completing.files)
@options.output
def command(file: str, **chosen: Any) -> int:
    """Judge a FILE of `fp8doctor collect`, or a saved report; "-" reads standard input.

    FILE may be the folder that `fp8doctor bench -o FOLDER` wrote.
    """
    from fp8doctor import api, store
    from fp8doctor.cli.bench import REPORT
    from fp8doctor.cli.meant import meant
    from fp8doctor.cli.output import Outputs

    outputs = Outputs.of(chosen, file)
    place = Path(file)
    if (place / REPORT).is_file():
        place /= REPORT
    elif place.is_dir():
        raise click.ClickException(f"{file} has no {REPORT}; a folder that bench -o wrote has one")
    try:
        saved = sys.stdin.buffer.read() if file == options.STDOUT else place
        report = api.diagnose(saved, selection=outputs.selection)
    except store.NotAFactsFileError as error:
        raise click.ClickException(f"{error}{meant(file, 'report')}") from None
    return outputs.deliver(report)
