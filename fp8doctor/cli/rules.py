"""`fp8doctor rules`: all that the doctor can find."""

from __future__ import annotations

import click

from fp8doctor.cli import options


@click.command("rules")
@click.option(
    "--json", "json_to", is_flag=False, flag_value=options.STDOUT, type=options.OutputFile(), metavar="[FILE]",
    help="The rules with their pages, as JSON.",
)  # fmt: skip
def command(json_to: str | None) -> int:
    """List the rules: id, name, highest severity, scope and title."""
    from fp8doctor import api
    from fp8doctor.cli import output

    rules = sorted(api.knowledge().rules.values(), key=lambda rule: rule.id)
    if json_to is not None:
        import json

        fields = ("id", "name", "scope", "settles", "explains", "title", "page")
        plain = [{**{name: getattr(rule, name) for name in fields}, "severity": rule.severity.value} for rule in rules]
        output.write(json_to, json.dumps(plain, indent=1, ensure_ascii=False) + "\n")
        return 0

    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for rule in rules:
        says = Text.assemble((rule.name, "bold"), f": {rule.title}")
        table.add_row(Text(rule.id, "bold"), Text(rule.severity.value), Text(rule.scope), says)
    console = output.console()
    with output.reader_may_leave():
        if console.is_terminal:
            console.print(table)
        else:  # for grep: a line a rule
            for rule in rules:
                line = f"{rule.id}  {rule.severity.value}  {rule.scope}  {rule.name}: {rule.title}"
                console.print(line, no_wrap=True, overflow="ignore", crop=False)
    return 0
