"""Which findings are told: by --select and --ignore, and by the settings of the folder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fp8doctor.cli.settings import Settings
    from fp8doctor.judging.silencing import Selection
    from fp8doctor.specs import Rule


def rules(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """The rules that an option names, its comma lists taken apart; one that there is not ends the command."""
    named = [one.strip() for value in values for one in value.split(",")]
    if (strange := first_unknown(named)) is not None:
        raise click.BadParameter(strange, ctx, param)
    return tuple(dict.fromkeys(named))


def first_unknown(named: Iterable[str]) -> str | None:
    """What is said of the first text that is neither an id nor a name nor the beginning of ids; None if all are."""
    named = list(named)
    if not named:  # then nothing is loaded that `--help` has no need of
        return None
    from fp8doctor import api
    from fp8doctor.judging.silencing import Choice

    known = list(api.knowledge().rules.values())
    return next(
        (no_such(one, known) for one in named if not any(Choice(one, "").holds(r.id, r.name) for r in known)), None
    )


def no_such(asked: str, known: list[Rule]) -> str:
    """The complaint that there is no such rule, with what may be meant."""
    from difflib import get_close_matches

    shown = asked if len(asked) <= 60 else f"{asked[:60]}..."
    names, ids = ([rule.name for rule in known], [rule.id for rule in known])
    close = get_close_matches(asked.lower(), names, 3, 0.5) + get_close_matches(asked.upper(), ids, 3, 0.7)
    hint = f"did you mean {', '.join(dict.fromkeys(close))}?" if close else "fp8doctor rules lists them."
    return f"no rule {shown!r}; {hint}"


def selection(selected: Iterable[str], ignored: Iterable[str], settings: Settings) -> Selection:
    """What is told of what is found: the command's --select goes before the file's, and --ignore adds to the file's.

    What the command selects is told again where a saved report silenced it.
    """
    from fp8doctor.judging.silencing import Choice, Selection

    by_command = tuple(Choice(one, f"--select {one}") for one in selected)
    by_file = tuple(Choice(one, settings.name) for one in settings.select)
    ignore = [Choice(one, f"--ignore {one}") for one in ignored]
    ignore += [Choice(one, settings.name) for one in settings.ignore]
    return Selection(by_command or by_file, tuple(ignore), again=by_command)
