"""What is worth looking at, drawn as lines of text: one function a kind of exhibit, none of them knows a subject."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.text import Text

from fp8doctor.reporting.text import factor, number, one_line

Exhibit = dict[str, Any]
Row = dict[str, Any]
LONGEST_BAR = 44
SHORTEST_BAR = 8
# From nothing to the most; a heatmap's cell shows its figure, and this beside it.
SHADES = " ░▒▓█"


def draw(exhibit: Exhibit, width: int) -> list[Text]:
    """The exhibit as lines of at most `width` columns; no lines if it has no rows."""
    drawers: dict[str, Callable[[Exhibit, int], list[Text]]] = {
        "bars": _bars,
        "table": _table,
        "heatmap": _heatmap,
        "lines": _lines,
        "roofline": _roofline,
    }
    rows = exhibit["rows"]
    return drawers[exhibit["kind"]](exhibit, width) if rows and exhibit["kind"] in drawers else []


def caption(exhibit: Exhibit) -> str:
    """The exhibit's title with its unit, unless the title says it."""
    title, unit = one_line(exhibit["title"]), one_line(exhibit["unit"])
    return title if not unit or unit in title else f"{title}, {unit}"


def _bars(exhibit: Exhibit, width: int) -> list[Text]:
    rows: list[Row] = exhibit["rows"]
    values = [("+" if row.get("start") else "") + number(row["value"]) for row in rows]
    ratios = ["" if row.get("ratio") is None else factor(row["ratio"]) for row in rows]
    value_width = max(map(len, values))
    ratio_width = max(map(len, ratios))
    spare = width - value_width - ratio_width - 4
    labels = _column([one_line(row["label"]) for row in rows], max(8, min(40, spare - SHORTEST_BAR)))
    bar_width = min(LONGEST_BAR, spare - len(labels[0]))
    longest = max((row.get("start") or 0) + row["value"] for row in rows) or 1
    lines = []
    for row, label, value, ratio in zip(rows, labels, values, ratios, strict=True):
        line = Text(f"{label} {value:>{value_width}}")
        if bar_width >= SHORTEST_BAR:
            line.append("  ")
            line.append(_bar(row.get("start") or 0, row["value"], longest, bar_width), style=_bar_style(row))
        if ratio:
            line.append(f" {ratio:>{ratio_width}}", style=_ratio_style(row["ratio"]))
        line.rstrip()
        line.truncate(width)
        lines.append(line)
    return lines


def _bar(start: float, value: float, longest: float, width: int) -> str:
    begin = round(start / longest * width)
    end = max(round((start + value) / longest * width), begin + 1)
    if end > width:  # a sliver at the right end still shows
        begin, end = min(begin, width - 1), width
    return (" " * begin + "█" * (end - begin)).ljust(width)


def _bar_style(row: Row) -> str:
    return "yellow" if row.get("start") else "cyan"


def _ratio_style(ratio: float) -> str:
    return "bold green" if ratio > 1 else "bold red" if ratio < 1 else ""


def _table(exhibit: Exhibit, width: int) -> list[Text]:
    cells = [row["cells"] for row in exhibit["rows"]]
    names = list(dict.fromkeys(name for row in cells for name in row))
    return grid([one_line(n) for n in names], [[_cell(row.get(name)) for name in names] for row in cells], width)


def _heatmap(exhibit: Exhibit, width: int) -> list[Text]:
    rows: list[Row] = exhibit["rows"]
    xs = list(dict.fromkeys(str(row["x"]) for row in rows))
    ys = list(dict.fromkeys(str(row["y"]) for row in rows))
    found = {(str(row["x"]), str(row["y"])): row for row in rows}
    most = max((row["value"] for row in rows if row["value"] is not None), default=0) or 1

    def cell(x: str, y: str) -> str:
        row = found.get((x, y))
        if row is None:
            return ""
        if row["value"] is None:
            return one_line(row.get("note") or "-")
        shade = SHADES[max(0, min(len(SHADES) - 1, round(row["value"] / most * (len(SHADES) - 1))))]
        return f"{number(row['value'])} {shade}"

    return grid(["", *map(one_line, xs)], [[one_line(y), *(cell(x, y) for x in xs)] for y in ys], width)


def _lines(exhibit: Exhibit, width: int) -> list[Text]:
    rows: list[Row] = exhibit["rows"]
    series = list(dict.fromkeys(str(row["series"]) for row in rows))
    xs = sorted({row["x"] for row in rows})
    found = {(str(row["series"]), row["x"]): row["y"] for row in rows}
    body = [[number(x), *(_cell(found.get((name, x))) for name in series)] for x in xs]
    return grid(["", *map(one_line, series)], body, width)


def _roofline(exhibit: Exhibit, width: int) -> list[Text]:
    body = [
        [one_line(r["label"]), number(r["flop_per_byte"]), number(r["tflops"]), "ceiling" if r["ceiling"] else ""]
        for r in exhibit["rows"]
    ]
    return grid(["", "FLOP/byte", "TFLOP/s", ""], body, width)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, (int, float)) else one_line(value)


def grid(names: list[str], body: list[list[str]], width: int) -> list[Text]:
    """A plain table: a bold head, the first column to the left, figures to the right, cut where it would not fit."""
    columns = list(zip(names, *body, strict=True))
    widths = [max(map(len, column)) for column in columns]
    # The widest column gives way until all fit; a line that still does not is cut.
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > 6:
        widths[widths.index(max(widths))] -= 1
    is_figure = [column > 0 and _is_figure(body, column) for column in range(len(names))]
    lines = []
    for place, row in enumerate([names, *body]):
        cells = [
            _fit(text, size).rjust(size) if figures else _fit(text, size).ljust(size)
            for text, size, figures in zip(row, widths, is_figure, strict=True)
        ]
        line = Text("  ".join(cells).rstrip(), style="bold" if place == 0 else "")
        line.truncate(width)
        lines.append(line)
    return lines if any(names) else lines[1:]


def _is_figure(body: list[list[str]], column: int) -> bool:
    return all(not row[column] or row[column][0] in "+-.0123456789" for row in body)


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(1, width - 1)] + "…"


def _column(texts: list[str], limit: int) -> list[str]:
    width = min(limit, max(map(len, texts)))
    return [_fit(text, width).ljust(width) for text in texts]
