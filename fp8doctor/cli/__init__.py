"""The command line. Nothing heavy is imported until a command needs it: `--help` and `--version` stay instant."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TextIO

# 0: nothing at or above --fail-on. 1: findings. 2: the doctor could not do its work, or was called wrongly.
FAILED = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit status."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; whatever goes wrong is one line on standard error and status 2."""
    import click

    from fp8doctor.cli.group import cli

    sys.stdout = sys.stdout or _nowhere()  # closed by whoever started us (`fp8doctor >&-`)
    sys.stderr = sys.stderr or _nowhere()
    try:
        status = cli.main(args=arguments, prog_name="fp8doctor", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        return _complain(f"{_one_line(error).rstrip('.')}. See: {_help_of(error.ctx)}")
    except click.ClickException as error:
        return _complain(_one_line(error))
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted")
    except RecursionError:
        return _complain("the file is nested too deeply")
    except BrokenPipeError:  # whoever read has seen enough (`fp8doctor | head`)
        # The interpreter flushes once more at its end, and must find no closed pipe then.
        sys.stdout = _nowhere()
        return 0
    except OSError as error:  # standard output cannot take it (a full disk)
        sys.stdout = _nowhere()
        return _complain(f"cannot write: {error.strerror or error}")
    return status if isinstance(status, int) else 0


def _complain(line: str) -> int:
    with contextlib.suppress(OSError):
        print(f"fp8doctor: {line}", file=sys.stderr)  # noqa: T201
    return FAILED


def _one_line(error: Exception) -> str:
    import click

    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    return " ".join(text.split())


def _help_of(context: object) -> str:
    path = getattr(context, "command_path", None) or "fp8doctor"
    return f"{path} --help"


def _nowhere() -> TextIO:
    return open(os.devnull, "w")  # noqa: PTH123
