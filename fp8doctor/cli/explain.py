"""`fp8doctor explain`: what is behind a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.text import Text

    from fp8doctor.specs import Rule


@click.command("explain")
@click.argument("rule", metavar="ID|NAME")
def command(rule: str) -> int:
    """Explain a rule: what it means, why it costs time, what to do, and the sources."""
    from fp8doctor import api
    from fp8doctor.cli import output

    knowledge = api.knowledge()
    found = knowledge.find_rule(rule)
    if not found:
        raise click.ClickException(_unknown(rule, list(knowledge.rules.values())))
    console = output.console()
    with output.reader_may_leave():
        for place, one in enumerate(found):
            if place:
                console.rule()
            for line in _page(one):
                console.print(line)
    return 0


def _page(rule: Rule) -> list[Text]:
    from rich.text import Text

    head = Text.assemble((f"{rule.id} {rule.name}", "bold"), (f"   {rule.severity.value} at most, {rule.scope}", "dim"))
    lines = [head, Text()]
    for paragraph in rule.page.split("\n\n"):
        # A paragraph is flowed to the terminal's width; a list and a code block keep their lines.
        keeps_lines = any(line.startswith((" ", "-", "*")) for line in paragraph.splitlines())
        text = paragraph if keeps_lines else " ".join(paragraph.split())
        title, colon, rest = text.partition(":")
        is_section = (
            bool(colon) and len(title) < 40 and title[:1].isupper() and "\n" not in title and title.count(" ") < 5
        )
        lines.append(Text.assemble((title + colon, "bold cyan"), rest) if is_section else Text(text))
        lines.append(Text())
    if rule.explains:
        lines += [Text(f"Explains also: {', '.join(rule.explains)}", "dim"), Text()]
    return lines[:-1]


def _unknown(asked: str, rules: list[Rule]) -> str:
    from difflib import get_close_matches

    names = [rule.name for rule in rules] + [rule.id for rule in rules]
    close = get_close_matches(asked.lower(), names, 3, 0.5) + get_close_matches(asked.upper(), names, 3, 0.7)
    hint = f"did you mean {', '.join(dict.fromkeys(close))}?" if close else "fp8doctor rules lists them."
    return f"no rule {asked!r}; {hint}"
