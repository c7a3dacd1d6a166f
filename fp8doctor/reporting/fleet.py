"""How does a report of many nodes look in a terminal, in Markdown and as a page?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from fp8doctor.reporting.exhibits import caption, draw
from fp8doctor.reporting.fleet_words import sections
from fp8doctor.reporting.markdown import AROUND_JSON, LONGEST, LONGEST_READABLE, code_block, json_block, within
from fp8doctor.reporting.sections import drawn, in_markdown, show, width_of
from fp8doctor.reporting.smaller import first_within
from fp8doctor.reporting.text import one_line

View = dict[str, Any]
# Lines of a chart in Markdown.
PASTED_COLUMNS = 90


def render(view: View, console: Console, *, verbose: bool = False) -> None:
    """Print the report.

    Args:
        view: its document (`fp8doctor.api.fleet_view`).
        console: where to print; its width, colours and encoding are respected.
        verbose: every line of every list.
    """
    width = width_of(console)
    show(
        [_head(view), *drawn(sections(view, verbose=verbose), console, width), *_charts(view, width, verbose)], console
    )


def _head(view: View) -> Text:
    took = "" if view["elapsed_s"] is None else f" · {view['elapsed_s']:.0f} s"
    text = f"fp8doctor fleet {one_line(view['tool']['version'])} · {one_line(view['created'])[:16]}{took}"
    return Text(text, style="dim")


def _charts(view: View, width: int, verbose: bool) -> Iterator[Text]:
    """All of them if asked for; else those of the nodes, and of the fleet's own those in which something stands out."""
    odd = {one["measure"] for one in view["odd"]}
    for exhibit in view["exhibits"]:
        of_fleet = exhibit["id"].startswith("fleet-")
        told = verbose or not of_fleet or any(f"-{measure}-" in exhibit["id"] for measure in odd)
        if told and exhibit["id"] != "fleet-odd" and exhibit["rows"]:
            yield Text()
            yield Text(caption(exhibit), style="bold")
            yield from draw(exhibit, width)


def to_markdown(view: View) -> str:
    """The report as Markdown of less than 60,000 characters, its JSON folded below.

    Args:
        view: its document (`fp8doctor.api.fleet_view`).
    """
    readable = within(_markdown(view), LONGEST_READABLE)
    # Each node is nine tenths of the text, and stands in what --json writes.
    short = {**view, "nodes": [], "exhibits": [], "left_out": ["nodes", "exhibits"]}
    fitting = first_within(LONGEST - len(readable) - AROUND_JSON, view, short)
    return readable + json_block(fitting, "The report as JSON, for programs")


def to_html(view: View) -> str:
    """The report as one HTML file without scripts and without anything from elsewhere.

    Args:
        view: its document (`fp8doctor.api.fleet_view`).

    Raises:
        fp8doctor.reporting.html.MissingChartsError: if what draws it is not installed (the extra `html`).
    """
    from fp8doctor.reporting import html

    html.check()
    charts = [html.drawn_of(one) for one in view["exhibits"] if one["rows"]]
    page = html.environment().get_template("fleet.html.jinja")
    return page.render(view=view, style=html.style(), sections=sections(view), charts=charts).lstrip()


def _markdown(view: View) -> Iterator[str]:
    yield "### fp8doctor fleet\n"
    yield from in_markdown(sections(view))
    for exhibit in view["exhibits"]:
        if exhibit["id"] != "fleet-odd" and exhibit["rows"]:
            lines = "\n".join(line.plain for line in draw(exhibit, PASTED_COLUMNS))
            yield f"\n**{caption(exhibit)}**\n"
            yield code_block(lines, "")
