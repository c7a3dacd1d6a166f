"""What is worth looking at, drawn as lines of text: one function a kind of exhibit, none of them knows a subject."""

from __future__ import annotations

import textwrap
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
SPARKS = "▁▂▃▄▅▆▇█"
# More values of x than this are drawn, not listed.
MOST_LISTED = 24
NARROWEST_COLUMN = 10
MOST_LINES_OF_A_CELL = 6
# Two runs agree within 3 % (benchmarks/RESULTS.md): a factor in here is none.
NO_DIFFERENCE = (0.97, 1.03)
# How a factor is shown: by a sign, and by colours that are read on light and dark grounds.
_RATIO = {-1: "bold red", 0: "", 1: "bold green"}
_SIGNS = {-1: "-", 0: "=", 1: "+", 2: "+"}
_HEAT = {-1: "black on orange1", 0: "black on grey74", 1: "black on sky_blue1", 2: "black on deep_sky_blue1"}


def draw(exhibit: Exhibit, width: int) -> list[Text]:
    """The exhibit as lines of at most `width` columns; no lines if it has no rows."""
    drawers: dict[str, Callable[[Exhibit, int], list[Text]]] = {
        "bars": _bars,
        "table": _table,
        "heatmap": _heatmap,
        "lines": _lines,
        "roofline": _table,
    }
    rows = exhibit["rows"]
    return drawers[exhibit["kind"]](exhibit, width) if rows and exhibit["kind"] in drawers else []


def caption(exhibit: Exhibit) -> str:
    """The exhibit's title with its unit, unless the title says it; a factor ("x") needs none."""
    title, unit = one_line(exhibit["title"]), one_line(exhibit["unit"])
    return title if unit in ("", "x") or unit in title else f"{title}, {unit}"


def _bars(exhibit: Exhibit, width: int) -> list[Text]:
    rows: list[Row] = exhibit["rows"]
    values = [_bar_value(row) for row in rows]
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
            line.append(f" {ratio:>{ratio_width}}", style=_RATIO[ratio_sense(row)])
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


def ratio_sense(row: Row) -> int:
    """Of a bar's ratio, -1: slower, 0: no difference, or none is said, 1: faster."""
    ratio = row.get("ratio")
    return 0 if ratio is None else min(1, sense({**row, "value": ratio}))


def columns(exhibit: Exhibit) -> tuple[list[str], list[list[str]]]:
    """The exhibit's figures as a table: the names of its columns, and its rows as text."""
    rows: list[Row] = exhibit["rows"]
    unit = one_line(exhibit["unit"])
    if exhibit["kind"] == "table":
        names = list(dict.fromkeys(name for row in rows for name in row["cells"]))
        return [one_line(name) for name in names], [[_cell(row["cells"].get(name)) for name in names] for row in rows]
    if exhibit["kind"] == "bars":
        body = [
            [one_line(r["label"]), _bar_value(r), "" if r.get("ratio") is None else factor(r["ratio"])] for r in rows
        ]
        return (["", unit, "factor"], body) if any(line[2] for line in body) else (["", unit], [b[:2] for b in body])
    if exhibit["kind"] == "heatmap":
        xs, ys, found = _by_place(rows)
        body = [[one_line(y), *(_map_cell(found.get((x, y)), unit) for x in xs)] for y in ys]
        return ["", *map(one_line, xs)], body
    if exhibit["kind"] == "lines":
        series = list(dict.fromkeys(str(row["series"]) for row in rows))
        at = {(str(row["series"]), row["x"]): row for row in rows}
        body = [[number(x), *(_point(at.get((name, x))) for name in series)] for x in sorted({r["x"] for r in rows})]
        return [one_line(exhibit.get("x_title") or ""), *map(one_line, series)], body
    body = [
        [one_line(r["label"]), number(r["flop_per_byte"]), number(r["tflops"]), "ceiling" if r["ceiling"] else ""]
        for r in rows
    ]
    return ["", "FLOP/byte", unit, ""], body


def _table(exhibit: Exhibit, width: int) -> list[Text]:
    return grid(*columns(exhibit), width)


def _bar_value(row: Row) -> str:
    return ("+" if row.get("start") else "") + number(row["value"])


def _by_place(rows: list[Row]) -> tuple[list[str], list[str], dict[tuple[str, str], Row]]:
    xs = list(dict.fromkeys(str(row["x"]) for row in rows))
    ys = list(dict.fromkeys(str(row["y"]) for row in rows))
    return xs, ys, {(str(row["x"]), str(row["y"])): row for row in rows}


def _map_cell(row: Row | None, unit: str) -> str:
    if row is None:
        return ""
    if row["value"] is None:
        return one_line(row.get("note") or "-")
    return f"{factor(row['value']) if unit == 'x' else number(row['value'])}{_interval(row)}"


def _heatmap(exhibit: Exhibit, width: int) -> list[Text]:
    """Coloured cells; where there are no colours the shade beside each figure says the same."""
    rows: list[Row] = exhibit["rows"]
    xs, ys, found = _by_place(rows)
    most = max((row["value"] for row in rows if row["value"] is not None), default=0) or 1
    texts = [["", *map(one_line, xs)]]
    texts += [[one_line(y), *(_heat(found.get((x, y)), exhibit["unit"], most) for x in xs)] for y in ys]
    sizes = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = []
    for place, row in enumerate(texts):
        line = Text(row[0].ljust(sizes[0]), style="bold" if place == 0 else "")
        for x, text, size in zip(xs, row[1:], sizes[1:], strict=True):
            cell = found.get((x, ys[place - 1])) if place else None
            line.append(" ").append(f" {text:>{size}} ", style=_heat_style(cell, exhibit["unit"]))
        line.rstrip()
        line.truncate(width)
        lines.append(line)
    return lines


def _heat(row: Row | None, unit: str, most: float) -> str:
    if row is None:
        return ""
    if row["value"] is None:
        return one_line(row.get("note") or "-")
    if unit == "x":
        return f"{factor(row['value'])} {_SIGNS[sense(row)]}"
    shade = SHADES[max(0, min(len(SHADES) - 1, round(row["value"] / most * (len(SHADES) - 1))))]
    return f"{number(row['value'])} {shade}"


def _heat_style(row: Row | None, unit: str) -> str:
    return _HEAT[sense(row)] if row is not None and row["value"] is not None and unit == "x" else ""


def sense(row: Row) -> int:
    """Of a factor, -1: slower, 0: no difference, 1: faster, 2: faster by half and more."""
    if NO_DIFFERENCE[0] <= row["value"] <= NO_DIFFERENCE[1] or _holds_one(row):
        return 0
    return -1 if row["value"] < 1 else 1 if row["value"] < 1.5 else 2


def _holds_one(row: Row) -> bool:
    low, high = row.get("low"), row.get("high")
    return low is not None and high is not None and low <= 1 <= high


def _lines(exhibit: Exhibit, width: int) -> list[Text]:
    """A column of figures a series; what is too long to read is drawn as a line of blocks."""
    if len({row["x"] for row in exhibit["rows"]}) > MOST_LISTED:
        return _sparks(exhibit, width)
    return _table(exhibit, width)


def _point(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{number(row['y'])}{_interval(row)}"


def _interval(row: Row) -> str:
    low, high = row.get("low"), row.get("high")
    return "" if low is None or high is None else f" [{number(low)}, {number(high)}]"


def _sparks(exhibit: Exhibit, width: int) -> list[Text]:
    """Each series as one line of blocks from its least to its most, with both figures."""
    series = list(dict.fromkeys(str(row["series"]) for row in exhibit["rows"]))
    names = _column([one_line(name) for name in series], 40)
    lines = []
    for name, label in zip(series, names, strict=True):
        rows = sorted((row for row in exhibit["rows"] if str(row["series"]) == name), key=lambda row: row["x"])
        values = [row["y"] for row in rows]
        low = min(row["y"] if row.get("low") is None else row["low"] for row in rows)
        high = max(row["y"] if row.get("high") is None else row["high"] for row in rows)
        span = f"  {number(low)} to {number(high)} {one_line(exhibit['unit'])}"
        blocks = max(8, min(60, width - len(label) - len(span) - 2))
        picked = [values[at * len(values) // blocks] for at in range(min(blocks, len(values)))]
        spark = "".join(SPARKS[round((v - low) / ((high - low) or 1) * (len(SPARKS) - 1))] for v in picked)
        line = Text.assemble(label, "  ", (spark, "cyan"), span)
        line.truncate(width)
        lines.append(line)
    return lines


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, (int, float)) else one_line(value)


def grid(names: list[str], body: list[list[str]], width: int) -> list[Text]:
    """A plain table: a bold head, the first column to the left, figures to the right, long texts on several lines."""
    columns = list(zip(names, *body, strict=True))
    widths = [max(map(len, column)) for column in columns]
    # The widest column gives way until all fit: first where no word breaks by it. A line that still does not is cut.
    words = [max((len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    for least in (words, [0] * len(words)):
        spare = [max(0, size - max(word, NARROWEST_COLUMN)) for size, word in zip(widths, least, strict=True)]
        while sum(widths) + 2 * (len(widths) - 1) > width and any(spare):
            place = max(range(len(widths)), key=lambda at: (spare[at] > 0, widths[at]))
            widths[place] -= 1
            spare[place] -= 1
    is_figure = [column > 0 and _is_figure(body, column) for column in range(len(names))]
    lines = []
    for place, row in enumerate([names, *body]):
        cells = [_folded(text, size) for text, size in zip(row, widths, strict=True)]
        for depth in range(max(map(len, cells))):
            texts = [cell[depth] if depth < len(cell) else "" for cell in cells]
            parts = (
                text.rjust(size) if figures else text.ljust(size)
                for text, size, figures in zip(texts, widths, is_figure, strict=True)
            )
            line = Text("  ".join(parts).rstrip(), style="bold" if place == 0 else "")
            line.truncate(width)
            lines.append(line)
    return lines if any(names) else lines[1:]


def _folded(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` columns, the last of which says whether it was cut."""
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, max_lines=MOST_LINES_OF_A_CELL, placeholder="…") or [""]


def _is_figure(body: list[list[str]], column: int) -> bool:
    return all(not row[column] or row[column][0] in "+-.0123456789" for row in body)


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(1, width - 1)] + "…"


def _column(texts: list[str], limit: int) -> list[str]:
    width = min(limit, max(map(len, texts)))
    return [_fit(text, width).ljust(width) for text in texts]
