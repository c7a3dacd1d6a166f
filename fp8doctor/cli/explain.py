"""`fp8doctor explain`: what is behind a rule, and what it found in the last report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fp8doctor.cli import completing, selecting

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from fp8doctor.reporting.rule_page import Page

# Lines longer than this are hard to read, however wide the terminal is.
WIDEST = 120


@click.command("explain")
@click.argument("rule", required=False, metavar="ID|NAME", shell_complete=completing.rules)
def command(rule: str | None) -> int:
    """Explain a rule: what it means, why it costs time, what to do, and the sources.

    What the last examination on this machine found of it is told, too. Without ID|NAME: its first finding.
    """
    from fp8doctor import api
    from fp8doctor.cli import last_report, output
    from fp8doctor.reporting import rule_page

    last = last_report.read()
    asked = rule if rule is not None else _first(last)
    knowledge = api.knowledge()
    found = knowledge.find_rule(asked)
    if not found:
        raise click.ClickException(selecting.no_such(asked, list(knowledge.rules.values())))
    console = output.console()
    with output.reader_may_leave():
        for place, one in enumerate(found):
            if place:
                console.rule()
            for line in _lines(rule_page.page(one, knowledge, last), console):
                line.rstrip()
                console.print(line)
    return 0


def _first(last: dict[str, Any] | None) -> str:
    if last is None or not last["findings"]:
        why = "no report of this machine is kept yet" if last is None else "the last report found nothing"
        raise click.UsageError(f"Name a rule, ID|NAME: {why}; fp8doctor rules lists them.")
    return str(last["findings"][0]["id"])


def _lines(page: Page, console: Console) -> Iterator[Text]:
    from rich.text import Text

    from fp8doctor.reporting import rule_page

    width = min(console.width, WIDEST)
    yield Text.assemble((f"{page.id} {page.name}", "bold"), (f"   {page.note}", "dim"))
    yield Text()
    yield from Text(page.title).wrap(console, width)
    for title, text in page.sections:
        yield Text()
        first, *others = text.split("\n\n")
        head = Text(f"{title}:", style="bold cyan")
        if rule_page.between(text) == " ":
            yield from _paragraph(first, console, width, head)
        else:
            yield head
            yield from _paragraph(first, console, width)
        for paragraph in others:
            yield Text()
            yield from _paragraph(paragraph, console, width)


def _paragraph(text: str, console: Console, width: int, head: Text | None = None) -> Iterator[Text]:
    """A paragraph flowed to the width, the items of a list each by itself; code keeps its lines."""
    from rich.text import Text

    lines = text.splitlines()
    if any(line.startswith((" ", "```", "*")) for line in lines):
        yield from map(Text, lines)
    elif text.startswith("- "):
        for line in lines:
            for place, piece in enumerate(Text(line.removeprefix("- ")).wrap(console, width - 2)):
                yield Text.assemble("  " if place else "- ", piece)
    else:
        flowed = Text(" ".join(lines))
        yield from (Text.assemble(head, " ", flowed) if head else flowed).wrap(console, width)
