"""What does an exhibit look like as a chart? One Vega-Lite specification a kind; none of them knows a subject.

Colours are names of the page's own (CSS variables), so that one chart serves light and dark, screen and paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fp8doctor.reporting.exhibits import Exhibit, Row, ratio_sense, sense
from fp8doctor.reporting.text import cut, factor, number, one_line

Spec = dict[str, Any]
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
WIDTH = 520
BAR_STEP = 24
LONGEST_LABEL = 44
# What is drawn of more rows than this shows no more; the table below has them all.
MOST_ROWS = 400
# Of lines with more points than this, spreads are a band, and points no marks of their own.
MOST_MARKED = 24
INK, MUTED, GRID = "var(--ink)", "var(--muted)", "var(--grid)"
BASE, GAIN, LOSS, PART = "var(--base)", "var(--gain)", "var(--loss)", "var(--part)"
SERIES = [f"var(--series-{place})" for place in range(1, 7)]
# Told apart without colour, too.
SHAPES = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross"]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [10, 4]]
# Shades of a map: dark letters stand on each of them.
TONES = {
    "slower": "var(--slower)",
    "no difference": "var(--same)",
    "faster": "var(--faster)",
    "1.5x and more": "var(--much)",
}
_TONE_OF = {-1: "slower", 0: "no difference", 1: "faster", 2: "1.5x and more"}
_STEPS = ["var(--step-1)", "var(--step-2)", "var(--step-3)", "var(--step-4)", "var(--step-5)"]


def spec(exhibit: Exhibit) -> Spec | None:
    """The exhibit as a Vega-Lite specification with its data; None if its kind is not drawn or it has no rows."""
    drawers: dict[str, Callable[[Exhibit, list[Row]], Spec]] = {
        "bars": _bars,
        "heatmap": _heatmap,
        "lines": _lines,
        "roofline": _roofline,
    }
    rows = exhibit["rows"][:MOST_ROWS]
    if not rows or exhibit["kind"] not in drawers:
        return None
    return {"$schema": SCHEMA, "config": _CONFIG, **drawers[exhibit["kind"]](exhibit, rows)}


_FONT = "'Liberation Sans', Arial, Helvetica, sans-serif"  # what the library measures with, and its like
_CONFIG: Spec = {
    "background": "transparent",
    "padding": {"left": 16, "right": 16, "top": 5, "bottom": 5},
    "font": _FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal",
        "gridColor": GRID, "domainColor": MUTED, "tickColor": MUTED, "labelLimit": 320,
    },
    "legend": {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "labelLimit": 400, "orient": "top"},
    "text": {"color": INK, "fontSize": 12},
    # The page names each chart, and the table below it says what it shows.
    "aria": False,
}  # fmt: skip


def _bars(exhibit: Exhibit, rows: list[Row]) -> Spec:
    labels = _unlike([cut(one_line(row["label"]), LONGEST_LABEL) for row in rows])
    values = [
        {
            "label": label,
            "from": row.get("start") or 0,
            "to": (row.get("start") or 0) + row["value"],
            "text": _bar_text(row),
            "colour": _bar_colour(row),
        }
        for label, row in zip(labels, rows, strict=True)
    ]
    y = {"field": "label", "type": "nominal", "sort": None, "axis": {"title": None, "grid": False, "ticks": False}}
    x = {"type": "quantitative", "axis": {"title": one_line(exhibit["unit"]), "tickCount": 6}}
    longest = max(value["to"] for value in values) or 1
    return {
        "width": WIDTH,
        "height": {"step": BAR_STEP},
        "data": {"values": values},
        "encoding": {"y": y},
        "layer": [
            {
                "mark": {"type": "bar", "height": {"band": 0.7}},
                "encoding": {
                    # Room for the figures behind the longest bar.
                    "x": {"field": "from", **x, "scale": {"domain": [0, longest * 1.18], "nice": False}},
                    "x2": {"field": "to"},
                    "color": {"field": "colour", "type": "nominal", "scale": None},
                },
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 5},
                "encoding": {"x": {"field": "to", "type": "quantitative"}, "text": {"field": "text"}},
            },
        ],
    }


def _bar_text(row: Row) -> str:
    value = ("+" if row.get("start") else "") + number(row["value"])
    return value if row.get("ratio") is None else f"{value} · {factor(row['ratio'])}"


def _bar_colour(row: Row) -> str:
    if row.get("start"):
        return PART
    return {-1: LOSS, 0: BASE, 1: GAIN}[ratio_sense(row)]


def _unlike(labels: list[str]) -> list[str]:
    """The labels, equal ones told apart: a chart would draw them on one line."""
    seen: dict[str, int] = {}
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
    count: dict[str, int] = {}
    unlike = []
    for label in labels:
        count[label] = count.get(label, 0) + 1
        unlike.append(label if seen[label] == 1 else f"{label} ({count[label]})")
    return unlike


def _heatmap(exhibit: Exhibit, rows: list[Row]) -> Spec:
    is_factor = exhibit["unit"] == "x"
    most = max((row["value"] for row in rows if row["value"] is not None), default=0) or 1
    values = [
        {
            "x": cut(one_line(row["x"]), LONGEST_LABEL),
            "y": cut(one_line(row["y"]), LONGEST_LABEL),
            "text": _cell_text(row, is_factor),
            "tone": _tone(row, is_factor, most),
        }
        for row in rows
    ]
    tones = {name: colour for name, colour in TONES.items() if any(value["tone"] == name for value in values)}
    colour: Spec = {"field": "tone", "type": "nominal", "scale": None, "legend": None}
    if is_factor and tones:
        scale = {"domain": list(tones), "range": list(tones.values())}
        colour |= {"scale": scale, "legend": {"title": None, "symbolType": "square", "symbolStrokeWidth": 0}}
    axis = {"grid": False, "ticks": False, "domain": False, "labelAngle": 0, "title": None}
    return {
        "width": {"step": 78},
        "height": {"step": 34},
        "data": {"values": values},
        "encoding": {
            "x": {"field": "x", "type": "nominal", "sort": None, "axis": {**axis, "orient": "top"}},
            "y": {"field": "y", "type": "nominal", "sort": None, "axis": axis},
        },
        "layer": [
            {"mark": {"type": "rect", "stroke": "var(--page)", "strokeWidth": 2}, "encoding": {"color": colour}},
            {
                "mark": {"type": "text", "color": "var(--on-tone)"},
                "encoding": {"text": {"field": "text"}},
            },
        ],
    }


def _cell_text(row: Row, is_factor: bool) -> str:
    if row["value"] is None:
        return cut(one_line(row.get("note") or "-"), 12)
    return factor(row["value"]) if is_factor else number(row["value"])


def _tone(row: Row, is_factor: bool, most: float) -> str:
    if row["value"] is None:
        return "var(--page)"
    if is_factor:
        return _TONE_OF[sense(row)]
    return _STEPS[max(0, min(len(_STEPS) - 1, int(row["value"] / most * len(_STEPS))))]


def _lines(exhibit: Exhibit, rows: list[Row]) -> Spec:
    values = [{**row, "series": cut(one_line(row["series"]), LONGEST_LABEL)} for row in rows]
    names = list(dict.fromkeys(value["series"] for value in values))
    xs = sorted({row["x"] for row in rows})
    is_log = bool(exhibit.get("x_is_log")) and xs[0] > 0
    x_axis: Spec = {"title": one_line(exhibit.get("x_title") or ""), "grid": False}
    if is_log and len(xs) <= MOST_MARKED:
        x_axis["values"] = xs
    x = {"field": "x", "type": "quantitative", "axis": x_axis, "scale": {"type": "log"} if is_log else {"zero": False}}
    y = {"type": "quantitative", "scale": {"zero": False}, "axis": {"title": _unit(exhibit), "tickCount": 6}}
    many = len(xs) > MOST_MARKED
    spread: Spec = {"type": "area", "opacity": 0.25} if many else {"type": "rule", "strokeWidth": 2}
    line: Spec = {"type": "line", "strokeWidth": 1.5} if many else {"type": "line", "point": {"size": 55}}
    layers: list[Spec] = [
        {
            "transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}],
            "mark": spread,
            "encoding": {"x": x, "y": {"field": "low", **y}, "y2": {"field": "high"}, "color": _colour(names)},
        },
        {
            "mark": line,
            "encoding": {"x": x, "y": {"field": "y", **y}, "color": _colour(names), **_apart(names, many)},
        },
    ]
    if exhibit["unit"] == "x":
        one = {"mark": {"type": "rule", "color": MUTED, "strokeDash": [4, 3]}, "encoding": {"y": {"datum": 1}}}
        layers.insert(0, one)
    return {
        "width": WIDTH,
        "height": 220 if many else 280,
        "data": {"values": values},
        "layer": layers,
    }


def _unit(exhibit: Exhibit) -> str:
    return "factor" if exhibit["unit"] == "x" else one_line(exhibit["unit"])


def _colour(names: list[str]) -> Spec:
    scale = {"domain": names, "range": [SERIES[place % len(SERIES)] for place in range(len(names))]}
    legend: Spec | None = {"title": None, "columns": 1 if len(names) > 3 else 3, "symbolStrokeWidth": 2}
    return {"field": "series", "type": "nominal", "scale": scale, "legend": legend if len(names) > 1 else None}


def _apart(names: list[str], many: bool) -> Spec:
    """What tells the series apart besides colour."""
    if len(names) < 2:
        return {}
    legend = _colour(names)["legend"]
    domain = {"domain": names}
    dash = {
        "field": "series", "type": "nominal", "legend": legend,
        "scale": {**domain, "range": [DASHES[place % len(DASHES)] for place in range(len(names))]},
    }  # fmt: skip
    shape = {
        "field": "series", "type": "nominal", "legend": legend,
        "scale": {**domain, "range": [SHAPES[place % len(SHAPES)] for place in range(len(names))]},
    }  # fmt: skip
    return {"strokeDash": dash} if many else {"strokeDash": dash, "shape": shape}


def _roofline(exhibit: Exhibit, rows: list[Row]) -> Spec:
    """Both axes by factors: left of where a ceiling bends memory is the limit, right of it the product."""
    usable = [row for row in rows if row["flop_per_byte"] > 0 and row["tflops"] > 0]
    ceilings = [row for row in usable if row["ceiling"]]
    points = [{**row, "series": cut(one_line(row["series"]), LONGEST_LABEL)} for row in usable if not row["ceiling"]]
    names = list(dict.fromkeys(point["series"] for point in points))
    reach = [row["flop_per_byte"] for row in usable] or [1.0, 2.0]
    left, right = min(reach) / 1.5, max(reach) * 1.5
    roofs: list[Row] = []
    for row in ceilings:
        bend, top = row["flop_per_byte"], row["tflops"]
        name = f"{cut(one_line(row['label']), LONGEST_LABEL)}: {number(top)} TFLOP/s"
        roofs.append({"roof": name, "x": left, "y": top * left / bend})
        roofs += [{"roof": name, "x": bend, "y": top, "bend": name}, {"roof": name, "x": right, "y": top}]
    log = {"type": "log", "nice": False}
    x = {"type": "quantitative", "scale": log, "axis": {"title": "FLOP per byte moved", "tickCount": 6}}
    y = {"type": "quantitative", "scale": log, "axis": {"title": one_line(exhibit["unit"]), "tickCount": 6}}
    at_roof = {"x": {"field": "x", **x}, "y": {"field": "y", **y}}
    shapes = [SHAPES[place % len(SHAPES)] for place in range(len(names))]
    legend = {"title": None}
    return {
        "width": WIDTH,
        "height": 320,
        "layer": [
            {
                "data": {"values": roofs},
                "mark": {"type": "line", "color": MUTED, "strokeWidth": 1.5},
                "encoding": {**at_roof, "detail": {"field": "roof"}, "order": {"field": "x"}},
            },
            {
                "data": {"values": [roof for roof in roofs if "bend" in roof]},
                "mark": {"type": "text", "align": "right", "dx": -8},
                "encoding": {**at_roof, "text": {"field": "bend"}},
            },
            {
                "data": {"values": points},
                "mark": {"type": "point", "filled": True, "size": 55, "opacity": 0.9},
                "encoding": {
                    "x": {"field": "flop_per_byte", **x},
                    "y": {"field": "tflops", **y},
                    "color": {**_colour(names), "legend": legend},
                    "shape": {
                        "field": "series", "type": "nominal", "legend": legend,
                        "scale": {"domain": names, "range": shapes},
                    },
                },
            },
        ],
    }  # fmt: skip
