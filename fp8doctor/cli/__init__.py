"""The command line. Nothing heavy is imported until a command needs it: `--help` and `--version` stay instant."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import click

# 0: nothing at or above --fail-on. 1: findings. 2: the doctor could not do its work, or was called wrongly.
FAILED = 2
# How like a known name (1: equal, as difflib counts) a mistyped one is at least; "dmo" is 0.86 like "demo".
CLOSE = 0.75


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit status."""
    from fp8doctor.cli import limits

    _look_here_first_for_our_modules()
    if (why := limits.why_not_python()) is not None:
        sys.exit(_complain(why))
    try:
        status = run(arguments)
    except Exception:  # a fault of the doctor's own: status 1 would mean findings
        import traceback

        with contextlib.suppress(OSError, AttributeError):  # standard error is full, or closed
            traceback.print_exc()
        status = _complain("this is a fault of its own; what stands above tells where")
    sys.exit(status)


def _look_here_first_for_our_modules() -> None:
    """A random.py in the working directory, or in PYTHONPATH, is for the person's programs and not for the doctor."""
    with contextlib.suppress(OSError):  # the working directory is gone
        folders = [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]  # noqa: PTH109
        theirs = {os.path.realpath(folder) for folder in folders}
        # In their own order behind all others: that is also how the doctor itself may be made importable.
        sys.path.sort(key=lambda entry: os.path.realpath(entry) in theirs)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; whatever goes wrong is one line on standard error and status 2."""
    import click

    from fp8doctor.cli.group import cli

    sys.stdout = sys.stdout or _nowhere()  # closed by whoever started us (`fp8doctor >&-`)
    sys.stderr = sys.stderr or _nowhere()
    try:
        status = cli.main(args=arguments, prog_name="fp8doctor", standalone_mode=False)
        sys.stdout.flush()
    except click.NoSuchOption as error:
        known = [name for one in error.ctx.command.params for name in one.opts] if error.ctx else []
        return _misused(f"No such option {error.option_name!r}{did_you_mean(error.option_name, known)}", error)
    except click.MissingParameter as error:
        from fp8doctor.cli.options import swallowed

        return _misused(f"{_one_line(error).rstrip('.')}{swallowed(error.ctx.params if error.ctx else {})}", error)
    except click.UsageError as error:
        return _misused(_one_line(error), error)
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


def did_you_mean(asked: str, known: Sequence[str]) -> str:
    """The one known name that is surely meant, as the end of a complaint; "" if none is close."""
    from difflib import get_close_matches

    close = get_close_matches(asked, known, 1, CLOSE)
    return f"; did you mean {close[0]}?" if close else ""


def _misused(line: str, error: click.UsageError) -> int:
    line = line if line.endswith("?") else line.rstrip(".") + "."
    return _complain(f"{line} See: {_help_of(error.ctx)}")


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
