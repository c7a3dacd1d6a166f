"""How do titled lists of lines look in a terminal and in Markdown?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from fp8doctor.reporting.markdown import inline
from fp8doctor.reporting.text import can_show, one_line, to_ascii

# Lines longer than this are hard to read; what is narrower cannot hold the columns.
WIDEST, NARROWEST = 120, 40
STYLES = {
    "slower": "bold red", "faster": "bold green", "error": "bold red", "warning": "bold yellow", "certain": "bold",
    "likely": "bold", "new": "bold yellow", "A": "bold", "B": "bold",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One thing said: a mark in front of it, and what stands below it."""

    text: str
    mark: str = ""
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """Lines under one title."""

    title: str
    lines: tuple[Line, ...]
    note: str = ""


def width_of(console: Console) -> int:
    """How wide lines may be on this console."""
    return max(min(console.width, WIDEST), NARROWEST)


def show(lines: Iterable[Text], console: Console) -> None:
    """Print lines that fit already, in signs that the console can carry."""
    ascii_only = not can_show(console.encoding)
    for line in lines:
        if ascii_only:
            line = Text(to_ascii(line.plain), style=line.style)
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def drawn(sections: Iterable[Section], console: Console, width: int) -> Iterator[Text]:
    """The sections as lines of a terminal, an empty one before each."""
    for section in sections:
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


def in_markdown(sections: Iterable[Section]) -> Iterator[str]:
    """The sections as pieces of Markdown."""
    for section in sections:
        note = f" ({inline(section.note)})" if section.note else ""
        yield f"\n**{inline(section.title)}**{note}\n"
        for line in section.lines:
            mark = f"**{inline(line.mark)}** " if line.mark else ""
            yield f"- {mark}{inline(line.text)}"
            yield from (f"  - {inline(more)}" for more in line.more)
