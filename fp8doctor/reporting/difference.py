"""How does a difference look in a terminal and in Markdown?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from fp8doctor.reporting.difference_words import sections
from fp8doctor.reporting.markdown import AROUND_JSON, LONGEST, LONGEST_READABLE, json_block, within
from fp8doctor.reporting.sections import drawn, in_markdown, show, width_of
from fp8doctor.reporting.smaller import first_within
from fp8doctor.reporting.text import one_line

View = dict[str, Any]


def render(view: View, console: Console, *, verbose: bool = False) -> None:
    """Print the difference.

    Args:
        view: its document (`fp8doctor.api.difference_view`).
        console: where to print; its width, colours and encoding are respected.
        verbose: also what stayed, and every case that was compared.
    """
    head = Text(f"fp8doctor diff {one_line(view['after']['tool_version'])}", style="dim")
    show([head, *drawn(sections(view, verbose=verbose), console, width_of(console))], console)


def to_markdown(view: View) -> str:
    """The difference as Markdown of less than 60,000 characters, its JSON folded below.

    Args:
        view: its document (`fp8doctor.api.difference_view`).
    """
    readable = within(_markdown(view), LONGEST_READABLE)
    # Each case is nine tenths of the text, and stands in what --json writes.
    whole = {**view, "times": {**view["times"], "cases": []}, "left_out": ["times.cases"]}
    fitting = first_within(LONGEST - len(readable) - AROUND_JSON, view, whole)
    return readable + json_block(fitting, "The difference as JSON, for programs")


def _markdown(view: View) -> Iterator[str]:
    yield "### fp8doctor diff\n"
    yield from in_markdown(sections(view))
