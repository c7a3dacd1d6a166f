"""What do fp8doctor.toml and pyproject.toml say of how findings are reported in this folder?"""

from __future__ import annotations

import importlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fp8doctor.cli import did_you_mean

# The first of a folder that has something for us counts.
OURS, SHARED = "fp8doctor.toml", "pyproject.toml"
KEYS = ("select", "ignore", "fail-on")
LEVELS = ("error", "warning", "never")
LARGEST_BYTES = 1 << 20
# The time that tomllib takes for a key grows with the square of its parts (32,000 of them: 19 s).
MOST_DOTS = 100
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'')


@dataclass(frozen=True)
class Settings:
    """What a file asks for, and its path from the working directory; nothing where there is none."""

    name: str = ""
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: str | None = None


class _UnreadableError(Exception):
    """A file that is no TOML, or none that is read; the text says why."""


class _ForeignError(_UnreadableError):
    """A file that somebody else put there, as anybody can in /tmp."""


def find() -> Settings:
    """The settings of the working directory, or of the nearest folder around it, up to a repository's root.

    Raises:
        click.ClickException: if a file that is ours, or our table, says what is none of our settings.
    """
    try:
        here = Path.cwd()
    except OSError:  # the folder is gone
        return Settings()
    for folder in (here, *here.parents):
        if (settings := _of(folder)) is not None:
            return settings
        if _is_there(folder / ".git"):
            break
    return Settings()


def _of(folder: Path) -> Settings | None:
    """What one folder's files say; None if they say nothing to us."""
    ours, shared = folder / OURS, folder / SHARED
    if _is_there(ours):
        try:
            return _checked(_parsed(ours), ours)
        except _ForeignError as error:
            _pass_over(ours, error)
        except _UnreadableError as error:
            raise click.ClickException(f"{ours}: {error}") from None
    if not _is_there(shared):
        return None
    try:
        tool = _parsed(shared).get("tool")
    except _UnreadableError as error:  # it is somebody else's file, and may have nothing for us
        _pass_over(shared, error)
        return None
    table = tool.get("fp8doctor") if isinstance(tool, dict) else None
    return None if table is None else _checked(table, shared)


def _pass_over(path: Path, why: _UnreadableError) -> None:
    click.echo(f"fp8doctor: {path} is passed over: {why}", err=True)


def _is_foreign(path: Path) -> bool:
    """Whether another user owns the file, or the link to it; root may. Windows is not asked."""
    if sys.platform == "win32":
        return False
    return not {path.lstat().st_uid, path.stat().st_uid} <= {0, os.geteuid()}


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder that may not be looked into
        return False


def _parsed(path: Path) -> dict[str, Any]:
    """The document; of a pyproject.toml that does not mention us, nothing."""
    try:
        foreign = _is_foreign(path)
        if foreign and path.name == OURS:
            raise _ForeignError("another user owns it")
        if not path.is_file():  # a pipe is waited for
            raise _UnreadableError("it is no file")
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise _UnreadableError(error.strerror or str(error)) from None
    if path.name == SHARED and b"fp8doctor" not in data:
        return {}
    if foreign:
        raise _ForeignError("another user owns it")
    if len(data) > LARGEST_BYTES:
        raise _UnreadableError(f"larger than {LARGEST_BYTES >> 20} MiB")
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        text = data.decode()
        if any(line.count(".") > MOST_DOTS for line in _QUOTED.sub("", text).splitlines()):
            raise _UnreadableError(f"a line has more than {MOST_DOTS} dots")
        document: dict[str, Any] = toml.loads(text)
    except ValueError as error:  # also what is no UTF-8
        raise _UnreadableError(f"no TOML: {' '.join(str(error).split())[:200]}") from None
    except RecursionError:
        raise _UnreadableError("no TOML: nested too deeply") from None
    return document


def _checked(table: Any, path: Path) -> Settings:
    """The table as settings, once each of its values is of the right kind and names what there is."""
    if (problem := _problem(table)) is not None:
        raise click.ClickException(f"{path}: {problem}")
    named = {key: tuple(one.strip() for one in table.get(key, ())) for key in ("select", "ignore")}
    from fp8doctor.cli.selecting import first_unknown

    for key, rules in named.items():
        if (strange := first_unknown(rules)) is not None:
            raise click.ClickException(f"{path}: {key}: {strange}")
    return Settings(os.path.relpath(path), named["select"], named["ignore"], table.get("fail-on"))


def _problem(table: Any) -> str | None:
    if not isinstance(table, dict):
        return "tool.fp8doctor is no table"
    for key, value in table.items():
        if key not in KEYS:
            hint = did_you_mean(key, KEYS) or f"; there is {', '.join(KEYS)}"
            return f"no setting {key[:60]!r}{hint}"
        if key == "fail-on":
            if value not in LEVELS:
                return f"fail-on is one of {', '.join(LEVELS)}"
        elif not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            return f'{key} is a list of rules, such as ["LIN004"]'
    return None
