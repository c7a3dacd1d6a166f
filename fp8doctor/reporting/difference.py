"""What does a difference say, before anyone draws it, and how does it look in a terminal and in Markdown?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from fp8doctor.reporting.difference_words import Line, Section, sections
from fp8doctor.reporting.markdown import AROUND_JSON, LONGEST, LONGEST_READABLE, inline, json_block, within
from fp8doctor.reporting.smaller import first_within
from fp8doctor.reporting.text import can_show, one_line, to_ascii

View = dict[str, Any]
# Lines longer than this are hard to read; what is narrower cannot hold the columns.
WIDEST, NARROWEST = 120, 40
STYLES = {
    "slower": "bold red", "faster": "bold green", "error": "bold red", "warning": "bold yellow", "certain": "bold",
    "likely": "bold", "new": "bold yellow", "A": "bold", "B": "bold",
}  # fmt: skip


def render(view: View, console: Console, *, verbose: bool = False) -> None:
    """Print the difference.

    Args:
        view: its document (`fp8doctor.api.difference_view`).
        console: where to print; its width, colours and encoding are respected.
        verbose: also what stayed, and every case that was compared.
    """
    width = max(min(console.width, WIDEST), NARROWEST)
    ascii_only = not can_show(console.encoding)
    for line in _lines(view, console, width, verbose):
        if ascii_only:
            line = Text(to_ascii(line.plain), style=line.style)
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def _lines(view: View, console: Console, width: int, verbose: bool) -> Iterator[Text]:
    yield Text(f"fp8doctor diff {one_line(view['after']['tool_version'])}", style="dim")
    for section in sections(view, verbose=verbose):
        yield Text()
        head = Text.assemble((one_line(section.title), "bold"))
        if section.note:
            head.append(f"  {one_line(section.note)}", style="dim")
        yield from _wrapped(head, console, width, 2, Text())
        marks = max((len(line.mark) for line in section.lines), default=0)
        for line in section.lines:
            yield from _line(line, console, width, marks)


def _line(line: Line, console: Console, width: int, marks: int) -> Iterator[Text]:
    indent = 2 + marks + (2 if marks else 0)
    mark = Text(f"  {line.mark}", style=STYLES.get(line.mark, ""))
    yield from _wrapped(Text(one_line(line.text)), console, width, indent, mark)
    for more in line.more:
        yield from _wrapped(Text(one_line(more), style="dim"), console, width, indent + 2, Text())


def _wrapped(text: Text, console: Console, width: int, indent: int, mark: Text) -> Iterator[Text]:
    """The text in lines that fit, `indent` columns in (a head without a mark: from the second line on)."""
    is_head = not mark.plain and text.spans
    pieces = text.wrap(console, max(width - indent, 20), overflow="fold")
    for place, piece in enumerate(pieces):
        piece.rstrip()
        margin = mark if place == 0 else Text()
        yield Text.assemble(margin, " " * (0 if is_head and place == 0 else indent - margin.cell_len), piece)


def to_markdown(view: View) -> str:
    """The difference as Markdown of less than 60,000 characters, its JSON folded below.

    Args:
        view: its document (`fp8doctor.api.difference_view`).
    """
    readable = within(_markdown(sections(view)), LONGEST_READABLE)
    # Each case is nine tenths of the text, and stands in what --json writes.
    whole = {**view, "times": {**view["times"], "cases": []}, "left_out": ["times.cases"]}
    fitting = first_within(LONGEST - len(readable) - AROUND_JSON, view, whole)
    return readable + json_block(fitting, "The difference as JSON, for programs")


def _markdown(parts: Iterable[Section]) -> Iterator[str]:
    yield "### fp8doctor diff\n"
    for section in parts:
        note = f" ({inline(section.note)})" if section.note else ""
        yield f"\n**{inline(section.title)}**{note}\n"
        for line in section.lines:
            mark = f"**{inline(line.mark)}** " if line.mark else ""
            yield f"- {mark}{inline(line.text)}"
            yield from (f"  - {inline(more)}" for more in line.more)
