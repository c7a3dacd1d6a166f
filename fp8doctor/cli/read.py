"""`fp8doctor read`: diagnose from a pasted text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from fp8doctor.cli import completing, options


@click.command("read")
@click.argument("file", shell_complete=completing.files)
@options.output
def command(file: str, **chosen: Any) -> int:
    """Diagnose from a pasted text in FILE; "-" reads standard input.

    Read are the environment reports of torch, vLLM, SGLang, transformers, accelerate, diffusers, DeepSpeed and
    xFormers, nvidia-smi, start-up logs, tracebacks, and fp8doctor's own reports; several in one text, and prose
    round them.
    """
    from fp8doctor import api, store
    from fp8doctor.cli.meant import PASTES, meant
    from fp8doctor.cli.output import Outputs
    from fp8doctor.reading.text import MAX_BYTES

    outputs = Outputs.of(chosen, file)
    try:
        if file == options.STDOUT:
            text = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(file).open("rb") as source:
                text = source.read(MAX_BYTES + 1)
        return outputs.deliver(api.read(text, selection=outputs.selection))
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the name
        raise click.ClickException(f"{file!r}: {error}") from None
    except api.NothingRecognisedError as error:
        raise click.ClickException(f"{file}: {error}{meant(file, 'text') or PASTES}") from None
    except store.NotAFactsFileError as error:
        raise click.ClickException(f"{file}: {error}") from None
